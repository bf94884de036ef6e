"""Clean-up passes on graphs made by hand: fewer nodes, the same numbers."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import checker, helper, numpy_helper
from onnx_graphs import cleaned, make_model, node, ops, run_reference, shape

from sepdeploy.exporters.onnx_graph.graph import (
    rename_values,
    serialize,
    sort_nodes,
    strip_metadata,
    use_counts,
)


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
        helper.make_node("ReduceSum", ["a"], ["sum"], "sum", keepdims=0),
        helper.make_node("Cast", ["sum"], ["flag"], "flag", to=9),
        helper.make_node(
            "If",
            ["flag"],
            ["logits"],
            "choice",
            then_branch=branch("Neg"),
            else_branch=branch("Abs"),
        ),
    ]
    model = cleaned(nodes, {}, (3,), (3,))
    assert ops(model) == ["Relu", "ReduceSum", "Cast", "If"]
    assert use_counts(model.graph)["a"] == 3
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


def test_long_chains_are_sorted():
    """Going through the list once per node that is out of place took hours: no end in sight."""
    nodes = [node("Neg", [f"v{i}"], f"v{i + 1}") for i in range(20_000)]
    model = make_model([*nodes[::-1]], {}, (2,), (2,))
    sort_nodes(model.graph)
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
