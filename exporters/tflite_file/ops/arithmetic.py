"""Element-wise arithmetic, comparison and activation functions."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from sepdeploy.errors import BadInput
from sepdeploy.exporters.tflite_file.context import Context, Item
from sepdeploy.exporters.tflite_file.elementwise import binary, unary
from sepdeploy.exporters.tflite_file.layout import Constant, Value
from sepdeploy.exporters.tflite_file.source import Node

Converter = Callable[[Context, Node, Sequence[Item | None]], list[Item]]


def scalar(value: float) -> Constant:
    """Return a float32 constant of one element."""
    return Constant(np.array([value], np.float32), (1,))


def binary_op(kind: str) -> Converter:
    """Return the converter to a TFLite operator of two operands."""

    def convert(ctx: Context, node: Node, inputs: Sequence[Item | None]) -> list[Item]:
        x, y = ctx.item(node, inputs, 0), ctx.item(node, inputs, 1)
        return [binary(ctx.b, kind, x, y)]

    return convert


def compare_op(kind: str) -> Converter:
    """Return the converter to a TFLite comparison."""

    def convert(ctx: Context, node: Node, inputs: Sequence[Item | None]) -> list[Item]:
        x, y = ctx.item(node, inputs, 0), ctx.item(node, inputs, 1)
        return [binary(ctx.b, kind, x, y, dtype=bool)]

    return convert


def unary_op(kind: str) -> Converter:
    """Return the converter to a TFLite operator of one operand without options."""

    def convert(ctx: Context, node: Node, inputs: Sequence[Item | None]) -> list[Item]:
        return [unary(ctx.b, kind, ctx.value(node, inputs, 0))]

    return convert


def divide(ctx: Context, node: Node, inputs: Sequence[Item | None]) -> list[Item]:
    """X / y; a constant divisor becomes a factor, which every runtime has a fast kernel for."""
    x, y = ctx.item(node, inputs, 0), ctx.item(node, inputs, 1)
    if not np.issubdtype(_dtype(x), np.floating):
        raise BadInput(
            f"{node}: integer division at run time has no TFLite form",
            hint="compute it before export, or in float",
        )
    if isinstance(y, Constant) and np.all(y.data != 0) and _exact_inverse(y.data):
        return [binary(ctx.b, "MUL", x, Constant(np.float32(1) / y.data, y.shape))]
    return [binary(ctx.b, "DIV", x, y)]


def _exact_inverse(data: np.ndarray) -> bool:
    """Whether 1/data is finite and normal in float32."""
    with np.errstate(all="ignore"):
        inverse = np.abs(np.float32(1) / data)
    return bool(np.all(np.isfinite(inverse)) and np.all(inverse >= np.finfo(np.float32).tiny))


def _dtype(item: Item) -> np.dtype:
    return item.tensor.dtype if isinstance(item, Value) else item.data.dtype
