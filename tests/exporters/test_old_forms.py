"""Operators whose meaning depends on the opset, and values of 16 bits: as ONNX Runtime has them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from foreign_graphs import foreign, onnx_run, stored
from onnx import TensorProto, helper

import sepdeploy as sd
from sepdeploy import runtimes
from sepdeploy.exporters.capture.normalize import normalize
from sepdeploy.exporters.capture.onnx_source import read_onnx

IMAGE = ("N", 4, 6, 6)
RNG = np.random.default_rng(0)


def floats(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def halves(*shape: int) -> np.ndarray:
    return floats(*shape).astype(np.float16)


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def cast(x: str, y: str, to: int) -> Any:
    return helper.make_node("Cast", [x], [y], to=to)


def case(op: str, opset: int, *constants: np.ndarray, shape=IMAGE, **attributes: Any) -> Any:
    """One operator on the input, then a dense layer's worth of nothing."""
    named = {f"c{k}": c for k, c in enumerate(constants)}
    nodes = [helper.make_node(op, ["image", *named], ["y"], **attributes)]
    return foreign(nodes, named, opset=opset, shape=shape)


def island(*inside: Any, constants: dict[str, np.ndarray], kind=TensorProto.FLOAT16) -> Any:
    """The input at 16 bits, what is done to ``a`` there, and ``b`` in float32 again."""
    nodes = [cast("image", "a", kind), *inside, cast("b", "y", TensorProto.FLOAT)]
    return foreign(nodes, constants, opset=18, shape=IMAGE)


OPSETS = {
    **{f"groups {o}": case("GroupNormalization", o, floats(2), floats(2), num_groups=2)
       for o in (18, 20)},
    "groups 18, vectors": case("GroupNormalization", 18, floats(4), floats(4), num_groups=4,
                               shape=("N", 4, 9), epsilon=0.1),
    "groups 18, volumes": case("GroupNormalization", 18, floats(1), floats(1), num_groups=1,
                               shape=("N", 4, 2, 3, 3)),
    "groups 21": case("GroupNormalization", 21, floats(4), floats(4), num_groups=2),
    "groups 22": case("GroupNormalization", 22, floats(4), floats(4), num_groups=2, epsilon=0.5),
    **{f"softmax {o}": case("Softmax", o, axis=1) for o in (11, 12, 13)},
    "log softmax 11": case("LogSoftmax", 11, axis=2),
    "hardmax 11": case("Hardmax", 11, axis=1),
    "sum 11": case("ReduceSum", 11, axes=[1], keepdims=1),
    "sum 13": case("ReduceSum", 13, ints(1)),
    "mean 13": case("ReduceMean", 13, axes=[2, 3]),
    "mean 18": case("ReduceMean", 18, ints(2, 3)),
    "batch norm 11": case("BatchNormalization", 11, floats(4), floats(4), floats(4),
                          np.abs(floats(4)) + 1),
    "pad 11": case("Pad", 11, ints(0, 0, 1, 1, 0, 0, 2, 0), mode="reflect"),
    "clip 11": case("Clip", 11, np.float32(0.2), np.float32(0.6)),
    "unsqueeze 11": case("Unsqueeze", 11, axes=[2]),
    "average 11": case("AveragePool", 11, kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1),
    "average 19": case("AveragePool", 19, kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1),
    "resize 11": case("Resize", 11, floats(0), np.array([1, 1, 2, 2], np.float32),
                      mode="nearest", nearest_mode="floor",
                      coordinate_transformation_mode="asymmetric"),
    "resize 13": case("Resize", 13, floats(0), np.array([1, 1, 2, 2], np.float32), mode="linear"),
    "grid 16": case("GridSample", 16, np.tile(floats(1, 3, 3, 2), (2, 1, 1, 1)),
                    shape=(2, 4, 6, 6), mode="bilinear"),
    "like 18": foreign(
        [helper.make_node("CastLike", ["k", "image"], ["f"]),
         helper.make_node("Mul", ["image", "f"], ["y"])],
        {"k": ints(3)}, opset=18, shape=IMAGE),
}  # fmt: skip
CONVOLUTION = helper.make_node("Conv", ["a", "w"], ["b"], pads=[1, 1, 1, 1])
HALVES = {
    "a rounding": island(helper.make_node("Identity", ["a"], ["b"]), constants={}),
    "a convolution": island(CONVOLUTION, constants={"w": halves(4, 4, 3, 3)}),
    "a constant": foreign(
        [cast("k", "f", TensorProto.FLOAT), helper.make_node("Mul", ["image", "f"], ["y"])],
        {"k": halves(1)}, opset=18, shape=IMAGE),
    "a product like another": foreign(
        [helper.make_node("CastLike", ["image", "k"], ["a"]),
         helper.make_node("Mul", ["a", "k"], ["b"]), cast("b", "y", TensorProto.FLOAT)],
        {"k": halves(1)}, opset=18, shape=IMAGE),
    "bfloat16": island(helper.make_node("Identity", ["a"], ["b"]), constants={},
                       kind=TensorProto.BFLOAT16),
}  # fmt: skip


def both(tmp_path, model: Any) -> tuple[np.ndarray, np.ndarray, Any]:
    """What ONNX Runtime says to the file and to its canonical form."""
    path = stored(tmp_path, model)
    canonical = normalize(*read_onnx(path), where="net", notify=lambda _: None)
    rows = model.graph.input[0].type.tensor_type.shape.dim
    x = np.random.default_rng(1).random([d.dim_value or 2 for d in rows], np.float32)
    theirs, ours = onnx_run(path, x), onnx_run(canonical, x)
    return theirs, ours, canonical


@pytest.mark.parametrize("name", OPSETS)
def test_an_operator_of_any_opset_keeps_its_meaning(tmp_path, name) -> None:
    theirs, ours, canonical = both(tmp_path, OPSETS[name])
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
    assert {o.version for o in canonical.opset_import if o.domain == ""} == {20}


@pytest.mark.parametrize("name", HALVES)
def test_what_was_computed_in_16_bits_is_computed_in_float32(tmp_path, name) -> None:
    theirs, ours, canonical = both(tmp_path, HALVES[name])
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-2 * np.abs(theirs).max())
    assert TensorProto.FLOAT16 not in {t.data_type for t in canonical.graph.initializer}
    casts = [n.attribute[0].i for n in canonical.graph.node if n.op_type == "Cast"]
    assert set(casts) <= {TensorProto.FLOAT}


@pytest.mark.slow
@pytest.mark.skipif(not runtimes.installed("tflite"), reason="no TFLite runtime")
@pytest.mark.parametrize("name", ["groups 18", "groups 21", "a convolution"])
def test_they_go_the_whole_way_in_both_formats(tmp_path, name) -> None:
    model = (OPSETS | HALVES)[name]
    weight = helper.make_tensor("wide", TensorProto.FLOAT, [144, 10], floats(144, 10).ravel())
    model.graph.initializer.append(weight)
    open_shape = helper.make_tensor_value_info("scores", TensorProto.FLOAT, None)
    model.graph.output[0].CopyFrom(open_shape)
    model.graph.node.extend(
        [helper.make_node("Flatten", ["y"], ["flat"]),
         helper.make_node("MatMul", ["flat", "wide"], ["scores"])]
    )  # fmt: skip
    path = stored(tmp_path, model)
    x = np.random.default_rng(1).random((3, 4, 6, 6), np.float32)
    theirs = onnx_run(path, x)
    sd.export(path, out_dir=tmp_path / "a", formats=("tflite",))
    sd.export(path, out_dir=tmp_path / "b", formats=("onnx",), quantize="fp16")
    for made in (tmp_path / "a/m.tflite", tmp_path / "b/m.onnx"):
        with sd.open(made) as opened:
            np.testing.assert_allclose(opened.run(x), theirs, atol=1e-2 * np.abs(theirs).max())
