"""Multiply-accumulates of one ONNX node: the only place that counts them."""

from __future__ import annotations

import math
from collections.abc import Callable

from onnx import NodeProto

from sepdeploy.exporters.onnx_graph.graph import attributes

Shape = tuple[int, ...]

# Place of the weight among the inputs.
CONVOLUTIONS = {"Conv": 1, "ConvInteger": 1, "QLinearConv": 3}
PRODUCTS = ("Gemm", "MatMul", "MatMulInteger", "QLinearMatMul")


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
    if node.op_type in PRODUCTS:
        left = shape(node.input[0]) or (0,)  # a scalar has no rows
        return out * (left[0] if attributes(node).get("transA", 0) else left[-1])
    return 0
