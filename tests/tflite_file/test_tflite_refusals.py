"""What has no TFLite form is refused by name, with a way out, and leaves no file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from op_cases import ints, rand
from tflite_oracles import DOMAIN, Array, graph

from sepdeploy.errors import BadInput
from sepdeploy.exporters.tflite_file.ops import CONVERTERS, NEAREST
from sepdeploy.exporters.tflite_file.write import write_tflite

IMAGE = (4, 12, 10)


def n(op: str, inputs: str, output: str = "y", **attributes: object) -> helper.NodeProto:
    return helper.make_node(op, inputs.split(), [output], name=f"the_{op}", **attributes)


def one(
    op: str, shape: tuple[int, ...] = IMAGE, *constants: Array, **attributes: object
) -> onnx.ModelProto:
    names = ["x", *(f"c{i}" for i in range(len(constants)))]
    weights = {f"c{i}": c for i, c in enumerate(constants)}
    return graph([n(op, " ".join(names), **attributes)], shape, weights)


def refused(model: onnx.ModelProto, folder: Path, says: str, **options: object) -> BadInput:
    with pytest.raises(BadInput, match=says) as caught:
        write_tflite(model, folder / "m.tflite", **options)  # type: ignore[arg-type]
    assert not list(folder.iterdir())
    assert "\n" not in caught.value.message
    return caught.value


OPERATORS: list[tuple[str, onnx.ModelProto]] = [
    ("LSTM", one("LSTM", (3, 4), rand(1, 8, 4), rand(1, 8, 2), hidden_size=2)),
    ("NonZero", one("NonZero")),
    ("DeformConv", one("DeformConv", IMAGE, rand(2, 4, 1, 1), rand(1, 2, 12, 10))),
    ("Det", one("Det", (3, 3))),
    ("Nonsense", one("Nonsense")),
]


@pytest.mark.parametrize(("op", "model"), OPERATORS, ids=[o for o, _ in OPERATORS])
def test_an_operator_without_a_form_is_named(
    op: str, model: onnx.ModelProto, tmp_path: Path
) -> None:
    error = refused(model, tmp_path, op)
    assert f"the_{op}" in error.message
    assert error.hint
    assert op not in NEAREST or error.hint == NEAREST[op]


def test_hints_are_only_for_operators_without_a_converter() -> None:
    assert not NEAREST.keys() & CONVERTERS.keys()


CASES: dict[str, tuple[onnx.ModelProto, str]] = {
    "pool indices": (
        graph(
            [helper.make_node("MaxPool", ["x"], ["y", "i"], name="p", kernel_shape=[2, 2])],
            IMAGE,
            outputs=("y", "i"),
        ),
        "indices",
    ),
    "4-d conv": (one("Conv", (2, 4, 6, 6, 3), rand(3, 2, 2, 2, 2, 2)), "no TFLite form"),
    "4-d pool": (one("MaxPool", (2, 4, 6, 6, 3), kernel_shape=[2] * 4), "batch, 2, 4, 6, 6"),
    "conv channels": (one("Conv", IMAGE, rand(8, 3, 3, 3)), "does not fit"),
    "conv bias": (one("Conv", IMAGE, rand(8, 4, 3, 3), rand(7)), "does not fit 8"),
    "conv too large": (one("Conv", IMAGE, rand(8, 4, 13, 3)), "does not fit 12"),
    "conv groups": (one("Conv", IMAGE, rand(8, 2, 3, 3), group=3), "does not fit"),
    "gemm shape": (one("Gemm", (6,), rand(5, 4)), "does not fit"),
    "matmul shape": (one("MatMul", (6,), rand(5, 4)), "do not multiply"),
    "broadcast": (one("Add", IMAGE, rand(3, 1, 1)), "do not broadcast"),
    "mean over batch": (one("ReduceMean", IMAGE, ints(0)), "batch"),
    "argmax over batch": (one("ArgMax", IMAGE), "batch"),
    "slice of batch": (one("Slice", IMAGE, ints(0), ints(1), ints(0)), "batch"),
    "gather from batch": (one("Gather", IMAGE, ints(0)), "batch"),
    "split of batch": (one("Split", IMAGE, ints(1, 2), axis=0), "do not fit"),
    "concat along batch": (graph([n("Concat", "x x", axis=0)], IMAGE), "batch"),
    "padding of batch": (one("Pad", (3,), ints(1, 0, 0, 0)), "batch"),
    "resize of batch": (one("Resize", IMAGE, np.float32([]), np.float32([2, 1, 1, 1])), "batch"),
    "two open dimensions": (
        graph(
            [
                n("Shape", "x", "s", end=1),
                n("Concat", "s s t", "u", axis=0),
                n("Reshape", "x u"),
            ],
            (6,),
            {"t": ints(-1)},
        ),
        "does not fit|two dimensions",
    ),
    "empty slice": (one("Slice", IMAGE, ints(5), ints(2), ints(3)), "leaves nothing"),
    "index outside": (one("Gather", IMAGE, ints(4), axis=1), "outside"),
    "axis outside": (one("Softmax", IMAGE, axis=4), "outside"),
    "reshape to nonsense": (one("Reshape", IMAGE, ints(-1, 7)), "does not fit"),
    "computed shape": (
        graph([n("Cast", "x", "s", to=TensorProto.INT64), n("Reshape", "x s")], (6,)),
        "run time",
    ),
    "training batch norm": (
        one("BatchNormalization", IMAGE, *[rand(4) ** 2 for _ in range(4)], training_mode=1),
        "training mode",
    ),
    "diagonal einsum": (one("Einsum", (6, 6), equation="nii->ni"), "equation"),
    "implicit einsum": (one("Einsum", (6, 6), equation="nij"), "equation"),
    "crop and resize": (
        one(
            "Resize",
            IMAGE,
            np.float32([0] * 4 + [1] * 4),
            np.float32([1, 1, 2, 2]),
            coordinate_transformation_mode="tf_crop_and_resize",
        ),
        "crop",
    ),
    "complex": (one("Cast", IMAGE, to=TensorProto.COMPLEX64), "complex64"),
    "broadcast beyond memory": (
        graph(
            [n("Add", "a b", "c"), n("ReduceMax", "c", "m", keepdims=0), n("Add", "x m")],
            (6,),
            {"a": np.ones((60_000, 1), np.float32), "b": np.ones((1, 60_000), np.float32)},
        ),
        "makes a constant of 3600000000 values",
    ),
    "padding beyond memory": (
        graph(
            [n("Pad", "a p", "c"), n("ReduceMax", "c", "m", keepdims=0), n("Add", "x m")],
            (6,),
            {"a": np.ones((2, 2), np.float32), "p": np.array([0, 0, 2**36, 0])},
        ),
        "makes a constant of",
    ),
    "range over the batch": (
        graph(
            [
                n("Shape", "x", "s", end=1),
                n("Squeeze", "s", "q"),
                n("Range", "z q o", "r"),
                n("Gather", "x r"),
            ],
            (6,),
            {"z": np.int64(0), "o": np.int64(1)},
        ),
        "makes a constant",
    ),
    "unknown domain op": (
        graph([n("Debut", "x", domain=DOMAIN)], (6,)),
        "ai.sepdeploy.Debut",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_use_without_a_form_is_explained(name: str, tmp_path: Path) -> None:
    model, says = CASES[name]
    error = refused(model, tmp_path, says)
    assert error.message


def change(edit: Callable[[onnx.ModelProto], object]) -> onnx.ModelProto:
    model = graph([n("Gemm", "x w")], (6,), {"w": rand(6, 4)})
    edit(model)
    return model


def dim(model: onnx.ModelProto, axis: int) -> onnx.TensorShapeProto.Dimension:
    return model.graph.input[0].type.tensor_type.shape.dim[axis]


BROKEN: dict[str, tuple[Callable[[onnx.ModelProto], object], str]] = {
    "open width": (lambda m: setattr(dim(m, 1), "dim_param", "width"), "width"),
    "old opset": (lambda m: setattr(m.opset_import[0], "version", 9), "opset 9"),
    "no opset": (lambda m: m.opset_import.pop(0), "opset 0"),
    "text input": (
        lambda m: setattr(m.graph.input[0].type.tensor_type, "elem_type", TensorProto.STRING),
        "type object",
    ),
    "no type": (
        lambda m: setattr(m.graph.input[0].type.tensor_type, "elem_type", 0),
        "no element type",
    ),
    "no shape": (lambda m: m.graph.input[0].type.tensor_type.ClearField("shape"), "no shape"),
    "no input": (lambda m: m.graph.ClearField("input"), "no input"),
    "missing value": (lambda m: m.graph.ClearField("initializer"), "nothing before it computes"),
    "missing output": (lambda m: setattr(m.graph.output[0], "name", "q"), "not computed"),
    "weights elsewhere": (
        lambda m: setattr(m.graph.initializer[0], "data_location", TensorProto.EXTERNAL),
        "another file",
    ),
    "short weights": (
        lambda m: setattr(m.graph.initializer[0], "raw_data", b"1234"),
        "cannot be read",
    ),
    "branch": (
        lambda m: m.graph.node.append(
            n("If", "x", "z", then_branch=helper.make_graph([], "t", [], []))
        ),
        "subgraph",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_model_is_explained(name: str, tmp_path: Path) -> None:
    edit, says = BROKEN[name]
    refused(change(edit), tmp_path, says)


def test_targets_and_flavours_are_checked(tmp_path: Path) -> None:
    model = change(lambda m: None)
    refused(model, tmp_path, "closest: litert", runtime="lite")
    refused(model, tmp_path, "closest: custom", flavour="customs")
    eight = graph([n("Transpose", "x", perm=[0, 3, 2, 4, 1, 5, 7, 6])], (2, 3, 2, 3, 2, 3, 2))
    refused(eight, tmp_path, "8 dimensions")
