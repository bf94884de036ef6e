"""Functions of one or two values that TFLite has no operator for, composed of others."""

from __future__ import annotations

import math

import numpy as np
import onnx

from sepdeploy.errors import TFLITE_FORM, BadInput
from sepdeploy.exporters.tflite_file.format.graph import Array, describe, is_batch
from sepdeploy.exporters.tflite_file.ops.activation import clipped
from sepdeploy.exporters.tflite_file.ops.arithmetic import scalar
from sepdeploy.exporters.tflite_file.ops.reduce import arg_value, reduce_value
from sepdeploy.exporters.tflite_file.source import Node
from sepdeploy.exporters.tflite_file.values.affine import Converter
from sepdeploy.exporters.tflite_file.values.builder import Builder
from sepdeploy.exporters.tflite_file.values.context import Context, Inputs, Item, axis_of
from sepdeploy.exporters.tflite_file.values.contract import contract
from sepdeploy.exporters.tflite_file.values.elementwise import align, binary, unary
from sepdeploy.exporters.tflite_file.values.layout import Constant, Value


def of_angle(op: str) -> Converter:
    """Return the converter of a trigonometric or hyperbolic function, or of its inverse."""

    def convert(ctx: Context, node: Node, inputs: Inputs) -> list[Item]:
        return [_ANGLES[op](ctx.b, ctx.value(node, inputs, 0))]

    return convert


def _tan(b: Builder, x: Value) -> Value:
    return binary(b, "DIV", unary(b, "SIN", x), unary(b, "COS", x))


def _of_exponentials(b: Builder, x: Value, kind: str) -> Value:
    up, down = unary(b, "EXP", x), unary(b, "EXP", unary(b, "NEG", x))
    return binary(b, "MUL", binary(b, kind, up, down), scalar(0.5))


def _ones(b: Builder, x: Value) -> Value:
    return clipped(b, clipped(b, x, -math.inf, 1.0), 1.0, math.inf)


def _atan2(b: Builder, y: Value, x: Value) -> Value:
    tensors, result = align(b, [y, x])
    return result.with_tensor(b.op("ATAN2", tensors, result.tensor.shape))


def _leg(b: Builder, x: Value) -> Value:
    """Return the square root of 1 - x², exact near 1."""
    low, high = binary(b, "SUB", scalar(1), x), binary(b, "ADD", scalar(1), x)
    return unary(b, "SQRT", binary(b, "MUL", low, high))


def _asinh(b: Builder, x: Value) -> Value:
    size = unary(b, "ABS", x)
    root = unary(b, "SQRT", binary(b, "ADD", binary(b, "MUL", x, x), scalar(1)))
    return binary(b, "MUL", unary(b, "SIGN", x), unary(b, "LOG", binary(b, "ADD", size, root)))


def _acosh(b: Builder, x: Value) -> Value:
    low, high = binary(b, "SUB", x, scalar(1)), binary(b, "ADD", x, scalar(1))
    root = unary(b, "SQRT", binary(b, "MUL", low, high))
    return unary(b, "LOG", binary(b, "ADD", x, root))


def _atanh(b: Builder, x: Value) -> Value:
    low, high = binary(b, "SUB", scalar(1), x), binary(b, "ADD", scalar(1), x)
    return binary(b, "MUL", unary(b, "LOG", binary(b, "DIV", high, low)), scalar(0.5))


_ANGLES = {
    "Tan": _tan,
    "Sinh": lambda b, x: _of_exponentials(b, x, "SUB"),
    "Cosh": lambda b, x: _of_exponentials(b, x, "ADD"),
    "Atan": lambda b, x: _atan2(b, x, _ones(b, x)),
    "Asin": lambda b, x: _atan2(b, x, _leg(b, x)),
    "Acos": lambda b, x: _atan2(b, _leg(b, x), x),
    "Asinh": _asinh,
    "Acosh": _acosh,
    "Atanh": _atanh,
}
ANGLES = tuple(_ANGLES)


def modulo(ctx: Context, node: Node, inputs: Inputs) -> list[Item]:
    """Return what is left of a division, with the sign of the divisor, or with fmod of x."""
    x, y = ctx.item(node, inputs, 0), ctx.item(node, inputs, 1)
    if not ctx.integer(node, "fmod", 0):
        return [binary(ctx.b, "FLOOR_MOD", x, y)]
    x = ctx.b.runtime(x)
    left = binary(ctx.b, "FLOOR_MOD", _size(ctx.b, x), _size(ctx.b, ctx.b.runtime(y)))
    zero = Constant(np.zeros((), x.tensor.dtype), ())
    negative = binary(ctx.b, "LESS", x, zero, dtype=bool)
    return [chosen(ctx.b, negative, unary(ctx.b, "NEG", left), left)]


def _size(b: Builder, x: Value) -> Value:
    return binary(b, "MAXIMUM", x, unary(b, "NEG", x))


def chosen(b: Builder, where: Item, yes: Item, no: Item) -> Value:
    """Emit SELECT_V2 of items that broadcast."""
    tensors, result = align(b, [where, yes, no])
    shape = result.tensor.shape
    return result.with_tensor(b.op("SELECT_V2", tensors, shape, dtype=tensors[1].dtype))


def is_inf(ctx: Context, node: Node, inputs: Inputs) -> list[Item]:
    """Whether x is infinite, of either sign or of one."""
    x = ctx.value(node, inputs, 0)
    if ctx.integer(node, "detect_negative", 1) and ctx.integer(node, "detect_positive", 1):
        return [binary(ctx.b, "EQUAL", unary(ctx.b, "ABS", x), scalar(math.inf), dtype=bool)]
    sign = -1 if ctx.integer(node, "detect_negative", 1) else 1
    return [binary(ctx.b, "EQUAL", x, scalar(sign * math.inf), dtype=bool)]


def hardmax(ctx: Context, node: Node, inputs: Inputs) -> list[Item]:
    """One where the first largest value along an axis stands, else zero."""
    x = ctx.value(node, inputs, 0)
    axis = axis_of(node, ctx.integer(node, "axis", -1), len(x.shape))
    best = arg_value(ctx, node, "ARG_MAX", x, axis)
    places = along(np.arange(x.shape[axis]), axis, len(x.shape))
    same = binary(ctx.b, "EQUAL", best, Constant(places, places.shape), dtype=bool)
    return [chosen(ctx.b, same, scalar(1), scalar(0))]


def along(data: Array, axis: int, rank: int) -> Array:
    """Return a vector as an array that varies along one axis."""
    return data.reshape([-1 if a == axis else 1 for a in range(rank)])


def lp_normalization(ctx: Context, node: Node, inputs: Inputs) -> list[Item]:
    """Return x over its L1 or L2 norm along an axis, 0 where that is 0."""
    x = ctx.value(node, inputs, 0)
    axis = axis_of(node, ctx.integer(node, "axis", -1), len(x.shape))
    p = ctx.integer(node, "p", 2)
    terms = unary(ctx.b, "ABS", x) if p == 1 else binary(ctx.b, "MUL", x, x)
    norm = reduce_value(ctx, "SUM", terms, [axis], keep=True)
    norm = norm if p == 1 else unary(ctx.b, "SQRT", norm)
    tiny = scalar(float(np.finfo(np.float32).tiny))
    return [binary(ctx.b, "DIV", x, binary(ctx.b, "MAXIMUM", norm, tiny))]


def local_response(ctx: Context, node: Node, inputs: Inputs) -> list[Item]:
    """Return x over a power of the squares of the channels around; a sum is a banded product."""
    x = ctx.value(node, inputs, 0)
    size, channels = ctx.integer(node, "size"), x.shape[1]
    if is_batch(channels):
        raise BadInput(f"{node}: {describe(x.shape)} has no channels", hint=TFLITE_FORM)
    before, after = (size - 1) // 2, size // 2
    gap = np.arange(channels)[None] - np.arange(channels)[:, None]
    band = ((gap >= -before) & (gap <= after)).astype(np.float32)
    alpha, beta = ctx.number(node, "alpha", 1e-4), ctx.number(node, "beta", 0.75)
    bias = np.full(channels, ctx.number(node, "bias", 1.0), np.float32)
    squares = contract(
        ctx.b, binary(ctx.b, "MUL", x, x), 1, band * np.float32(alpha / size), bias, "band"
    )
    return [binary(ctx.b, "MUL", x, binary(ctx.b, "POW", squares, scalar(-beta)))]


def dropout(ctx: Context, node: Node, inputs: Inputs) -> list[Item]:
    """Return x as it is; the mask of what is kept is true everywhere."""
    x = ctx.item(node, inputs, 0)
    training = ctx.optional(inputs, 2)
    if training is not None and not (isinstance(training, Constant) and not training.data.any()):
        raise BadInput(f"{node} is in training mode", hint="call model.eval() before the export")
    return [x, Constant(np.ones((1,) * len(x.shape), bool), x.shape)][: max(len(node.outputs), 1)]


def dequantize(ctx: Context, node: Node, inputs: Inputs) -> list[Item]:
    """Return scale * (x - zero)."""
    x = ctx.value(node, inputs, 0)
    scale, zero = _scaling(ctx, node, inputs, len(x.shape))
    real = unary(ctx.b, "CAST", x, dtype=np.float32, in_dtype=x.tensor.dtype.name)
    if zero.any():
        real = binary(ctx.b, "SUB", real, Constant(zero, zero.shape))
    return [binary(ctx.b, "MUL", real, Constant(scale, scale.shape))]


def quantize(ctx: Context, node: Node, inputs: Inputs) -> list[Item]:
    """Round x / scale + zero, held inside the integers' range."""
    x = ctx.value(node, inputs, 0)
    scale, zero = _scaling(ctx, node, inputs, len(x.shape))
    given = ctx.optional_array(node, inputs, 2)
    code = ctx.integer(node, "output_dtype", 0) or onnx.TensorProto.UINT8
    kind = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(code)) if given is None else given.dtype
    if kind.name not in ("int8", "uint8", "int16"):
        raise BadInput(f"{node}: {kind} has no TFLite form", hint="int8, uint8 and int16 have one")
    limits = np.iinfo(kind)
    y = unary(ctx.b, "ROUND", binary(ctx.b, "DIV", x, Constant(scale, scale.shape)))
    y = binary(ctx.b, "ADD", y, Constant(zero, zero.shape)) if zero.any() else y
    y = clipped(ctx.b, y, float(limits.min), float(limits.max))
    return [unary(ctx.b, "CAST", y, dtype=kind, in_dtype="float32", out_dtype=kind.name)]


def _scaling(ctx: Context, node: Node, inputs: Inputs, rank: int) -> tuple[Array, Array]:
    """Return scale and zero point as floats that broadcast to x."""
    scale = ctx.array(node, inputs, 1).astype(np.float32)
    given = ctx.optional_array(node, inputs, 2)
    zero = np.zeros(scale.shape, np.float32) if given is None else given.astype(np.float32)
    if ctx.integer(node, "block_size", 0):
        raise BadInput(f"{node}: scales of blocks have no TFLite form", hint=TFLITE_FORM)
    if scale.size == 1:
        return scale.reshape(()), zero.reshape(())
    axis = axis_of(node, ctx.integer(node, "axis", 1), rank)
    return along(scale, axis, rank), along(zero, axis, rank)
