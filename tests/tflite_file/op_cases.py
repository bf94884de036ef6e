"""One-operator ONNX models: every converter, in the variants that differ in what is written."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import helper

Array = NDArray[Any]
IMAGE = (4, 12, 10)
_RNG = np.random.default_rng(7)


def rand(*shape: int) -> Array:
    return _RNG.standard_normal(shape).astype(np.float32)


def ints(*values: int) -> Array:
    return np.array(values, np.int64)


def floats(*values: float) -> Array:
    return np.array(values, np.float32)


@dataclass(frozen=True)
class Case:
    """A model y = op(x, constants...) on inputs of a shape."""

    op: str
    label: str
    shape: tuple[int, ...] = IMAGE
    constants: tuple[Array | None, ...] = ()
    attributes: dict[str, Any] = field(default_factory=dict)
    opset: int = 20
    x_at: int = 0  # position of the computed input
    low: float = -1.0
    high: float = 1.0
    outputs: int = 1

    def node(self) -> tuple[helper.NodeProto, dict[str, Array]]:
        constants = {f"c{i}": c for i, c in enumerate(self.constants) if c is not None}
        names = ["" if c is None else f"c{i}" for i, c in enumerate(self.constants)]
        names.insert(self.x_at, "x")
        outputs = ["y", *(f"y{i}" for i in range(1, self.outputs))]
        return helper.make_node(self.op, names, outputs, name="n", **self.attributes), constants


def conv(label: str, weight: Array, shape: tuple[int, ...] = IMAGE, **attributes: Any) -> Case:
    return Case("Conv", label, shape, (weight, rand(weight.shape[0])), attributes)


def deconv(label: str, weight: Array, shape: tuple[int, ...] = IMAGE, **attributes: Any) -> Case:
    units = weight.shape[1] * attributes.get("group", 1)
    return Case("ConvTranspose", label, shape, (weight, rand(units)), attributes)


CONVOLUTIONS = [
    conv("valid", rand(8, 4, 3, 3)),
    conv("same", rand(8, 4, 3, 3), pads=[1, 1, 1, 1]),
    conv("even same", rand(8, 4, 2, 2), auto_pad="SAME_UPPER"),
    conv("same lower", rand(8, 4, 2, 2), auto_pad="SAME_LOWER"),
    conv("auto valid", rand(8, 4, 2, 2), auto_pad="VALID"),
    conv("strided", rand(8, 4, 3, 3), pads=[1, 1, 1, 1], strides=[2, 2]),
    conv("odd", rand(8, 4, 3, 5), pads=[2, 1, 0, 3], strides=[2, 3]),
    conv("dilated", rand(8, 4, 3, 3), pads=[2, 2, 2, 2], dilations=[2, 2]),
    conv("dilated strided", rand(8, 4, 3, 2), dilations=[2, 3], strides=[1, 2]),
    conv("grouped", rand(8, 2, 3, 3), group=2, pads=[1, 1, 1, 1]),
    conv("depthwise", rand(4, 1, 3, 3), group=4, pads=[1, 1, 1, 1]),
    conv("depthwise x2", rand(8, 1, 3, 3), group=4, strides=[2, 1], dilations=[1, 2]),
    conv("pointwise", rand(8, 4, 1, 1)),
    conv("one channel", rand(3, 1, 3, 3), (1, 8, 8)),
    conv("signal", rand(8, 4, 3), (4, 20), pads=[1, 1], strides=[2]),
    conv("pointwise signal", rand(8, 4, 1), (4, 20)),
    Case("Conv", "no bias", IMAGE, (rand(5, 4, 3, 3),)),
    deconv("k2s2", rand(4, 6, 2, 2), strides=[2, 2]),
    deconv("k3s2", rand(4, 6, 3, 3), strides=[2, 2], pads=[1, 1, 1, 1], output_padding=[1, 1]),
    deconv("k4s2", rand(4, 6, 4, 4), strides=[2, 2], pads=[1, 1, 1, 1]),
    deconv("k2s2 longer", rand(4, 6, 2, 2), strides=[2, 2], output_padding=[1, 1]),
    deconv("s1", rand(4, 6, 3, 3), pads=[1, 1, 1, 1]),
    deconv("k2s3", rand(4, 6, 2, 2), strides=[3, 3]),
    deconv("grouped", rand(4, 3, 3, 3), strides=[2, 2], group=2),
    deconv("depthwise dilated", rand(4, 1, 3, 3), strides=[2, 2], group=4, dilations=[2, 2]),
    deconv("odd strides", rand(4, 6, 3, 3), strides=[2, 3]),
    deconv("same upper", rand(4, 6, 3, 3), strides=[2, 2], auto_pad="SAME_UPPER"),
    deconv("output shape", rand(4, 6, 3, 3), strides=[2, 2], output_shape=[24, 20]),
    deconv("signal", rand(4, 6, 4), (4, 20), strides=[2], pads=[1, 1]),
]

POOLS = [
    Case("MaxPool", "2", attributes={"kernel_shape": [2, 2], "strides": [2, 2]}),
    Case("MaxPool", "p1", attributes={"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1] * 4}),
    Case("MaxPool", "same", attributes={"kernel_shape": [3, 3], "pads": [1] * 4}),
    Case("MaxPool", "ceil", attributes={"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}),
    Case("MaxPool", "signal", (4, 20), attributes={"kernel_shape": [3], "strides": [2]}),
    Case("AveragePool", "2", attributes={"kernel_shape": [2, 2], "strides": [2, 2]}),
    Case(
        "AveragePool", "p1", attributes={"kernel_shape": [3, 3], "pads": [1] * 4, "strides": [2, 2]}
    ),
    Case(
        "AveragePool",
        "counted",
        attributes={
            "kernel_shape": [3, 3],
            "pads": [1] * 4,
            "strides": [2, 2],
            "count_include_pad": 1,
        },
    ),
    Case("AveragePool", "same", attributes={"kernel_shape": [3, 3], "pads": [1] * 4}),
    Case(
        "AveragePool",
        "ceil",
        attributes={
            "kernel_shape": [3, 3],
            "strides": [2, 2],
            "ceil_mode": 1,
            "pads": [1, 0, 1, 0],
        },
    ),
    Case("AveragePool", "signal", (4, 20), attributes={"kernel_shape": [3], "pads": [1, 1]}),
    Case("GlobalAveragePool", "2d"),
    Case("GlobalAveragePool", "1d", (4, 20)),
    Case("GlobalMaxPool", "2d"),
    Case("GlobalMaxPool", "1d", (4, 20)),
]

NORMS = [
    Case("BatchNormalization", "2d", IMAGE, (rand(4), rand(4), rand(4), np.abs(rand(4)))),
    Case("BatchNormalization", "1d", (6,), (rand(6), rand(6), rand(6), np.abs(rand(6)))),
    Case("LayerNormalization", "last", (5, 6), (rand(6), rand(6))),
    Case("LayerNormalization", "no bias", (5, 6), (rand(6),)),
    Case("LayerNormalization", "two", IMAGE, (rand(12, 10), rand(12, 10)), {"axis": -2}),
    Case("InstanceNormalization", "2d", IMAGE, (rand(4), rand(4))),
    Case("GroupNormalization", "per group", (6, 5, 4), (rand(2), rand(2)), {"num_groups": 2}, 20),
    Case("GroupNormalization", "per channel", (6, 5, 4), (rand(6), rand(6)), {"num_groups": 2}, 21),
]

_SMOOTH = ["Relu", "Sigmoid", "Tanh", "Elu", "Selu", "Celu", "Softplus", "Softsign", "Mish", "Erf"]
_SMOOTH += ["HardSigmoid", "HardSwish", "LeakyRelu", "Gelu", "Abs", "Neg", "Exp", "Floor", "Ceil"]
_SMOOTH += ["Round", "Sign", "Sin", "Cos", "Identity"]
ACTIVATIONS = [
    *(Case(op, "default", (7,), low=-4, high=4) for op in _SMOOTH),
    *(Case(op, "image", IMAGE, low=-4, high=4) for op in ("Relu", "Sigmoid", "Gelu")),
    *(Case(op, "positive", (7,), low=0.1, high=3) for op in ("Log", "Sqrt", "Reciprocal")),
    Case("Gelu", "tanh", (7,), attributes={"approximate": "tanh"}, low=-4, high=4),
    Case("Elu", "alpha", (7,), attributes={"alpha": 0.4}, low=-4, high=4),
    Case("Celu", "alpha", (7,), attributes={"alpha": 0.4}, low=-4, high=4),
    Case("LeakyRelu", "alpha", (7,), attributes={"alpha": 0.3}),
    Case("HardSigmoid", "sixth", (7,), attributes={"alpha": 1 / 6, "beta": 0.5}, low=-4, high=4),
    Case("PRelu", "channel", IMAGE, (rand(4, 1, 1),)),
    Case("PRelu", "one", IMAGE, (floats(0.2),)),
    Case("Clip", "both", IMAGE, (np.float32(-0.3), np.float32(0.5))),
    Case("Clip", "low", IMAGE, (np.float32(-0.3),)),
    Case("Clip", "high", IMAGE, (None, np.float32(0.3))),
    Case("Clip", "relu", IMAGE, (np.float32(0),)),
    Case("Clip", "relu6", IMAGE, (np.float32(0), np.float32(6)), low=-8, high=8),
    Case("Clip", "relu1", IMAGE, (np.float32(0), np.float32(1)), low=-8, high=8),
    Case("Softmax", "last", (5, 6)),
    Case("Softmax", "channels", IMAGE, attributes={"axis": 1}),
    Case("Softmax", "old", (3, 4), attributes={"axis": 1}, opset=11),
    Case("LogSoftmax", "last", (6,), attributes={"axis": -1}),
]

ARITHMETIC = [
    *(Case(op, "channel", IMAGE, (rand(4, 1, 1),)) for op in ("Add", "Sub", "Mul", "Div")),
    *(Case(op, "map", IMAGE, (rand(12, 10),)) for op in ("Add", "Mul", "Max", "Min")),
    *(Case(op, "number first", IMAGE, (floats(0.7),), x_at=1) for op in ("Sub", "Mul", "Max")),
    *(Case(op, "one more dimension", (6,), (rand(3, 1, 1, 6),)) for op in ("Add", "Mul", "Max")),
    *(
        Case(op, "constant", IMAGE, (floats(0.1),))
        for op in ("Greater", "Less", "GreaterOrEqual", "LessOrEqual", "Equal")
    ),
    Case("Div", "number first", IMAGE, (floats(0.7),), x_at=1, low=0.5),
    Case("Div", "huge", (4,), (floats(3e38),), low=1e37, high=3e38),
    Case("Pow", "2", (6,), (floats(2.0),)),
    Case("Pow", "3", (6,), (floats(3.0),)),
    Case("Pow", "half", (6,), (floats(0.5),), low=0.1),
    Case("Pow", "-half", (6,), (floats(-0.5),), low=0.1),
    Case("Pow", "1", (6,), (floats(1.0),)),
    Case("Pow", "1.7", (6,), (floats(1.7),), low=0.1),
    Case("Where", "mask", (3, 6), (np.tri(3, 6) > 0, floats(-1.0)), x_at=1),
    Case("Sum", "three", IMAGE, (rand(4, 1, 1), rand(12, 10))),
    Case("Mean", "three", IMAGE, (rand(4, 1, 1), rand(12, 10))),
    Case("IsNaN", "none", IMAGE),
]

SHAPES = [
    Case("Reshape", "flat", IMAGE, (ints(-1, 480),)),
    Case("Reshape", "split", IMAGE, (ints(0, 2, 2, 12, 10),)),
    Case("Reshape", "other", IMAGE, (ints(-1, 8, 60),)),
    Case("Flatten", "1", IMAGE),
    Case("Flatten", "2", IMAGE, attributes={"axis": 2}),
    Case("Flatten", "negative", IMAGE, attributes={"axis": -1}),
    Case("Squeeze", "axes", (4, 1, 10), (ints(2),)),
    Case("Squeeze", "attribute", (4, 1, 10), attributes={"axes": [2]}, opset=11),
    Case("Unsqueeze", "two", (4, 10), (ints(1, -1),)),
    Case("Unsqueeze", "attribute", (4, 10), attributes={"axes": [1]}, opset=11),
    *(
        Case("Transpose", str(p), IMAGE, attributes={"perm": p})
        for p in ([0, 2, 3, 1], [0, 3, 1, 2], [0, 1, 3, 2], [0, 2, 1, 3])
    ),
    Case("Expand", "middle", (6, 1), (ints(1, 6, 4),)),
    Case("Tile", "channels", IMAGE, (ints(1, 2, 1, 3),)),
    Case("DepthToSpace", "dcr", (8, 3, 5), attributes={"blocksize": 2}),
    Case("DepthToSpace", "crd", (8, 3, 5), attributes={"blocksize": 2, "mode": "CRD"}),
    Case("SpaceToDepth", "2", (3, 6, 4), attributes={"blocksize": 2}),
]

SELECTIONS = [
    Case("Slice", "box", IMAGE, (ints(1, 2), ints(3, 9), ints(1, 2))),
    Case("Slice", "steps", IMAGE, (ints(0, 1), ints(12, 10), ints(2, 3), ints(2, 3))),
    Case("Slice", "backwards", IMAGE, (ints(-1), ints(-(1 << 63)), ints(2), ints(-1))),
    Case("Slice", "backwards part", IMAGE, (ints(9), ints(2), ints(2), ints(-3))),
    Case("Slice", "to the end", IMAGE, (ints(-3), ints((1 << 63) - 1), ints(3))),
    Case("Split", "equal", IMAGE, attributes={"axis": 1, "num_outputs": 2}, outputs=2),
    Case("Split", "uneven", IMAGE, (ints(1, 3),), {"axis": 1}, outputs=2),
    Case("Split", "rest", (7,), attributes={"axis": 1, "num_outputs": 3}, outputs=3),
    Case("Split", "attribute", IMAGE, attributes={"axis": 2, "split": [5, 7]}, opset=11, outputs=2),
    Case("Gather", "scalar", IMAGE, (np.int64(2),), {"axis": 1}),
    Case("Gather", "range", IMAGE, (ints(1, 2),), {"axis": 2}),
    Case("Gather", "any", IMAGE, (ints(3, -4, 1),), {"axis": 1}),
    Case("Gather", "matrix", (5, 6), (np.array([[0, 2], [3, 3]]),), {"axis": 2}),
    Case("Pad", "zeros", IMAGE, (ints(0, 0, 1, 2, 0, 1, 0, 3),)),
    Case("Pad", "value", IMAGE, (ints(0, 0, 1, 2, 0, 1, 0, 3), np.float32(0.5))),
    Case("Pad", "axes", IMAGE, (ints(1, 2), None, ints(-1)), opset=18),
    Case("Pad", "reflect", IMAGE, (ints(0, 0, 1, 2, 0, 0, 0, 3),), {"mode": "reflect"}),
    Case("Pad", "edge", IMAGE, (ints(0, 0, 1, 2, 0, 0, 0, 3),), {"mode": "edge"}),
    Case("Pad", "wrap", IMAGE, (ints(0, 0, 1, 2, 0, 0, 0, 3),), {"mode": "wrap"}),
    Case("Pad", "crop", IMAGE, (ints(0, 0, -1, 2, 0, -1, 0, -3),)),
    Case("Trilu", "lower", (5, 6), attributes={"upper": 0}),
    Case("Trilu", "upper", (5, 6), (np.int64(1),)),
    Case("CumSum", "forward", (5, 6), (np.int64(1),)),
    Case("CumSum", "backward", (6,), (np.int64(1),), {"reverse": 1, "exclusive": 1}),
    Case("TopK", "last", (3, 6), (ints(2),), outputs=2),
    Case("TopK", "middle", (6, 3), (ints(2),), {"axis": 1}, outputs=2),
]

REDUCTIONS = [
    *(
        Case(f"Reduce{op}", f"{axes} {keep}", IMAGE, (ints(*axes),), {"keepdims": keep})
        for op in ("Mean", "Sum", "Max", "Min", "Prod", "L1", "L2", "SumSquare", "LogSumExp")
        for axes, keep in (((2, 3), 1), ((1,), 0))
    ),
    Case("ReduceMean", "mixed", IMAGE, (ints(1, 3),), {"keepdims": 0}),
    Case("ReduceMean", "attribute", IMAGE, attributes={"axes": [2, 3]}, opset=13),
    Case("ReduceMean", "nothing", IMAGE, attributes={"noop_with_empty_axes": 1}),
    Case("ArgMax", "last", (6,), attributes={"axis": 1}),
    Case("ArgMax", "channels", IMAGE, attributes={"axis": 1, "keepdims": 0}),
    Case("ArgMin", "rows", IMAGE, attributes={"axis": 2, "keepdims": 0}),
]

LINEAR = [
    Case("Gemm", "plain", (6,), (rand(6, 5), rand(5))),
    Case("Gemm", "transposed", (6,), (rand(5, 6), rand(5)), {"transB": 1}),
    Case("Gemm", "alpha beta", (6,), (rand(6, 5), rand(5)), {"alpha": 0.5, "beta": 2.0}),
    Case("Gemm", "no bias", (6,), (rand(6, 5),)),
    Case("Gemm", "number", (6,), (rand(6, 5), floats(0.3))),
    Case("MatMul", "right", (4, 6), (rand(6, 5),)),
    Case("MatMul", "left", (6, 5), (rand(4, 6),), x_at=1),
    Case("MatMul", "vector", (4, 6), (rand(6),)),
    Case("MatMul", "left vector", (6, 5), (rand(6),), x_at=1),
    Case("MatMul", "stack", (3, 4, 6), (rand(3, 6, 5),)),
    Case("MatMul", "left stack", (3, 6, 5), (rand(3, 4, 6),), x_at=1),
]


def resize(label: str, sizes: tuple[int, int] | None, **attributes: Any) -> Case:
    if sizes is None:
        return Case("Resize", label, IMAGE, (None, floats(1, 1, 2, 2)), attributes)
    axes = {"axes": [2, 3]}
    return Case("Resize", label, IMAGE, (None, None, ints(*sizes)), attributes | axes)


RESIZES = [
    resize("nearest", None, nearest_mode="floor", coordinate_transformation_mode="asymmetric"),
    resize("nearest default", None),
    resize("nearest any", (17, 7)),
    resize("nearest ceil", (17, 7), nearest_mode="ceil"),
    resize("linear", None, mode="linear"),
    resize("linear any", (17, 7), mode="linear"),
    resize("corners", (17, 7), mode="linear", coordinate_transformation_mode="align_corners"),
    resize("asymmetric", (17, 7), mode="linear", coordinate_transformation_mode="asymmetric"),
    resize("torch", (1, 20), mode="linear", coordinate_transformation_mode="pytorch_half_pixel"),
    resize("cubic", None, mode="cubic"),
]

_BOX = {"kernel_shape": [2, 3, 2], "strides": [1, 2, 1], "pads": [1, 1, 0, 0, 1, 1]}
RARE = [
    *(Case(op, "one", (7,), low=-0.9, high=0.9) for op in ("Asin", "Acos", "Atanh")),
    *(Case(op, "wide", (7,), low=-3, high=3) for op in ("Atan", "Asinh", "Sinh", "Cosh")),
    Case("Tan", "branch", (7,), low=-1.4, high=1.4),
    Case("Acosh", "above one", (7,), low=1.01, high=9),
    Case("IsInf", "none", (7,)),
    Case("IsInf", "below", (7,), attributes={"detect_positive": 0}),
    Case("Mod", "sign of x", (7,), (floats(0.7),), {"fmod": 1}, low=-5, high=5),
    Case("Hardmax", "channels", IMAGE, attributes={"axis": 1}),
    *(Case("LpNormalization", f"L{p}", IMAGE, attributes={"axis": 1, "p": p}) for p in (1, 2)),
    Case("LRN", "odd", (6, 5, 4), attributes={"size": 3, "alpha": 0.3}),
    Case("LRN", "wide", (6, 5, 4), attributes={"size": 5, "beta": 0.5, "bias": 2.0}),
    Case("LpPool", "padded", attributes={"kernel_shape": [3, 2], "pads": [1, 0, 1, 1], "p": 3}),
    Case("MaxPool", "dilated", attributes={"kernel_shape": [2, 3], "dilations": [2, 3]}),
    Case("MaxPool", "3-d", (2, 6, 8, 5), attributes=_BOX),
    Case("AveragePool", "3-d", (2, 6, 8, 5), attributes=_BOX),
    Case("AveragePool", "3-d counted", (2, 6, 8, 5), attributes=_BOX | {"count_include_pad": 1}),
    conv("3-d", rand(4, 2, 3, 2, 2), (2, 6, 8, 5), pads=[1, 0, 1, 1, 1, 0], strides=[2, 1, 1]),
    conv("3-d groups", rand(4, 1, 2, 3, 3), (2, 6, 8, 5), group=2, dilations=[2, 1, 1]),
    Case("ArgMax", "last of equals", IMAGE, attributes={"axis": 1, "select_last_index": 1}),
    Case("TopK", "smallest", (9,), (ints(3),), {"largest": 0}, outputs=2),
    Case("LayerNormalization", "statistics", (5, 6), (rand(6),), outputs=3, opset=17),
]

CASES = [
    *CONVOLUTIONS,
    *POOLS,
    *NORMS,
    *ACTIVATIONS,
    *ARITHMETIC,
    *SHAPES,
    *SELECTIONS,
    *REDUCTIONS,
    *LINEAR,
    *RESIZES,
    *RARE,
]
