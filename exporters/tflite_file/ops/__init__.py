"""Which converter turns which ONNX operator into TFLite operators."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sepdeploy.exporters.tflite_file.context import Context, Item
from sepdeploy.exporters.tflite_file.ops import arithmetic, linear, shape, structured
from sepdeploy.exporters.tflite_file.source import DOMAIN, Node

Converter = Callable[[Context, Node, Sequence[Item | None]], list[Item]]

CONVERTERS: dict[tuple[str, str], Converter] = {
    (DOMAIN, "KronLinear"): structured.kron_linear,
    (DOMAIN, "LowRankLinear"): structured.low_rank_linear,
    ("", "Gemm"): linear.gemm,
    ("", "MatMul"): linear.matmul,
    ("", "Add"): arithmetic.binary_op("ADD"),
    ("", "Sub"): arithmetic.binary_op("SUB"),
    ("", "Mul"): arithmetic.binary_op("MUL"),
    ("", "Div"): arithmetic.divide,
    ("", "Relu"): arithmetic.unary_op("RELU"),
    ("", "Sigmoid"): arithmetic.unary_op("LOGISTIC"),
    ("", "Tanh"): arithmetic.unary_op("TANH"),
    ("", "Identity"): shape.identity,
    ("", "Dropout"): shape.identity,
    ("", "Reshape"): shape.reshape,
    ("", "Flatten"): shape.flatten,
    ("", "Squeeze"): shape.squeeze,
    ("", "Unsqueeze"): shape.unsqueeze,
    ("", "Transpose"): shape.transpose,
}

# The nearest way out for operators that have no TFLite form, where there is one.
NEAREST: dict[str, str] = {
    "Loop": "unroll the loop before export",
    "If": "export the branch that is taken at inference",
}
