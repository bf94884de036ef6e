import copy
import math

import numpy as np
import pytest
import torch
from dense_layers import numpy_bias, numpy_dense, randomised
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from sepdeploy.attacks.gradient import frozen
from sepdeploy.errors import BadInput
from sepdeploy.layers import (
    CONVOLUTION_LAYERS,
    LAYERS,
    KronLinear,
    LowRankLinear,
    graph_nodes,
    is_structured,
    make_linear,
    project_linear,
)
from sepdeploy.structures import CONVOLUTIONS, STRUCTURES, DenseSpec, KronSpec, LowRankSpec

biases = st.sampled_from([True, False, "sum"])


@st.composite
def kron_layers(draw):
    d = draw(st.integers(2, 4))
    modes = st.tuples(*[st.integers(1, 5)] * d)
    layer = KronLinear(draw(modes), draw(modes), draw(st.integers(1, 3)), draw(biases))
    return randomised(layer, draw(st.integers(0, 99)))


@st.composite
def lowrank_layers(draw):
    n_in, n_out = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    rank = draw(st.integers(1, min(n_in, n_out)))
    layer = LowRankLinear(n_in, n_out, rank, draw(st.booleans()))
    return randomised(layer, draw(st.integers(0, 99)))


any_layer = st.one_of(kron_layers(), lowrank_layers())


def expected(layer, rows):
    return rows @ numpy_dense(layer).T + numpy_bias(layer)


@settings(deadline=None)
@given(any_layer, st.integers(0, 3))
def test_forward_is_the_dense_product(layer, samples):
    x = torch.randn(samples, layer.spec.in_features, dtype=torch.float64)
    with torch.no_grad():
        np.testing.assert_allclose(layer(x), expected(layer, x.numpy()), atol=1e-9)
        np.testing.assert_allclose(layer.dense_weight(), numpy_dense(layer), atol=1e-10)
        with graph_nodes():
            np.testing.assert_allclose(layer(x), expected(layer, x.numpy()), atol=1e-9)


@settings(deadline=None, max_examples=30)
@given(kron_layers(), st.booleans())
def test_layouts_in_are_layouts_out(layer, tracing):
    spec = layer.spec
    x = torch.randn(6, *spec.in_shape, dtype=torch.float64)
    rows = expected(layer, x.reshape(6, -1).numpy())
    context = graph_nodes() if tracing else torch.no_grad()
    with torch.no_grad(), context:
        assert tuple(layer(x).shape) == (6, *spec.out_shape)
        np.testing.assert_allclose(layer(x).reshape(6, -1), rows, atol=1e-9)
        tokens = layer(x.reshape(2, 3, spec.in_features))
        assert tuple(tokens.shape) == (2, 3, spec.out_features)
        np.testing.assert_allclose(tokens.reshape(6, -1), rows, atol=1e-9)
        one = layer(x[0].reshape(-1))
        np.testing.assert_allclose(one, rows[0], atol=1e-9)


def test_an_input_need_not_be_contiguous():
    layer = randomised(KronLinear((3, 4), (2, 5)))
    x = torch.randn(4, 3, 7, dtype=torch.float64).permute(2, 1, 0)
    with torch.no_grad():
        got = layer(x).reshape(7, -1)
    np.testing.assert_allclose(got, expected(layer, x.reshape(7, 12).numpy()), atol=1e-9)


def test_lowrank_takes_tokens():
    layer = randomised(LowRankLinear(6, 5, 2))
    x = torch.randn(2, 3, 6, dtype=torch.float64)
    with torch.no_grad():
        np.testing.assert_allclose(
            layer(x).reshape(6, 5), expected(layer, x.reshape(6, 6).numpy()), atol=1e-10
        )


@pytest.mark.parametrize(
    "layer",
    [
        KronLinear((3, 2), (2, 4), 2),
        KronLinear((4, 3), (2, 5)),  # first mode first
        KronLinear((2, 3, 2), (3, 2, 2), 2),
        LowRankLinear(5, 4, 3),
    ],
    ids=["kron*2", "first mode first", "three modes", "lowrank"],
)
def test_gradients_and_second_derivatives(layer):
    layer = randomised(layer)
    names = [n for n, _ in layer.named_parameters()]

    def run(x, *values):
        return torch.func.functional_call(layer, dict(zip(names, values, strict=True)), (x,))

    x = torch.randn(3, layer.spec.in_features, dtype=torch.float64, requires_grad=True)
    inputs = (x, *layer.parameters())
    assert torch.autograd.gradcheck(run, inputs)
    assert torch.autograd.gradgradcheck(run, inputs)


def test_factors_have_the_layout_of_the_spec():
    for layer in (KronLinear((2, 3, 4), (4, 3, 2), 2), LowRankLinear(5, 4, 3)):
        factors = layer.factors()
        assert tuple(tuple(f.shape) for f in factors) == layer.spec.factor_shapes
        arrays = [f.detach().numpy() for f in factors]
        np.testing.assert_allclose(
            layer.spec.dense_matrix(arrays), layer.dense_weight().detach(), atol=1e-5
        )


def test_parameter_names():
    kron = KronLinear((2, 3), (4, 5))
    assert list(kron.state_dict()) == ["bias", "factors.0", "factors.1"]
    assert set(LowRankLinear(3, 2, 1).state_dict()) == {"U", "S", "V", "bias"}
    assert list(KronLinear((2, 3), (4, 5), bias=False).state_dict()) == ["factors.0", "factors.1"]
    assert sum(p.numel() for p in kron.parameters()) == kron.spec.params(bias=True)


@pytest.mark.parametrize("shape", [(5, 7), (5, 3, 3), (2, 5, 2, 4), (7,), ()])
def test_inputs_of_other_shapes_are_refused(shape):
    for layer in (KronLinear((2, 4), (3, 3)), LowRankLinear(8, 3, 2)):
        with pytest.raises(BadInput, match="expected"):
            layer(torch.zeros(shape))


@pytest.mark.parametrize(
    "make",
    [
        lambda: KronLinear((2, 4), (3, 3, 1)),
        lambda: KronLinear((8,), (9,)),
        lambda: KronLinear((2, 4), (3, 3), terms=0),
        lambda: LowRankLinear(4, 3, 5),
        lambda: LowRankLinear(4, 0, 1),
    ],
)
def test_layers_that_make_no_sense(make):
    with pytest.raises(BadInput):
        make()


def test_copies_are_independent():
    for layer in (KronLinear((2, 4), (3, 3)), LowRankLinear(8, 9, 2)):
        twin = copy.deepcopy(layer)
        x = torch.randn(2, 8)
        assert torch.allclose(layer(x), twin(x), atol=1e-6)
        with torch.no_grad():
            next(iter(twin.parameters())).add_(1)
        assert not torch.allclose(layer(x), twin(x), atol=1e-3)


class CountOps(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("terms", [1, 2, 5])
@pytest.mark.parametrize("out_shape", [(8, 8), (2, 8)], ids=["last first", "first first"])
def test_terms_cost_no_further_products(terms, out_shape):
    layer = KronLinear((8, 8), out_shape, terms)
    with torch.no_grad(), CountOps() as ops:
        layer(torch.randn(4, 64))
    products = [n for n in ops.names if n in ("mm", "bmm", "addmm", "baddbmm", "matmul", "einsum")]
    assert sorted(products) == ["bmm", "mm"]


PRODUCTS = ("mm", "bmm", "addmm", "baddbmm", "addbmm", "einsum")


@pytest.mark.parametrize(
    "layer",
    [KronLinear((8, 8), (6, 8)), KronLinear((8, 8), (8, 6), 3), KronLinear((4, 4, 4), (4, 4, 4)),
     LowRankLinear(64, 48, 5)],
    ids=["kron", "three terms", "three modes", "lowrank"],
)  # fmt: skip
def test_a_pass_for_the_input_alone_computes_no_parameter_gradients(layer):
    def products(x):
        with CountOps() as ops:
            layer(x).sum().backward()
        return sum(name in PRODUCTS for name in ops.names)

    with torch.no_grad(), CountOps() as ops:
        layer(torch.randn(4, 64))
    forward = sum(name in PRODUCTS for name in ops.names)
    x = torch.randn(4, 64, requires_grad=True)
    with frozen(layer):
        assert products(x) == 2 * forward  # each product once more, for the gradient of the input
    assert x.grad is not None
    assert all(p.grad is None for p in layer.parameters())
    assert products(x) == 3 * forward


def test_autocast_and_vmap():
    layer = KronLinear((4, 4), (4, 4), 2)
    x = torch.randn(3, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = layer(x)
        low.float().sum().backward()
    assert torch.allclose(low.float(), layer(x), atol=0.2)
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in layer.parameters())
    batched = torch.func.vmap(layer)(x.reshape(3, 1, 16))
    assert torch.allclose(batched.reshape(3, 16), layer(x), atol=1e-5)


def test_layers_print_their_shapes():
    assert "8x8 → 4x6, terms=2, bias=True" in repr(KronLinear((8, 8), (4, 6), 2))
    assert repr(LowRankLinear(8, 5, 2, bias=False)) == "LowRankLinear(8 → 5, rank=2, bias=False)"


# --- initial values ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [
        lambda: KronLinear((16, 24), (20, 16)),
        lambda: KronLinear((16, 24), (32, 30), 3),
        lambda: KronLinear((6, 8, 8), (8, 6, 6)),
        lambda: LowRankLinear(384, 300, 40),
    ],
)
@pytest.mark.parametrize("gain", [1.0, math.sqrt(2)])
def test_initial_values_keep_the_variance(make, gain):
    torch.manual_seed(0)
    x = torch.randn(400, 384)
    ratios = []
    for _ in range(5):
        layer = make()
        layer.reset_parameters(gain=gain)
        with torch.no_grad():
            ratios.append(layer(x).var().item())
    assert np.mean(ratios) == pytest.approx(gain**2, rel=0.1)


@pytest.mark.parametrize("terms", [1, 2])
def test_the_signal_survives_twelve_relu_layers(terms):
    torch.manual_seed(1)
    layers = [KronLinear((24, 24), (24, 24), terms) for _ in range(12)]
    x = torch.randn(200, 24, 24)
    second_moment = x.square().mean()
    with torch.no_grad():
        for layer in layers:
            x = torch.relu(layer(x))
    # after the first layer E[relu²] = E[x²] · gain²/2 = E[x²]
    assert 0.4 < (x.square().mean() / second_moment).item() < 2.5


def test_initial_condition_number_is_one_and_bias_zero():
    for layer in (KronLinear((6, 4), (5, 7)), LowRankLinear(30, 20, 7)):
        factors = [f.detach().double().numpy() for f in layer.factors()]
        assert layer.spec.spectrum(factors).condition_number == pytest.approx(1, abs=1e-4)
        assert (layer.bias == 0).all()


def test_initial_values_follow_the_seed():
    def draw():
        torch.manual_seed(3)
        return KronLinear((5, 6), (7, 8), 2)

    assert all(torch.equal(a, b) for a, b in zip(draw().factors, draw().factors, strict=True))


# --- the table --------------------------------------------------------------------------------


def test_the_table_names_every_structure():
    assert {*LAYERS, "dense"} == set(STRUCTURES)
    assert set(CONVOLUTION_LAYERS) == set(CONVOLUTIONS)


@pytest.mark.parametrize(
    "spec", [DenseSpec(12, 8), KronSpec((3, 4), (2, 4), 2), LowRankSpec(12, 8, 3)], ids=str
)
def test_make_and_project(spec):
    kind = LAYERS.get(spec.structure, nn.Linear)
    made = make_linear(spec, bias=False)
    assert isinstance(made, kind)
    assert made.bias is None
    assert is_structured(made) == (spec.structure != "dense")
    linear = nn.Linear(12, 8)
    projected = project_linear(linear, spec)
    assert isinstance(projected, kind)
    assert torch.equal(projected.bias, linear.bias)
    with pytest.raises(BadInput):
        project_linear(nn.Linear(11, 8), spec)
