"""Multiply-accumulates of one operator, of ONNX or TFLite: the only place that counts them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from onnx import NodeProto

from sepdeploy.exporters.onnx_graph.graph import attributes

Shape = tuple[int, ...]

# Place of the weight among the inputs.
CONVOLUTIONS = {"Conv": 1, "ConvInteger": 1, "QLinearConv": 3, "FusedConv": 1}
PRODUCTS = ("Gemm", "MatMul", "MatMulInteger", "QLinearMatMul", "FusedMatMul", "QGemm")
RECURRENT = ("LSTM", "GRU", "RNN")
COUNTED = {*CONVOLUTIONS, *PRODUCTS, *RECURRENT, "ConvTranspose"}


def operator_macs(node: NodeProto, shape: Callable[[str], Shape | None]) -> int:
    """Multiply-accumulates of a standard operator; 0 where its shapes are not known.

    Args:
        node: The operator.
        shape: The shape of a value, None where it is not known.
    """
    out = math.prod(shape(node.output[0]) or (0,))
    if node.op_type in CONVOLUTIONS:
        return out * math.prod((shape(node.input[CONVOLUTIONS[node.op_type]]) or (0, 0))[1:])
    if node.op_type == "ConvTranspose":  # the kernel is applied at each place of the input
        places = math.prod((shape(node.input[0]) or (0, 0))[2:])
        return places * math.prod(shape(node.input[1]) or (0,))
    if node.op_type in RECURRENT:  # both matrices at every step; (steps, batch) in either order
        steps = math.prod((shape(node.input[0]) or (0, 0))[:2])
        return steps * sum(math.prod(shape(name) or (0,)) for name in node.input[1:3])
    if node.op_type in PRODUCTS:
        left = shape(node.input[0]) or (0,)  # a scalar has no rows
        return out * (left[0] if attributes(node).get("transA", 0) else left[-1])
    return 0


# TFLite: operators that are counted, with the places of their weights.
TFLITE_COUNTED = {
    "FULLY_CONNECTED": 1, "BATCH_MATMUL": 1, "CONV_2D": 1, "DEPTHWISE_CONV_2D": 1,
    "TRANSPOSE_CONV": 1, "CONV_3D": 1,
}  # fmt: skip


def tflite_macs(kind: str, inputs: Sequence[Shape], output: Shape) -> int:
    """Multiply-accumulates of a TFLite operator; 0 where none are counted.

    Args:
        kind: The operator.
        inputs: Shapes of its inputs.
        output: Shape of its output.
    """
    out = math.prod(output)
    if kind == "FULLY_CONNECTED":
        return out * inputs[1][-1]
    if kind == "BATCH_MATMUL":
        return out * inputs[0][-1]
    if kind == "CONV_2D":  # out, height, width, in
        return out * math.prod(inputs[1][1:])
    if kind == "CONV_3D":  # depth, height, width, in, out
        return out * math.prod(inputs[1][:-1])
    if kind == "DEPTHWISE_CONV_2D":
        return out * math.prod(inputs[1][1:3])
    if kind == "TRANSPOSE_CONV":
        return math.prod(inputs[2]) * math.prod(inputs[1][:3])
    return 0
