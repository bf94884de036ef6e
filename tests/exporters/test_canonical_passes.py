"""Clean-up passes on graphs made by hand: fewer nodes, the same numbers."""

import time

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, checker, helper, numpy_helper
from onnx_graphs import make_model, ops, run_reference

from sepdeploy.exporters import folding
from sepdeploy.exporters.canonical import clean
from sepdeploy.exporters.folding import fold_constants
from sepdeploy.exporters.graph import (
    copy_model,
    float_bytes,
    initializers,
    rename_values,
    serialize,
    sort_nodes,
    strip_metadata,
    use_counts,
)
from sepdeploy.exporters.shapes import record_shapes


def node(op, inputs, output, **attrs):
    return helper.make_node(op, inputs, [output], f"n_{output}", **attrs)


def cleaned(nodes, constants, in_shape, out_shape, described=None):
    """The cleaned graph, checked to be valid and to compute what the original did."""
    model = make_model(nodes, constants, in_shape, out_shape)
    for name, shape in (described or {}).items():
        model.graph.value_info.append(helper.make_tensor_value_info(name, 1, ["batch", *shape]))
    before = copy_model(model)
    clean(model)
    checker.check_model(model, full_check=True)
    for batch in (1, 4):
        x = np.random.default_rng(batch).standard_normal((batch, *in_shape)).astype(np.float32)
        np.testing.assert_array_equal(run_reference(model, x), run_reference(before, x))
    return model


def shape(*values):
    return np.array(values, np.int64)


def test_chains_of_reshapes_become_one():
    nodes = [
        node("Reshape", ["input", "s1"], "a"),
        node("Reshape", ["a", "s2"], "b"),
        node("Reshape", ["b", "s3"], "logits"),
    ]
    constants = {"s1": shape(-1, 2, 6), "s2": shape(-1, 3, 4), "s3": shape(-1, 6, 2)}
    assert ops(cleaned(nodes, constants, (12,), (6, 2))) == ["Reshape"]


def test_a_reshape_that_copies_a_dimension_is_not_joined():
    """0 means "as in the input": the input of that reshape decides."""
    nodes = [node("Reshape", ["input", "s1"], "a"), node("Reshape", ["a", "s2"], "logits")]
    constants = {"s1": shape(-1, 2, 6), "s2": shape(0, 0, 3, 2)}
    assert ops(cleaned(nodes, constants, (12,), (2, 3, 2))) == ["Reshape", "Reshape"]


def test_one_of_two_expansions_that_meet_stays():
    """Either may go as long as the other one brings the shape; both at once may not."""
    nodes = [
        node("ReduceMax", ["input", "axes"], "high"),
        node("ReduceMin", ["input", "axes"], "low"),
        node("Expand", ["high", "wide"], "a"),
        node("Expand", ["low", "wide"], "b"),
        node("Add", ["a", "b"], "logits"),
    ]
    constants = {"axes": shape(1), "wide": shape(1, 3, 1)}
    model = cleaned(nodes, constants, (2, 4), (3, 4))
    assert ops(model) == ["ReduceMax", "ReduceMin", "Expand", "Add"]


def test_an_expansion_that_others_make_up_for_goes():
    nodes = [
        node("ReduceMax", ["input", "axes"], "high"),
        node("Expand", ["high", "wide"], "a"),
        node("Sub", ["input", "a"], "logits"),
    ]
    constants = {"axes": shape(1), "wide": shape(1, 2, 1)}
    assert ops(cleaned(nodes, constants, (2, 4), (2, 4))) == ["ReduceMax", "Sub"]


def test_a_reshape_to_the_same_shape_goes():
    nodes = [
        node("Relu", ["input"], "a"),
        node("Reshape", ["a", "s"], "b"),
        node("Neg", ["b"], "logits"),
    ]
    model = cleaned(nodes, {"s": shape(-1, 12)}, (12,), (12,), {"a": (12,), "b": (12,)})
    assert ops(model) == ["Relu", "Neg"]


def test_shape_arithmetic_on_the_batch_becomes_a_constant():
    """Shape → Gather → Concat → Reshape, as exporters write a flatten."""
    nodes = [
        node("Shape", ["input"], "whole"),
        node("Gather", ["whole", "zero"], "batch_size", axis=0),
        node("Concat", ["batch_size", "rest"], "target", axis=0),
        node("Reshape", ["input", "target"], "logits"),
    ]
    constants = {"zero": shape(0), "rest": shape(12)}
    model = cleaned(nodes, constants, (3, 4), (12,))
    assert ops(model) == ["Reshape"]
    (target,) = (numpy_helper.to_array(t) for t in model.graph.initializer)
    assert target.tolist() == [-1, 12]


def test_an_activation_between_two_reshapes_frees_them():
    nodes = [
        node("Reshape", ["input", "s1"], "a"),
        node("Relu", ["a"], "b"),
        node("Reshape", ["b", "s2"], "logits"),
    ]
    constants = {"s1": shape(-1, 3, 4), "s2": shape(-1, 2, 6)}
    model = cleaned(nodes, constants, (12,), (2, 6), {"a": (3, 4), "b": (3, 4)})
    assert ops(model) == ["Relu", "Reshape"]


@pytest.mark.parametrize("reader", ["Softmax", "Neg"])
def test_an_activation_stays_where_its_shape_matters(reader):
    """Softmax looks along an axis; and a value that is read elsewhere keeps its shape."""
    nodes = [
        node("Reshape", ["input", "s1"], "a"),
        node(reader, ["a"], "b"),
        node("ReduceSum", ["b", "axis"], "c"),
        node("Reshape", ["b", "s2"], "d"),
        node("Add", ["c", "d"], "logits"),
    ]
    constants = {"s1": shape(-1, 1, 12), "s2": shape(-1, 12, 1), "axis": shape(2)}
    model = cleaned(nodes, constants, (12,), (12, 1))
    assert ops(model).count("Reshape") == 2


def test_identity_and_dropout_go():
    nodes = [
        node("Identity", ["input"], "a"),
        helper.make_node("Dropout", ["a"], ["b", "mask"], "drop"),
        node("Relu", ["b"], "c"),
        node("Identity", ["c"], "logits"),
    ]
    assert ops(cleaned(nodes, {}, (5,), (5,))) == ["Relu"]


def test_a_graph_of_nothing_keeps_one_identity():
    model = cleaned([node("Identity", ["input"], "logits")], {}, (5,), (5,))
    assert ops(model) == ["Identity"]


@pytest.mark.parametrize(
    ("op", "value", "gone"),
    [
        ("Sub", 0.0, True),
        ("Add", 0.0, True),
        ("Div", 1.0, True),
        ("Mul", 1.0, True),
        ("Sub", 1.0, False),
        ("Mul", 0.0, False),
        ("Div", 2.0, False),
        ("Pow", 1.0, False),
    ],
)
def test_neutral_arithmetic_goes(op, value, gone):
    nodes = [node(op, ["input", "k"], "a"), node("Relu", ["a"], "logits")]
    constants = {"k": np.full((1, 1), value, np.float32)}
    model = cleaned(nodes, constants, (3, 3), (3, 3), {"a": (3, 3)})
    assert ops(model) == ["Relu"] if gone else [op, "Relu"]


def test_a_zero_that_widens_stays():
    """Adding zeros of a larger shape is a broadcast."""
    nodes = [node("Add", ["input", "k"], "a"), node("Relu", ["a"], "logits")]
    constants = {"k": np.zeros((1, 4), np.float32)}
    assert ops(cleaned(nodes, constants, (1,), (4,), {"a": (4,)})) == ["Add", "Relu"]


def test_zero_minus_x_is_not_x():
    nodes = [node("Sub", ["k", "input"], "a"), node("Relu", ["a"], "logits")]
    constants = {"k": np.zeros(3, np.float32)}
    assert ops(cleaned(nodes, constants, (3,), (3,), {"a": (3,)})) == ["Sub", "Relu"]


def test_constants_are_folded_where_nothing_grows():
    rng = np.random.default_rng(0)
    nodes = [
        node("Transpose", ["w"], "wt", perm=[1, 0]),
        node("MatMul", ["wt", "s"], "ws"),
        node("MatMul", ["input", "ws"], "logits"),
    ]
    constants = {
        "w": rng.standard_normal((40, 30)).astype(np.float32),
        "s": rng.standard_normal((40, 40)).astype(np.float32),
    }
    model = cleaned(nodes, constants, (30,), (40,))
    assert ops(model) == ["MatMul"]
    assert [tuple(t.dims) for t in model.graph.initializer] == [(30, 40)]


def test_a_product_of_factors_stays_written_out():
    """Folding the naive Kronecker graph would turn 8 KiB into 4 MiB."""
    rng = np.random.default_rng(0)
    nodes = [
        node("Mul", ["a", "b"], "kron4"),
        node("Reshape", ["kron4", "square"], "kron"),
        node("MatMul", ["input", "kron"], "logits"),
    ]
    constants = {
        "a": rng.standard_normal((32, 1, 32, 1)).astype(np.float32),
        "b": rng.standard_normal((1, 32, 1, 32)).astype(np.float32),
        "square": shape(1024, 1024),
    }
    model = cleaned(nodes, constants, (1024,), (1024,))
    assert ops(model) == ["Mul", "Reshape", "MatMul"]
    assert float_bytes(model.graph) == 2 * 4 * 32 * 32


def test_a_constant_of_any_size_asked_for_by_shape_stays_unbuilt():
    nodes = [
        node("ConstantOfShape", ["dims"], "big"),
        node("ReduceSum", ["big"], "total", keepdims=0),
        node("Add", ["input", "total"], "logits"),
    ]
    constants = {"dims": shape(1 << 40)}
    model = make_model(nodes, constants, (1,), (1,))
    clean(model)
    assert "ConstantOfShape" in ops(model)


def test_random_nodes_are_not_constants():
    nodes = [
        helper.make_node("RandomNormal", [], ["noise"], "noise", shape=[1]),
        node("Add", ["input", "noise"], "logits"),
    ]
    model = make_model(nodes, {}, (1,), (1,))
    clean(model)
    assert ops(model) == ["RandomNormal", "Add"]


def test_constant_nodes_become_initializers():
    nodes = [
        node("Constant", [], "k", value_floats=[1.5, 2.5]),
        node("Constant", [], "j", value=numpy_helper.from_array(np.float32([2, 3]), "")),
        node("Mul", ["input", "k"], "a"),
        node("Mul", ["a", "j"], "logits"),
    ]
    model = cleaned(nodes, {}, (2,), (2,))
    assert ops(model) == ["Mul", "Mul"]
    assert set(initializers(model.graph)) == {"k", "j"}


def test_what_no_output_needs_goes():
    nodes = [
        node("Relu", ["input"], "logits"),
        node("Neg", ["input"], "unused"),
        node("Add", ["unused", "w"], "unused2"),
    ]
    model = cleaned(nodes, {"w": np.ones(3, np.float32)}, (3,), (3,))
    assert ops(model) == ["Relu"]
    assert not model.graph.initializer


def test_subgraphs_keep_what_they_read():
    """The branches of an If read values of the outer graph."""

    def branch(op):
        return helper.make_graph(
            [helper.make_node(op, ["a"], [f"{op}_out"], op)],
            op,
            [],
            [helper.make_tensor_value_info(f"{op}_out", 1, None)],
        )

    nodes = [
        node("Identity", ["input"], "id"),
        node("Relu", ["id"], "a"),
        helper.make_node(
            "If",
            ["flag"],
            ["logits"],
            "choice",
            then_branch=branch("Neg"),
            else_branch=branch("Abs"),
        ),
    ]
    model = cleaned(nodes, {"flag": np.array(True)}, (3,), (3,))
    assert ops(model) == ["Relu", "If"]
    assert use_counts(model.graph)["a"] == 2
    rename_values(model.graph, {"a": "renamed"})
    checker.check_model(model)
    assert run_reference(model, np.float32([[-1, 0, 2]])).tolist() == [[0, 0, -2]]


@given(st.permutations(range(6)))
@settings(max_examples=20)
def test_sorting_brings_any_order_into_one_that_runs(order):
    chain = ["input", "a", "b", "c", "d", "e", "logits"]
    nodes = [node("Neg", [chain[i]], chain[i + 1]) for i in range(6)]
    model = make_model([nodes[i] for i in order], {}, (2,), (2,))
    sort_nodes(model.graph)
    assert [n.name for n in model.graph.node] == [n.name for n in nodes]


@pytest.mark.parametrize(
    ("op", "constants", "attrs"),
    [
        ("Add", {"a": np.ones((60_000, 1), np.float32), "b": np.ones((1, 60_000), np.float32)}, {}),
        ("Pad", {"a": np.ones((2, 2), np.float32), "p": shape(0, 0, 2**36, 0)}, {}),
        ("OneHot", {"a": shape(0), "d": shape(2**36), "v": np.float32([0, 1])}, {}),
        ("Range", {"a": np.int64(0), "b": np.int64(2**40), "c": np.int64(1)}, {}),
        ("Range", {"a": shape(0, 1), "b": np.int64(2**40), "c": np.int64(1)}, {}),
        ("Expand", {"a": np.float32([1]), "s": shape(2**20, 2**20)}, {}),
        ("Tile", {"a": np.float32([1]), "s": shape(2**40)}, {}),
        ("ConstantOfShape", {"s": shape(2**40)}, {}),
        (
            "Conv",
            {"a": np.ones((1, 1, 9, 9), np.float32), "w": np.ones((1, 1, 2, 2), np.float32)},
            {"dilations": [2**36, 2**36], "pads": [2**36] * 4, "strides": [2**36] * 2},
        ),
        (
            "Einsum",
            {c: np.ones(5000, np.float32) for c in "abc"},
            {"equation": "i,j,k->"},
        ),
        ("Bernoulli", {"a": np.float32([0.5])}, {}),
    ],
)
def test_what_takes_the_whole_memory_is_not_computed(op, constants, attrs, monkeypatch):
    monkeypatch.setattr(folding, "ReferenceEvaluator", None)
    nodes = [node(op, list(constants), "t", **attrs), node("Add", ["input", "t"], "logits")]
    model = make_model(nodes, constants, (2,), (2,))
    fold_constants(model.graph)
    assert ops(model) == [op, "Add"]


def test_a_long_vector_is_not_written_out_symbol_by_symbol(monkeypatch):
    asked = []
    real = onnx.shape_inference.infer_shapes

    def watched(model, **how):
        asked.append(how)
        return real(model, **how)

    monkeypatch.setattr(onnx.shape_inference, "infer_shapes", watched)
    for length, following in ((2**31, 0), (2**10, 1)):
        asked.clear()
        constants = {"a": np.int64(0), "b": np.int64(length), "c": np.int64(1)}
        nodes = [
            node("Range", ["a", "b", "c"], "r"),
            node("Cast", ["r"], "f", to=1),
            node("ReduceMax", ["f"], "m", keepdims=0),
            node("Add", ["input", "m"], "logits"),
        ]
        record_shapes(make_model(nodes, constants, (2,), (2,)))
        assert sum(how.get("data_prop", False) for how in asked) == following


def test_running_out_of_memory_leaves_a_node_where_it_is(monkeypatch):
    def full(model):
        raise MemoryError

    monkeypatch.setattr(folding, "ReferenceEvaluator", full)
    nodes = [node("Neg", ["a"], "t"), node("Add", ["input", "t"], "logits")]
    model = make_model(nodes, {"a": np.ones(2, np.float32)}, (2,), (2,))
    fold_constants(model.graph)
    assert ops(model) == ["Neg", "Add"]


@pytest.mark.parametrize(
    ("op", "constants", "attrs", "wanted"),
    [
        ("NonZero", {"a": np.float32([0, 2, 3])}, {}, [[1, 2]]),
        ("Einsum", {"a": np.float32([[2, 3]])}, {"equation": "ij->ji"}, [[2], [3]]),
        ("Range", {"a": np.int64(1), "b": np.int64(7), "c": np.int64(3)}, {}, [1, 4]),
        ("Tile", {"a": np.float32([1]), "s": shape(2)}, {}, [1, 1]),
        ("Div", {"a": np.float32([1]), "b": np.float32([0])}, {}, [np.inf]),
    ],
)
def test_small_constants_are_computed(op, constants, attrs, wanted):
    nodes = [node(op, list(constants), "t", **attrs), node("Add", ["input", "t"], "logits")]
    model = make_model(nodes, constants, (2,), (2,))
    fold_constants(model.graph)
    assert ops(model) == ["Add"]
    assert numpy_helper.to_array(initializers(model.graph)["t"]).tolist() == wanted


def test_long_chains_are_sorted_in_no_time():
    """Going through the list once per node that is out of place took hours."""
    nodes = [node("Neg", [f"v{i}"], f"v{i + 1}") for i in range(20_000)]
    model = make_model([*nodes[::-1]], {}, (2,), (2,))
    start = time.perf_counter()
    sort_nodes(model.graph)
    assert time.perf_counter() - start < 20
    assert [n.output[0] for n in model.graph.node] == [n.output[0] for n in nodes]


def test_a_cycle_is_an_error():
    nodes = [node("Neg", ["b"], "a"), node("Neg", ["a"], "b")]
    with pytest.raises(ValueError, match="cycle"):
        sort_nodes(make_model(nodes, {}, (2,), (2,)).graph)


def test_metadata_goes_everywhere():
    model = make_model([node("Relu", ["input"], "logits")], {"w": np.ones(2)}, (2,), (2,))
    clean_bytes = serialize(model)
    secret = "/home/someone/secret.py"
    model.producer_name = model.doc_string = model.graph.doc_string = secret
    items = (model, model.graph, model.graph.node[0], model.graph.input[0])
    for item in (*items, model.graph.output[0], model.graph.initializer[0]):
        item.metadata_props.add(key="trace", value=secret)
    model.graph.node[0].doc_string = secret
    strip_metadata(model)
    assert serialize(model) == clean_bytes


def test_a_folded_scalar_stays_a_scalar():
    """Older exporters compute shapes from scalars: sizes multiplied, then made vectors again."""
    two, three = (numpy_helper.from_array(np.array(n, np.int64), f"c{n}") for n in (2, 3))
    axes = numpy_helper.from_array(np.array([0], np.int64), "axes")
    rest = numpy_helper.from_array(np.array([-1], np.int64), "rest")
    nodes = [
        helper.make_node("Mul", ["c2", "c3"], ["six"]),
        helper.make_node("Unsqueeze", ["six", "axes"], ["sixes"]),
        helper.make_node("Concat", ["rest", "sixes"], ["shape"], axis=0),
        helper.make_node("Reshape", ["x", "shape"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 2, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 6])],
        [two, three, axes, rest],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    fold_constants(model.graph)
    (reshape,) = model.graph.node
    held = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    assert held["six"].shape == ()
    assert held[reshape.input[1]].tolist() == [-1, 6]
