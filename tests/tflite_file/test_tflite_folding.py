"""What is computed at export: constants, normalisation inside layers, functions of the file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from op_cases import IMAGE, floats, ints, rand
from tflite_oracles import INTERPRETERS, Array, check, graph

from sepdeploy.errors import BadInput
from sepdeploy.exporters.tflite_file.write import write_tflite

pytestmark = pytest.mark.skipif(not INTERPRETERS, reason="no TFLite runtime is installed")


REPEATED = {"STRIDED_SLICE", "MINIMUM", "MAXIMUM", "ADD"}  # added to zeros of the batch's size


def n(op: str, inputs: str, output: str, **attributes: object) -> helper.NodeProto:
    return helper.make_node(op, inputs.split(), [output], **attributes)


def test_a_mask_built_in_the_graph_is_one_constant(tmp_path: Path) -> None:
    nodes = [
        n("Range", "zero five one", "i"),
        n("Unsqueeze", "i axis0", "row"),
        n("Unsqueeze", "i axis1", "column"),
        n("LessOrEqual", "row column", "keep"),
        n("ConstantOfShape", "square", "none"),
        n("ConstantOfShape", "square", "far", value=numpy_helper.from_array(floats(-1e4))),
        n("Where", "keep none far", "mask"),
        n("Tile", "mask twice", "tiled"),
        n("Expand", "tiled three", "wide"),
        n("Add", "x wide", "y"),
    ]
    constants = {
        "zero": np.int64(0),
        "five": np.int64(5),
        "one": np.int64(1),
        "axis0": ints(0),
        "axis1": ints(1),
        "square": ints(5, 5),
        "twice": ints(1, 2),
        "three": ints(1, 5, 10),
    }
    file = check(graph(nodes, (5, 10), constants), (5, 10), tmp_path)
    assert file.op_counts() == {"ADD": 1}


def test_constant_nodes_of_every_kind(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Constant", [], ["a"], value_float=0.5),
        helper.make_node("Constant", [], ["b"], value_floats=[1.0, 2.0, 3.0]),
        helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(rand(3))),
        helper.make_node("Constant", [], ["d"], value_ints=[0, 3]),
        helper.make_node("Constant", [], ["e"], value_int=1),
        n("Size", "b", "three"),
        n("Add", "x a", "s"),
        n("Mul", "s b", "t"),
        n("Add", "t c", "u"),
        n("Reshape", "u d", "v"),
        n("Gather", "v e", "w", axis=1),
        n("Cast", "three", "f", to=TensorProto.FLOAT),
        n("Mul", "w f", "y"),
    ]
    check(graph(nodes, (3,)), (3,), tmp_path)


def test_a_constant_for_every_sample_has_a_form(tmp_path: Path) -> None:
    begin = [n("Shape", "x", "s"), n("Expand", "w s", "wide")]
    constants = {"w": rand(6), "z": ints(0)}
    file = check(graph([*begin, n("Mul", "x wide", "y")], (6,), constants), (6,), tmp_path)
    assert file.op_counts() == {"MUL": 1}
    for last, operators in (
        ([n("Softmax", "wide", "t"), n("Add", "t x", "y")], {"ADD"}),
        ([n("Concat", "wide wide", "y", axis=1)], REPEATED),
        ([n("Cast", "wide", "i", to=TensorProto.INT64), n("Gather", "w i", "y")], REPEATED),
    ):
        model = graph([*begin, *last], (6,), constants)
        assert set(check(model, (6,), tmp_path).op_counts()) == operators


def test_a_constant_for_every_sample_does_not_mix_them(tmp_path: Path) -> None:
    begin = [n("Shape", "x", "s"), n("Expand", "w s", "wide")]
    constants = {"w": rand(6), "z": ints(0)}
    for last in (
        [n("Transpose", "wide", "t", perm=[1, 0]), n("MatMul", "x t", "y")],
        [n("Transpose", "wide", "t", perm=[1, 0]), n("Gather", "x z", "u"), n("Mul", "u t", "y")],
        [n("Einsum", "x wide", "y", equation="ni,mi->nm")],
        [n("Gemm", "x wide", "y", transB=1)],
    ):
        with pytest.raises(BadInput, match=r"every sample|batch|no TFLite form"):
            write_tflite(graph([*begin, *last], (6,), constants), tmp_path / "m.tflite")


@pytest.mark.parametrize(
    ("label", "weight", "attributes", "operators"),
    [
        ("unpadded", rand(5, 4, 3, 3), {}, {"CONV_2D"}),
        ("padded", rand(5, 4, 3, 3), {"pads": [1] * 4}, {"CONV_2D", "ADD"}),
        ("same", rand(5, 4, 3, 3), {"auto_pad": "SAME_UPPER"}, {"CONV_2D", "ADD"}),
        ("grouped", rand(6, 2, 3, 3), {"group": 2}, {"CONV_2D"}),
        ("depthwise", rand(8, 1, 3, 3), {"group": 4}, {"DEPTHWISE_CONV_2D"}),
    ],
)
@pytest.mark.parametrize("bias", [True, False])
def test_normalisation_before_a_convolution(
    label: str,
    weight: Array,
    attributes: dict[str, object],
    operators: set[str],
    bias: bool,
    tmp_path: Path,
) -> None:
    nodes = [n("Sub", "x mean", "c"), n("Div", "c std", "s")]
    names = "s w b" if bias else "s w"
    nodes += [n("Conv", names, "f", **attributes), n("ReduceMean", "f space", "y", keepdims=0)]
    constants = {
        "mean": floats(0.4, 0.5, 0.6, 0.1).reshape(4, 1, 1),
        "std": floats(0.2, 0.3, 0.25, 0.4).reshape(4, 1, 1),
        "w": weight,
        "b": rand(len(weight)),
        "space": ints(2, 3),
    }
    file = check(graph(nodes, IMAGE, constants), IMAGE, tmp_path, low=0.0)
    assert set(file.op_counts()) == {*operators, "MEAN"}


def test_normalisation_that_others_read_too_is_written_once(tmp_path: Path) -> None:
    nodes = [
        n("Sub", "x mean", "s"),
        n("Gemm", "s w", "a", transB=1),
        n("Relu", "s", "b"),
        n("Tanh", "s", "c"),
        n("Add", "b c", "d"),
        n("Add", "a d", "y"),
    ]
    constants = {"mean": rand(6), "w": rand(6, 6)}
    file = check(graph(nodes, (6,), constants), (6,), tmp_path)
    # x - mean for the two activations; the layer has it in its bias.
    assert file.op_counts() == {"FULLY_CONNECTED": 1, "ADD": 3, "RELU": 1, "TANH": 1}


@pytest.mark.parametrize("op", ["Gemm", "MatMul"])
def test_what_varies_along_rows_is_not_absorbed(op: str, tmp_path: Path) -> None:
    constants = {"rows": rand(5, 1), "w": rand(6, 3)}
    nodes = [n("Mul", "x rows", "s"), n("MatMul", "s w", "y")]
    shape: tuple[int, ...] = (5, 6)
    if op == "Gemm":
        constants["flat"] = ints(-1, 6)
        nodes = [nodes[0], n("Reshape", "s flat", "r"), n("Gemm", "r w", "y")]
    file = check(graph(nodes, shape, constants), shape, tmp_path)
    assert file.op_counts()["MUL"] == 1


def test_scales_follow_reshapes_and_transposes(tmp_path: Path) -> None:
    nodes = [
        n("Mul", "x scale", "s"),
        n("Transpose", "s", "t", perm=[0, 2, 3, 1]),
        n("Reshape", "t flat", "f"),
        n("Gemm", "f w", "y", transB=1),
    ]
    constants = {"scale": rand(4, 1, 10), "flat": ints(-1, 480), "w": rand(3, 480)}
    file = check(graph(nodes, IMAGE, constants), IMAGE, tmp_path)
    assert "MUL" not in file.op_counts()


def test_batch_norm_behind_layers_that_only_moved_memory(tmp_path: Path) -> None:
    variance = np.abs(rand(6)) + 0.5
    nodes = [
        n("Conv", "x w", "c"),
        n("Slice", "c from to at", "s"),
        n("BatchNormalization", "s g b m v", "k"),
        n("Relu", "k", "y"),
    ]
    constants = {"w": rand(6, 4, 3, 3), "from": ints(1), "to": ints(5), "at": ints(2)}
    constants |= {"g": rand(6), "b": rand(6), "m": rand(6), "v": variance}
    file = check(graph(nodes, IMAGE, constants), IMAGE, tmp_path)
    assert file.op_counts() == {"CONV_2D": 1, "STRIDED_SLICE": 1, "TRANSPOSE": 1}


def test_functions_of_a_foreign_file_are_inlined(tmp_path: Path) -> None:
    body = helper.make_function(
        "custom",
        "Twice",
        ["a"],
        ["b"],
        [n("Add", "a a", "t"), n("Relu", "t", "b")],
        [helper.make_opsetid("", 20)],
    )
    model = graph([n("Twice", "x", "y", domain="custom")], (6,))
    model.functions.append(body)
    model.opset_import.append(helper.make_opsetid("custom", 1))
    file = check(model, (6,), tmp_path)
    assert set(file.op_counts()) <= {"ADD", "MUL", "RELU"}


def test_a_large_image_is_not_spelled_out(tmp_path: Path) -> None:
    """A repeated constant of 2^40 values in a file of a few bytes is refused, not built."""
    nodes = [n("ConstantOfShape", "size", "c"), n("Add", "x c", "y")]
    model = graph(nodes, (6,), {"size": ints(1 << 20, 1 << 20)})
    with pytest.raises(BadInput, match=r"values|broadcast"):
        write_tflite(model, tmp_path / "m.tflite")
