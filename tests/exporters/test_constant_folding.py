"""Constants are computed where nothing grows, and left where that would take the memory."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx_graphs import cleaned, make_model, node, ops, shape

from sepdeploy.exporters.onnx_graph import folding
from sepdeploy.exporters.onnx_graph.canonical import clean
from sepdeploy.exporters.onnx_graph.folding import fold_constants
from sepdeploy.exporters.onnx_graph.graph import (
    float_bytes,
    initializers,
)
from sepdeploy.exporters.onnx_graph.shapes import record_shapes


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
