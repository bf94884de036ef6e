"""Samples that depend on each other, or on how many they are, are refused before any file is."""

import numpy as np
import pytest
from onnx import helper
from onnx_graphs import make_model

from sepdeploy.errors import BadInput
from sepdeploy.exporters.onnx_graph.batch import check_samples_apart


def node(op, inputs, output, **attrs):
    return helper.make_node(op, inputs, [output], f"n_{output}", **attrs)


def graph(nodes, constants=None, batch="batch"):
    known = {"zero": np.array(0), "one": np.array(1), "first": np.array([0])}
    model = make_model(nodes, known | (constants or {}), (6,), (6,))
    if batch != "batch":
        model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = batch
    return model


SIZE = [node("Shape", ["input"], "s"), node("Gather", ["s", "zero"], "n")]
FLOAT = [*SIZE, node("Cast", ["n"], "f", to=1)]


MIXING = {
    "mean": [node("ReduceMean", ["input", "first"], "m"), node("Sub", ["input", "m"], "logits")],
    "of all": [node("ReduceSum", ["input"], "m"), node("Div", ["input", "m"], "logits")],
    "softmax": [node("Softmax", ["input"], "logits", axis=0)],
    "number": [*FLOAT, node("Mul", ["input", "f"], "logits")],
    "cast first": [
        node("Shape", ["input"], "s"),
        node("Cast", ["s"], "c", to=1),
        node("Gather", ["c", "zero"], "f"),
        node("Mul", ["input", "f"], "logits"),
    ],
    "reckoned": [
        *SIZE,
        node("Sub", ["n", "one"], "less"),
        node("Cast", ["less"], "c", to=1),
        node("Sqrt", ["c"], "f"),
        node("Div", ["input", "f"], "logits"),
    ],
    "size": [
        node("Size", ["input"], "s"),
        node("Cast", ["s"], "f", to=1),
        node("Add", ["input", "f"], "logits"),
    ],
    "output": [*FLOAT, node("Identity", ["f"], "logits")],
}
APART = {
    "other axis": [node("Softmax", ["input"], "logits", axis=1)],
    "largest": [node("ReduceMax", ["input"], "m"), node("Sub", ["input", "m"], "logits")],
    "reshape": [
        *SIZE,
        node("Mul", ["n", "one"], "k"),
        node("Unsqueeze", ["k", "first"], "u"),
        node("Concat", ["u", "rest"], "t", axis=0),
        node("Reshape", ["input", "t"], "logits"),
    ],
    "quotient": [
        *SIZE,
        node("Size", ["input"], "all"),
        node("Div", ["all", "n"], "width"),
        node("Cast", ["width"], "f", to=1),
        node("Div", ["input", "f"], "logits"),
    ],
    "through floats": [
        node("Shape", ["input"], "s"),
        node("Cast", ["s"], "c", to=1),
        node("Cast", ["c"], "t", to=7),
        node("Reshape", ["input", "t"], "logits"),
    ],
    "positions": [
        *SIZE,
        node("Range", ["zero", "n", "one"], "r"),
        node("Gather", ["input", "r"], "logits", axis=0),
    ],
}


@pytest.mark.parametrize("name", MIXING)
def test_mixed_samples_are_refused(name):
    with pytest.raises(BadInput, match=r"over the batch|as a number|is the batch size") as caught:
        check_samples_apart(graph(MIXING[name]))
    assert caught.value.hint


@pytest.mark.parametrize("name", MIXING)
def test_a_batch_of_fixed_size_is_one_input(name):
    check_samples_apart(graph(MIXING[name], batch=4))


@pytest.mark.parametrize("name", APART)
def test_sizes_that_only_give_shapes_are_no_harm(name):
    check_samples_apart(graph(APART[name], {"rest": np.array([6])}))
