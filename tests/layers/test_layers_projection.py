"""Layers made from dense ones, in other types and with shapes that they choose."""

import math

import numpy as np
import pytest
import torch
from dense_layers import numpy_bias, randomised
from torch import nn

from sepdeploy.errors import BadInput
from sepdeploy.layers import (
    KronLinear,
    LowRankConv2d,
    LowRankLinear,
)


@pytest.mark.parametrize("bias", [True, False])
def test_from_dense_copies_bias_and_reports_the_error(bias):
    torch.manual_seed(0)
    linear = nn.Linear(30, 28, bias=bias)
    kron = KronLinear.from_dense(linear, (6, 5), (4, 7), 2)
    low = LowRankLinear.from_dense(linear, 5)
    for layer in (kron, low):
        assert (layer.bias is None) == (not bias)
        if bias:
            assert torch.equal(layer.bias, linear.bias)
        left = (linear.weight - layer.dense_weight()).norm() / linear.weight.norm()
        assert layer.projection_error == pytest.approx(left.item(), abs=1e-5)
        assert 0 < layer.projection_error < 1
    U, V = low.U, low.V
    assert torch.allclose(U.T @ U, torch.eye(5), atol=1e-5)
    assert torch.allclose(V.T @ V, torch.eye(5), atol=1e-5)


@pytest.mark.parametrize("modes", [(4, 7), (2, 3, 4), (5, 1)])
def test_a_bias_becomes_the_nearest_sum_over_the_modes(modes):
    torch.manual_seed(0)
    linear = nn.Linear(8, math.prod(modes)).double()
    shape = (2,) * (len(modes) - 1) + (8 // 2 ** (len(modes) - 1),)
    layer = KronLinear.from_dense(linear, shape, modes, bias="sum")
    places = np.indices(modes).reshape(len(modes), -1)
    design = np.hstack([np.eye(n)[at] for n, at in zip(modes, places, strict=True)])
    bias = linear.bias.detach().numpy()
    nearest = design @ np.linalg.lstsq(design, bias, rcond=None)[0]
    np.testing.assert_allclose(numpy_bias(layer), nearest, atol=1e-12)
    assert sum(b.numel() for b in layer.biases) == sum(modes) == design.shape[1]
    again = KronLinear.from_dense(linear, shape, modes, bias="sum")
    with torch.no_grad():
        again.take_bias(layer.whole_bias())
    np.testing.assert_allclose(numpy_bias(again), nearest, atol=1e-12)


def test_a_sum_without_a_bias_is_none():
    layer = KronLinear.from_dense(nn.Linear(6, 6, bias=False), (2, 3), (3, 2), bias="sum")
    assert layer.whole_bias() is None
    assert layer.spec.params(bias=False) == layer.spec.weight_params == 6 + 6


def test_from_dense_is_exact_where_it_can_be():
    true = randomised(KronLinear((6, 5), (4, 7)))
    linear = nn.Linear(30, 28).double()
    with torch.no_grad():
        linear.weight.copy_(true.dense_weight())
        linear.bias.copy_(true.bias)
    for layer in (
        KronLinear.from_dense(linear, (6, 5), (4, 7)),
        LowRankLinear.from_dense(linear, 28),
    ):
        assert layer.projection_error < 1e-6
        x = torch.randn(3, 30, dtype=torch.float64)
        assert layer(x).dtype == torch.float64
        assert torch.allclose(layer(x), linear(x), atol=1e-5)
    assert KronLinear((6, 5), (4, 7)).projection_error is None


def test_from_dense_of_a_zero_layer_is_zero():
    linear = nn.Linear(6, 6)
    nn.init.zeros_(linear.weight)
    for layer in (
        KronLinear.from_dense(linear, (2, 3), (3, 2)),
        LowRankLinear.from_dense(linear, 2),
    ):
        assert layer.projection_error == 0
        assert torch.allclose(layer(torch.randn(2, 6)), linear.bias.expand(2, 6))


def test_from_dense_refuses_other_sizes_and_nan():
    linear = nn.Linear(6, 6)
    with pytest.raises(BadInput):
        KronLinear.from_dense(linear, (2, 2), (3, 2))
    with pytest.raises(BadInput):
        LowRankLinear.from_dense(linear, 7)
    with torch.no_grad():
        linear.weight[0, 0] = math.nan
    with pytest.raises(BadInput, match="NaN"):
        KronLinear.from_dense(linear, (2, 3), (3, 2))


MAKERS = {
    "kron": lambda **at: KronLinear((3, 2), (4, 5), 2, **at),
    "lowrank": lambda **at: LowRankLinear(6, 20, 3, **at),
    "conv": lambda **at: LowRankConv2d(4, 6, (3, 3), (2, 3), **at),
}


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_layers_are_made_in_a_type_and_on_a_device(kind, dtype):
    layer = MAKERS[kind](dtype=dtype)
    assert {p.dtype for p in layer.parameters()} == {dtype}
    assert {p.device.type for p in MAKERS[kind](device="meta").parameters()} == {"meta"}


def test_a_layer_of_doubles_is_projected_in_doubles():
    torch.manual_seed(0)
    product = torch.kron(torch.randn(4, 3).double(), torch.randn(5, 2).double())
    linear = nn.Linear(6, 20).double()
    linear.weight.data = product
    for layer in (KronLinear.from_dense(linear), LowRankLinear.from_dense(linear, 6)):
        error = (layer.dense_weight() - product).norm() / product.norm()
        assert error < 1e-12
        assert {p.dtype for p in layer.parameters()} == {torch.float64}
    conv = nn.Conv2d(4, 6, 3).double()
    whole = LowRankConv2d.from_dense(conv, (4, 6)).dense_weight()
    assert (whole - conv.weight).norm() / conv.weight.norm() < 1e-12


def test_modes_are_chosen_where_none_are_given():
    torch.manual_seed(0)
    linear = nn.Linear(36, 48)
    linear.weight.data = torch.kron(torch.randn(8, 6), torch.randn(6, 6))
    layer = KronLinear.from_dense(linear)
    assert (layer.spec.in_shape, layer.spec.out_shape) == ((6, 6), (8, 6))
    assert layer.projection_error < 1e-6
    assert KronLinear.from_dense(nn.Linear(784, 100), terms=3).spec.terms == 3
    assert KronLinear.from_dense(nn.Linear(7, 13)).spec.dense_macs == 91  # two primes


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_ranks_are_chosen_where_none_are_given(dtype):
    torch.manual_seed(0)
    linear = nn.Linear(30, 60, dtype=dtype)
    half = LowRankLinear.from_dense(linear)
    assert half.spec.rank == 10  # 10 · (30 + 60) is half of 30 · 60
    linear.weight.data = torch.randn(60, 3, dtype=dtype) @ torch.randn(3, 30, dtype=dtype)
    low = LowRankLinear.from_dense(linear)
    error = (low.dense_weight() - linear.weight).norm() / linear.weight.norm()
    assert (low.spec.rank, low.U.dtype) == (3, dtype)
    assert error < 10 * torch.finfo(dtype).eps
    assert low(torch.rand(2, 30, dtype=dtype)).shape == (2, 60)
    linear.weight.data.zero_()
    assert LowRankLinear.from_dense(linear).spec.rank == 1
    assert LowRankLinear.from_dense(nn.Linear(1, 1)).spec.rank == 1


@pytest.mark.parametrize("kernel", [1, 3, (1, 5)])
def test_ranks_of_a_convolution_are_chosen_where_none_are_given(kernel):
    torch.manual_seed(0)
    conv = nn.Conv2d(16, 24, kernel, padding="same", dtype=torch.float64)
    layer = LowRankConv2d.from_dense(conv)
    assert 1 < layer.stored_weights <= conv.weight.numel() / 2
    assert {p.dtype for p in layer.parameters()} == {torch.float64}
    given = LowRankConv2d.from_dense(conv, layer.ranks)
    torch.testing.assert_close(layer(x := torch.rand(1, 16, 7, 7).double()), given(x))
    exact = LowRankConv2d.from_dense(conv, (2, 3)).dense_weight().detach()
    conv.weight.data = exact
    assert (LowRankConv2d.from_dense(conv).dense_weight() - exact).norm() < 1e-6 * exact.norm()
