"""The butterfly layer in torch, against its dense matrix."""

import math

import numpy as np
import pytest
import torch
from dense_layers import randomised
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from sepdeploy.layers import (
    DebutConv2d,
    DebutLinear,
    convolution_like,
    graph_nodes,
    make_linear,
    project_convolution,
    project_linear,
)
from sepdeploy.models.analysis.layer_table import layer_records
from sepdeploy.records import InputSpec
from sepdeploy.structures import DebutConvSpec, parse_structure
from sepdeploy.structures.debut.chain import read_chain, widths, with_steps
from sepdeploy.training.penalties.regularizers import condition_term

FC1 = "(2,2,64)(2,2,32)(1,2,32)(2,2,16)(16,25,1)"


@st.composite
def debut_layers(draw):
    sides = st.integers(1, 4)
    chain = with_steps(draw(st.lists(st.tuples(sides, sides), min_size=1, max_size=4)))
    crop = draw(st.booleans())
    sizes = (max(1, w - crop) for w in (widths(chain)[0], widths(chain)[-1]))
    return randomised(DebutLinear(chain, *sizes, draw(st.booleans())), draw(st.integers(0, 99)))


def dense(layer):
    return layer.spec.dense_matrix([f.detach().numpy() for f in layer.factors()])


@settings(deadline=None, max_examples=40)
@given(debut_layers(), st.integers(0, 3))
def test_forward_is_the_dense_product(layer, samples):
    x = torch.randn(samples, layer.spec.in_features, dtype=torch.float64)
    W = dense(layer)
    with torch.no_grad():
        expected = x.numpy() @ W.T + (0 if layer.bias is None else layer.bias.numpy())
        np.testing.assert_allclose(layer(x), expected, atol=1e-9)
        np.testing.assert_allclose(layer.dense_weight(), W, atol=1e-10)
        with graph_nodes():
            np.testing.assert_allclose(layer(x), expected, atol=1e-9)


@settings(deadline=None, max_examples=10)
@given(debut_layers())
def test_gradients_are_those_of_finite_differences(layer):
    x = torch.randn(2, layer.spec.in_features, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda x, *_: layer(x), (x, *layer.parameters()), fast_mode=True
    )


@pytest.mark.parametrize("text", [FC1, "(4,4,64)(8,4,8)(8,8,1)", "(3,2,20)(2,2,10)(10,32,1)"])
def test_a_fresh_layer_keeps_the_variance_for_any_s(text):
    torch.manual_seed(0)
    chain = read_chain(text)
    layer = DebutLinear(chain, bias=False)
    y = layer(torch.randn(2000, widths(chain)[0])).detach()
    assert float(y.var()) == pytest.approx(2, rel=0.1)  # the gain of a ReLU
    assert all(float(condition_term(f.detach())) < 1e-5 for f in layer.regularized())


def test_projection_is_kept_with_the_error_of_every_sweep():
    torch.manual_seed(0)
    linear = nn.Linear(400, 128)
    layer = project_linear(linear, parse_structure(f"debut:{FC1}", (400,), 128))
    W = linear.weight.detach().numpy()
    error = np.linalg.norm(dense(layer) - W) / np.linalg.norm(W)
    assert layer.projection_error == pytest.approx(error, abs=1e-5)
    assert layer.sweep_errors[0] > layer.sweep_errors[-1] == pytest.approx(error, abs=1e-5)
    assert torch.equal(layer.bias, linear.bias)
    assert DebutLinear.from_dense(linear, layer.spec.chain).spec == layer.spec
    assert DebutLinear.from_dense(linear).spec.weight_params * 16 <= 400 * 128


def test_offered_forms_lose_less_with_more_weights():
    weight = torch.randn(64, 96, dtype=torch.float64)
    found = sorted((spec.weight_params, lost) for spec, lost in DebutLinear.forms(weight))
    assert len(found) >= 4
    assert found[0][1] > found[-1][1]
    assert all(0 < lost < 1 for _, lost in found[:-1])
    assert found[-1] == (64 * 96, 0)  # the matrix itself


def test_a_plain_name_makes_a_layer():
    layer = make_linear(parse_structure("debut", (784,), 1024))
    assert layer.spec.weight_params * 16 <= 784 * 1024
    assert layer(torch.randn(2, 784)).shape == (2, 1024)


CONVOLUTIONS = [
    ("debut:(2,2,8)(2,6,4)(1,2,4)(4,3,1)", (8, 16, 3)),  # the paper's, whose first s is no k²
    ("debut:(2,2,8)(2,6,4)(1,2,4)(4,3,1)+taps", (8, 16, 3)),
    ("debut:(4,4,4)(2,2,2)(2,9,1)", (8, 16, 3)),
    ("debut:20x", (64, 64, 3)),
    ("debut:5x", (64, 32, 1)),
    ("debut:(8,9,1)", (1, 8, 3)),
]
GEOMETRIES = [
    {"padding": 1},
    {"stride": 2, "padding": 1, "padding_mode": "circular"},
    {"padding": "same", "dilation": 2, "padding_mode": "reflect", "bias": False},
]


@pytest.mark.parametrize(("text", "sizes"), CONVOLUTIONS)
@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_a_convolution_is_the_plain_one_of_its_dense_weight(text, sizes, geometry):
    torch.manual_seed(0)
    if sizes[2] == 1:
        geometry = {k: v for k, v in geometry.items() if k == "stride"}
    plain = nn.Conv2d(*sizes, **geometry)
    layer = project_convolution(plain, text)
    assert isinstance(layer, DebutConv2d)
    W = layer.dense_weight().detach()
    error = float((W - plain.weight.detach()).norm() / plain.weight.detach().norm())
    assert layer.projection_error == pytest.approx(error, abs=1e-5)
    with torch.no_grad():
        plain.weight.copy_(W)
        x = torch.randn(2, sizes[0], 11, 11)
        assert torch.allclose(layer(x), plain(x), atol=1e-5)
    kernels = [tuple(part.weight.shape) for part in layer.factors]
    assert DebutConvSpec.from_factors(kernels).chain == layer.spec.chain
    assert sum(p.numel() for p in layer.parameters()) == layer.spec.params("bias" not in geometry)
    again = convolution_like(plain, layer.spec.saved)
    assert again is not None
    assert again.spec == layer.spec


def test_the_first_factor_is_depthwise_where_its_s_is_the_kernel():
    layer = project_convolution(nn.Conv2d(8, 16, 3, padding=1), "debut:(4,4,4)(2,2,2)(2,9,1)")
    assert layer.patches is None
    assert (layer.factors[0].groups, layer.factors[0].kernel_size) == (8, (3, 3))


def test_the_norm_of_a_convolution_with_patches_is_bounded():
    """What takes the patches apart stretches by up to k, which the bound has to know."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(8, 16, 3, padding=1), nn.Flatten(), nn.Linear(16 * 64, 3))
    net[0] = project_convolution(net[0], "debut:(2,2,8)(2,6,4)(1,2,4)(4,3,1)")
    records = layer_records(net, InputSpec((8, 8, 8)))
    bound = math.prod(r.sigma_max for r in records if r.part_of)
    x = torch.randn(1, 8, 8, 8)
    bias = net[0](torch.zeros_like(x)).detach()
    for _ in range(20):  # towards the leading direction
        x = x.clone().requires_grad_()
        y = net[0](x) - bias
        (x,) = torch.autograd.grad(y.square().sum() / 2, x)
        x = x / x.norm()
    assert float((net[0](x) - bias).detach().norm()) <= bound * (1 + 1e-5)
