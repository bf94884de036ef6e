"""Every ONNX form of every structure against the dense matrix."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper
from onnx_graphs import Chain, factors_of, make_model, relative, run_ort, run_reference

from sepdeploy.exporters.domain import OPSET, function_body
from sepdeploy.exporters.families import FAMILIES
from sepdeploy.exporters.families.emit import Emitter, Weight
from sepdeploy.exporters.families.kron_cost import arrangement
from sepdeploy.exporters.families.kron_merge import (
    MAX_SIDE,
    groupings,
    merge_factors,
    merged_spec,
)
from sepdeploy.exporters.families.kron_onnx import conv2d, gemm2d, mm, tt
from sepdeploy.structures import KronSpec, LowRankSpec

KRON_FORMS = [form for form in FAMILIES["kron"].onnx if form.name != "dense"]


@st.composite
def kron_specs(draw, max_modes=4):
    d = draw(st.integers(2, max_modes))
    sizes = st.lists(st.integers(1, 5), min_size=d, max_size=d)
    return KronSpec(tuple(draw(sizes)), tuple(draw(sizes)), draw(st.integers(1, 3)))


def lowered(spec, build, seed=0, **kwargs):
    """The layer as a model of standard ops, and its oracle."""
    rng = np.random.default_rng(seed)
    factors = factors_of(spec, rng)
    bias = rng.standard_normal(spec.out_features).astype(np.float32)
    emitter = Emitter("layer/form")
    weights = [Weight.known(f"F{i}", f) for i, f in enumerate(factors)]
    build(emitter, spec, "input", weights, Weight.known("bias", bias), **kwargs)
    emitter.nodes[-1].output[0] = "logits"
    constants = {n: numpy_helper.to_array(t) for n, t in emitter.constants.items()}
    model = make_model(emitter.nodes, constants, (spec.in_features,), (spec.out_features,))
    x = rng.standard_normal((3, spec.in_features)).astype(np.float32)
    dense = spec.dense_matrix([f.astype(np.float64) for f in factors])
    return model, x, x @ dense.T + bias


@pytest.mark.parametrize("form", KRON_FORMS, ids=lambda f: f.name)
@given(spec=kron_specs())
@settings(max_examples=25)
def test_kron_forms_equal_the_dense_matrix(form, spec):
    if form.refuse(spec):
        return
    model, x, expected = lowered(spec, form.build)
    np.testing.assert_allclose(run_reference(model, x), expected, rtol=1e-4, atol=1e-4)


@given(spec=kron_specs(max_modes=3), data=st.data())
@settings(max_examples=25)
def test_every_contraction_order_is_right(spec, data):
    d = len(spec.in_shape)
    order = data.draw(st.permutations(range(d)))
    model, x, expected = lowered(spec, gemm2d, order=order)
    np.testing.assert_allclose(run_reference(model, x), expected, rtol=1e-4, atol=1e-4)
    if spec.terms == 1:
        model, x, expected = lowered(spec, mm, order=order)
        np.testing.assert_allclose(run_reference(model, x), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("build", "spec", "expected"),
    [
        # one flat product per factor; the number of transposes is what the order decides
        (gemm2d, KronSpec((4, 6), (3, 5)), {"Gemm": 2, "Transpose": 2, "Reshape": 5, "Add": 1}),
        (gemm2d, KronSpec((4, 6), (3, 5), 3), {"Gemm": 2, "Transpose": 2, "Reshape": 5, "Add": 1}),
        (mm, KronSpec((4, 6), (3, 5)), {"Gemm": 1, "MatMul": 1, "Reshape": 3, "Add": 1}),
        (mm, KronSpec((4, 6), (3, 5), 3), {"Gemm": 1, "MatMul": 1, "Reshape": 3, "Add": 1}),
        (mm, KronSpec((2, 3, 4), (3, 2, 5)), {"Gemm": 1, "MatMul": 2, "Reshape": 4, "Add": 1}),
        (tt, KronSpec((4, 6), (3, 5)), {"MatMul": 2, "Transpose": 2, "Reshape": 2, "Add": 1}),
        (conv2d, KronSpec((4, 6), (3, 5)), {"Gemm": 1, "Conv": 1, "Reshape": 3, "Add": 1}),
    ],
)
def test_forms_have_the_nodes_they_promise(build, spec, expected):
    model, x, wanted = lowered(spec, build, order=tuple(reversed(range(len(spec.in_shape)))))
    found = [node.op_type for node in model.graph.node]
    assert {op: found.count(op) for op in set(found)} == expected
    assert relative(run_ort(model, x), wanted) <= 1e-5


def test_no_form_holds_more_than_the_factors():
    """Terms are stacked, never multiplied out; only merging makes a constant larger."""
    spec = KronSpec((6, 10), (7, 9), 4)
    for form in KRON_FORMS:
        if form.refuse(spec):
            continue
        model, _, _ = lowered(spec, form.build)
        weights = [t for t in model.graph.initializer if t.data_type == 1 and t.name != "bias"]
        total = sum(np.prod(t.dims) for t in weights)
        assert total == form.weights(spec) == spec.weight_params


def test_a_zero_bias_costs_no_node():
    spec = KronSpec((4, 6), (3, 5))
    emitter = Emitter("layer/gemm2d")
    factors = [
        Weight.known(f"F{i}", np.ones(s, np.float32)) for i, s in enumerate(spec.factor_shapes)
    ]
    gemm2d(emitter, spec, "input", factors, Weight.known("bias", np.zeros(15, np.float32)))
    assert "Add" not in [n.op_type for n in emitter.nodes]
    assert "bias" not in emitter.constants


def test_lowrank_is_two_gemms():
    spec = LowRankSpec(12, 9, 4)
    (form, _) = FAMILIES["lowrank"].onnx
    model, x, expected = lowered(spec, form.build)
    assert [n.op_type for n in model.graph.node] == ["Gemm", "Gemm"]
    assert relative(run_ort(model, x), expected) <= 1e-5


def test_the_dense_form_is_the_product_of_the_factors():
    for spec in (KronSpec((4, 3), (2, 5), 2), LowRankSpec(12, 9, 4)):
        form = FAMILIES[spec.structure].onnx[-1]
        model, x, expected = lowered(spec, form.build)
        assert [n.op_type for n in model.graph.node] == ["Gemm"]
        assert relative(run_ort(model, x), expected) <= 1e-5


# --- merging


@given(spec=kron_specs(max_modes=5))
def test_merged_factors_stand_for_the_same_matrix(spec):
    factors = factors_of(spec, np.random.default_rng(0))
    expected = spec.dense_matrix(factors)
    weights = [Weight.known(f"F{i}", f) for i, f in enumerate(factors)]
    for groups in groupings(spec):
        merged = [w.array for w in merge_factors(Emitter("x"), weights, groups)]
        found = merged_spec(spec, groups).dense_matrix(merged)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_merging_stops_at_the_largest_side():
    spec = KronSpec((8, 8, 8), (8, 8, 8))
    sides = {max(merged_spec(spec, g).in_shape) for g in groupings(spec)}
    assert max(sides) == MAX_SIDE == 64
    assert list(groupings(KronSpec((16, 16, 16), (16, 16, 16)))) == [((0,), (1,), (2,))]
    assert all(len(g) >= 2 for g in groupings(spec))


def test_merging_considers_every_split_of_adjacent_modes():
    spec = KronSpec((2, 2, 2, 2), (2, 2, 2, 2))
    assert len(list(groupings(spec))) == 2**3 - 1  # every set of cuts but the empty one


# --- function bodies


@given(small=kron_specs(max_modes=3), data=st.data())
@settings(max_examples=20)
def test_one_body_serves_all_sizes(small, data):
    """The body made for one layer, called for another of as many modes and terms."""
    d = len(small.in_shape)
    sizes = st.lists(st.integers(1, 5), min_size=d, max_size=d)
    large = KronSpec(tuple(data.draw(sizes)), tuple(data.draw(sizes)), small.terms)
    form = next(f for f in KRON_FORMS if f.name == "gemm2d")
    chain = Chain(large)
    model = chain.canonical()
    node = model.graph.node[0]
    model.functions.append(function_body(node, small, form.name, form.build, "v"))
    node.overload = "v"
    x = chain.samples()
    np.testing.assert_allclose(run_reference(model, x), chain(x), rtol=1e-4, atol=1e-4)


def test_bodies_hold_no_numbers_of_a_layer():
    """Beside -1 for the batch and small axes, sizes come from the shapes of the factors."""
    spec = KronSpec((11, 13), (17, 19))
    node = Chain(spec).canonical().graph.node[0]
    for form in KRON_FORMS:
        body = function_body(node, spec, form.name, form.build, "v")
        constants = itertools.chain.from_iterable(
            helper.get_attribute_value(n.attribute[0]) for n in body.node if n.op_type == "Constant"
        )
        assert set(constants) <= {-1, 1}
        assert {o.domain: o.version for o in body.opset_import} == {"": OPSET}


def test_the_dense_form_has_no_body():
    spec = KronSpec((2, 2), (2, 2))
    form = FAMILIES["kron"].onnx[-1]
    with pytest.raises(ValueError, match="numbers"):
        function_body(Chain(spec).canonical().graph.node[0], spec, "dense", form.build, "v")


def test_an_impossible_form_is_refused():
    spec = KronSpec((100, 100, 100), (2, 2, 2), 2)
    conv = next(f for f in KRON_FORMS if f.name == "conv2d")
    assert conv.refuse(spec)
    assert conv.cost(spec) == float("inf")
    assert arrangement("dense", spec) is None
    with pytest.raises(ValueError, match="cannot write"):
        lowered(spec, conv.build)
