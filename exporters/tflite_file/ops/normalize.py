"""Batch, layer, group and instance normalisation, composed of means and products."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from sepdeploy.errors import GRAPH, BadInput
from sepdeploy.exporters.tflite_file.format.graph import Array, describe
from sepdeploy.exporters.tflite_file.ops.arithmetic import scalar
from sepdeploy.exporters.tflite_file.ops.reduce import reduce_value
from sepdeploy.exporters.tflite_file.source import Node
from sepdeploy.exporters.tflite_file.values.affine import Lazy, hold
from sepdeploy.exporters.tflite_file.values.context import Context, Inputs, Item, axis_of
from sepdeploy.exporters.tflite_file.values.elementwise import binary, unary
from sepdeploy.exporters.tflite_file.values.layout import Constant, Value


def batch_norm(ctx: Context, node: Node, inputs: Inputs) -> list[Lazy]:
    """Batch normalisation at inference that could not be folded: one product and one sum."""
    x = ctx.value(node, inputs, 0)
    if ctx.integer(node, "training_mode", 0):
        raise BadInput(f"{node} is in training mode", hint="call model.eval() before the export")
    if any(isinstance(i, Value) for i in inputs[1:]):
        return [_computed_batch_norm(ctx, node, x, inputs)]
    scale, shift = affine_of(ctx, node, inputs)
    return [_held(ctx, x, per_channel(scale, x), per_channel(shift, x))]


def _computed_batch_norm(ctx: Context, node: Node, x: Value, inputs: Inputs) -> Value:
    """Batch normalisation whose statistics come in with the image."""
    b, column = ctx.b, (x.shape[1], *(1,) * (len(x.shape) - 2))
    gamma, beta, mean, variance = (
        b.reshaped(ctx.value(node, inputs, i), column) for i in range(1, 5)
    )
    safe = binary(b, "ADD", variance, scalar(ctx.number(node, "epsilon", 1e-5)))
    scale = binary(b, "MUL", gamma, unary(b, "RSQRT", safe))
    y = binary(b, "MUL", binary(b, "SUB", x, mean), scale)
    return binary(b, "ADD", y, beta)


def affine_of(ctx: Context, node: Node, inputs: Inputs) -> tuple[Array, Array]:
    """Return (scale, shift) of a BatchNormalization node: y = scale x + shift per channel."""
    gamma, beta, mean, variance = (
        ctx.array(node, inputs, i).astype(np.float64) for i in range(1, 5)
    )
    scale = gamma / np.sqrt(variance + ctx.number(node, "epsilon", 1e-5))
    return scale.astype(np.float32), (beta - mean * scale).astype(np.float32)


def per_channel(data: Array, x: Value) -> Array:
    """Return (C,) as an array that broadcasts along dimension 1 of x."""
    return data.reshape(-1, *(1,) * (len(x.shape) - 2))


def _held(ctx: Context, x: Value, scale: Array | None, shift: Array | None) -> Lazy:
    """Return scale x + shift, left to a neighbouring layer to absorb."""
    if scale is None and shift is None:
        return x
    one, zero = np.ones(1, np.float32), np.zeros(1, np.float32)
    return hold(ctx.b, x, one if scale is None else scale, zero if shift is None else shift)


def normalized(ctx: Context, x: Value, axes: Iterable[int], epsilon: float) -> Value:
    """Return (x - mean) / sqrt(variance + epsilon), both taken over ``axes``."""
    return _moments(ctx, x, axes, epsilon)[0]


def _moments(
    ctx: Context, x: Value, axes: Iterable[int], epsilon: float
) -> tuple[Value, Value, Value]:
    """Return x normalised, its mean and the inverse of its deviation."""
    b, axes = ctx.b, list(axes)
    mean = reduce_value(ctx, "MEAN", x, axes, keep=True)
    centred = binary(b, "SUB", x, mean)
    square = binary(b, "MUL", centred, centred)
    variance = reduce_value(ctx, "MEAN", square, axes, keep=True)
    inverse = unary(b, "RSQRT", binary(b, "ADD", variance, scalar(epsilon)))
    return binary(b, "MUL", centred, inverse), mean, inverse


def layer_norm(ctx: Context, node: Node, inputs: Inputs) -> list[Lazy]:
    """Normalise over all dimensions from ``axis`` on."""
    x = ctx.value(node, inputs, 0)
    first = axis_of(node, ctx.integer(node, "axis", -1), len(x.shape))
    axes = range(first, len(x.shape))
    y, mean, inverse = _moments(ctx, x, axes, ctx.number(node, "epsilon", 1e-5))
    y_scaled = _scaled(ctx, y, ctx.optional(inputs, 1), ctx.optional(inputs, 2))
    return [y_scaled, mean, inverse][: len(node.outputs)]


def _scaled(ctx: Context, y: Value, scale: Item | None, shift: Item | None) -> Lazy:
    """Return scale y + shift, left to a neighbouring layer where both are known."""
    known = [i.whole(ctx.b.scope) if isinstance(i, Constant) else None for i in (scale, shift)]
    if not isinstance(scale, Value) and not isinstance(shift, Value):
        return _held(ctx, y, *known)
    y = y if scale is None else binary(ctx.b, "MUL", y, scale)
    return y if shift is None else binary(ctx.b, "ADD", y, shift)


def rms_norm(ctx: Context, node: Node, inputs: Inputs) -> list[Lazy]:
    """Return x / sqrt(mean(x²) + epsilon) times a scale."""
    x = ctx.value(node, inputs, 0)
    first = axis_of(node, ctx.integer(node, "axis", -1), len(x.shape))
    square = binary(ctx.b, "MUL", x, x)
    mean = reduce_value(ctx, "MEAN", square, range(first, len(x.shape)), keep=True)
    shifted = binary(ctx.b, "ADD", mean, scalar(ctx.number(node, "epsilon", 1e-5)))
    y = binary(ctx.b, "MUL", x, unary(ctx.b, "RSQRT", shifted))
    return [_scaled(ctx, y, ctx.optional(inputs, 1), None)]


def instance_norm(ctx: Context, node: Node, inputs: Inputs) -> list[Lazy]:
    """Normalise every channel of every sample over its spatial dimensions."""
    x = ctx.value(node, inputs, 0)
    y = normalized(ctx, x, range(2, len(x.shape)), ctx.number(node, "epsilon", 1e-5))
    scale, shift = ctx.array(node, inputs, 1), ctx.array(node, inputs, 2)
    return [_held(ctx, y, per_channel(scale, x), per_channel(shift, x))]


def group_norm(ctx: Context, node: Node, inputs: Inputs) -> list[Lazy]:
    """Normalise groups of channels over group and space; scale per channel or per group."""
    x = ctx.value(node, inputs, 0)
    groups = ctx.integer(node, "num_groups")
    channels = x.shape[1]
    if groups < 1 or channels % groups:
        raise BadInput(f"{node}: {groups} groups do not divide {describe(x.shape)}", hint=GRAPH)
    split = (x.shape[0], groups, channels // groups * math.prod(x.shape[2:]))
    y = ctx.b.reshaped(x, split)
    y = normalized(ctx, y, [2], ctx.number(node, "epsilon", 1e-5))
    y = ctx.b.reshaped(y, x.shape)
    scale, shift = (ctx.array(node, inputs, i).reshape(-1) for i in (1, 2))
    if scale.size == groups:
        scale, shift = (np.repeat(a, channels // groups) for a in (scale, shift))
    return [_held(ctx, y, per_channel(scale, x), per_channel(shift, x))]
