"""Element-wise arithmetic, comparison and activation functions."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import DTypeLike

from sepdeploy.errors import TFLITE_FORM, BadInput
from sepdeploy.exporters.tflite_file.format.graph import Array
from sepdeploy.exporters.tflite_file.format.types import computes
from sepdeploy.exporters.tflite_file.source import Node
from sepdeploy.exporters.tflite_file.values.affine import Converter
from sepdeploy.exporters.tflite_file.values.context import Context, Inputs, Item
from sepdeploy.exporters.tflite_file.values.elementwise import align, binary, unary
from sepdeploy.exporters.tflite_file.values.layout import Constant, Value


def scalar(value: float) -> Constant:
    """Return a float32 constant without dimensions."""
    return Constant(np.array(value, np.float32), ())


def binary_op(kind: str, *, dtype: DTypeLike = None) -> Converter:
    """Return the converter to a TFLite operator of two operands.

    Args:
        kind: The operator.
        dtype: Type of the result, where it is not that of the operands.
    """

    def convert(ctx: Context, node: Node, inputs: Inputs) -> list[Item]:
        x, y = ctx.item(node, inputs, 0), ctx.item(node, inputs, 1)
        return [binary(ctx.b, kind, x, y, dtype=dtype)]

    return convert


def unary_op(kind: str) -> Converter:
    """Return the converter to a TFLite operator of one operand without options."""

    def convert(ctx: Context, node: Node, inputs: Inputs) -> list[Item]:
        return [unary(ctx.b, kind, ctx.value(node, inputs, 0))]

    return convert


def divide(ctx: Context, node: Node, inputs: Inputs) -> list[Item]:
    """X / y; a constant divisor becomes a factor, which every runtime has a fast kernel for."""
    x, y = ctx.item(node, inputs, 0), ctx.item(node, inputs, 1)
    if not np.issubdtype(_dtype(x), np.floating):
        return [binary(ctx.b, "DIV", x, y)]
    if isinstance(y, Constant) and np.all(y.data != 0) and _exact_inverse(y.data):
        return [binary(ctx.b, "MUL", x, Constant(np.float32(1) / y.data, y.shape))]
    return [binary(ctx.b, "DIV", x, y)]


def _exact_inverse(data: Array) -> bool:
    """Whether 1/data is finite and normal in float32."""
    with np.errstate(all="ignore"):
        inverse = np.abs(np.float32(1) / data)
    return bool(np.all(np.isfinite(inverse)) and np.all(inverse >= np.finfo(np.float32).tiny))


def _dtype(item: Item) -> np.dtype[Any]:
    return item.tensor.dtype if isinstance(item, Value) else item.data.dtype


def power(ctx: Context, node: Node, inputs: Inputs) -> list[Item]:
    """Return x to the power y; common constant powers become multiplications and roots."""
    x, y = ctx.item(node, inputs, 0), ctx.item(node, inputs, 1)
    if isinstance(x, Value) and isinstance(y, Constant) and y.data.size == 1:
        exponent = float(y.data.reshape(-1)[0])
        if exponent == 1.0:
            return [x]
        if exponent in (2.0, 3.0):
            square = binary(ctx.b, "MUL", x, x)
            return [square if exponent == 2.0 else binary(ctx.b, "MUL", square, x)]
        if exponent in (0.5, -0.5):
            return [unary(ctx.b, "SQRT" if exponent > 0 else "RSQRT", x)]
    if isinstance(y, Constant):
        y = Constant(y.data.astype(_dtype(x)), y.shape)
    if _dtype(x) != _dtype(y):
        if not np.issubdtype(_dtype(x), np.floating):
            raise BadInput(
                f"{node}: {_dtype(x)} to a {_dtype(y)} has no TFLite form", hint=TFLITE_FORM
            )
        exponent_type = {"in_dtype": _dtype(y).name, "out_dtype": "float32"}
        y = unary(ctx.b, "CAST", ctx.b.runtime(y), dtype=np.float32, **exponent_type)
    return [binary(ctx.b, "POW", x, y)]


def reciprocal(ctx: Context, node: Node, inputs: Inputs) -> list[Item]:
    """1 / x."""
    return [binary(ctx.b, "DIV", scalar(1.0), ctx.value(node, inputs, 0))]


def variadic_op(kind: str, *, mean: bool = False) -> Converter:
    """Return the converter of an operator that joins any number of operands."""

    def convert(ctx: Context, node: Node, inputs: Inputs) -> list[Item]:
        total = ctx.item(node, inputs, 0)
        for index in range(1, len(inputs)):
            total = binary(ctx.b, kind, total, ctx.item(node, inputs, index))
        if mean and len(inputs) > 1:
            total = binary(ctx.b, "MUL", total, scalar(1 / len(inputs)))
        return [total]

    return convert


def where(ctx: Context, node: Node, inputs: Inputs) -> list[Item]:
    """Choose from two operands element by element."""
    items = [ctx.item(node, inputs, i) for i in range(3)]
    tensors, result = align(ctx.b, items)
    out = ctx.b.op("SELECT_V2", tensors, result.tensor.shape, dtype=tensors[1].dtype)
    return [result.with_tensor(out)]


def is_nan(ctx: Context, node: Node, inputs: Inputs) -> list[Item]:
    """True where x differs from itself."""
    x = ctx.value(node, inputs, 0)
    return [binary(ctx.b, "NOT_EQUAL", x, x, dtype=bool)]


def cast(ctx: Context, node: Node, inputs: Inputs) -> list[Item]:
    """Change the element type; floats of any width are float32 in the file."""
    x = ctx.value(node, inputs, 0)
    code = ctx.integer(node, "to")
    try:
        dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(code))
    except KeyError as error:
        raise BadInput(f"{node}: element type {code} is not known", hint=TFLITE_FORM) from error
    if np.issubdtype(dtype, np.floating) or dtype.name == "bfloat16":
        dtype = np.dtype(np.float32)
    if dtype == x.tensor.dtype:
        return [x]
    if not computes("CAST", dtype):
        raise BadInput(
            f"{node}: casts to {dtype.name} are not written", hint="cast to float32 or int64"
        )
    options = {"in_dtype": x.tensor.dtype.name, "out_dtype": dtype.name}
    return [unary(ctx.b, "CAST", x, dtype=dtype, **options)]
