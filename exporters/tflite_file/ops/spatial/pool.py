"""Pooling, local and global."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sepdeploy.errors import BadInput
from sepdeploy.exporters.tflite_file.format.graph import Array, Tensor, describe
from sepdeploy.exporters.tflite_file.ops.arithmetic import scalar
from sepdeploy.exporters.tflite_file.ops.reduce import reduce_value
from sepdeploy.exporters.tflite_file.ops.spatial.conv import as_channels_first
from sepdeploy.exporters.tflite_file.ops.spatial.taps import covered, windowed
from sepdeploy.exporters.tflite_file.ops.spatial.window import NHWC, Axis, apply_padding, read_axes
from sepdeploy.exporters.tflite_file.source import Node
from sepdeploy.exporters.tflite_file.values import layout
from sepdeploy.exporters.tflite_file.values.context import Context, Inputs, Item
from sepdeploy.exporters.tflite_file.values.elementwise import binary, unary
from sepdeploy.exporters.tflite_file.values.layout import Constant, Value

LOWEST = float(np.finfo(np.float32).min)
_NOT_NEGATIVE = {"RELU", "RELU6", "LOGISTIC", "SOFTMAX", "EXP", "ABS", "SQRT"}


def max_pool(ctx: Context, node: Node, inputs: Inputs) -> list[Item]:
    """MaxPool; over three axes or dilated by joined slices."""
    if len(node.outputs) > 1 and node.outputs[1]:
        raise BadInput(
            f"{node}: the indices of the maxima have no TFLite form",
            hint="use return_indices=False; unpool by upsampling instead",
        )
    x, axes = _window(ctx, node, inputs)
    if _is_rare(axes) or x.tensor.dtype != np.float32:
        kind = x.tensor.dtype
        lowest = LOWEST if kind == np.float32 else int(np.iinfo(kind).min)
        return [windowed(ctx, node, x, axes, "MAXIMUM", lowest)]
    image, axes = _image(ctx, x, axes)
    tensor = ctx.b.arranged(image, NHWC)
    # Zeros pad just as well where nothing is negative, and every runtime has a fast PAD.
    fill = LOWEST
    if not all(a.is_same for a in axes) and ctx.b.producer(tensor) in _NOT_NEGATIVE:
        fill = 0.0
    tensor, padding = apply_padding(ctx.b, tensor, axes, fill)
    out = _pool(ctx, "MAX_POOL_2D", tensor, axes, padding)
    return [as_channels_first(ctx, out, len(ctx.item(node, inputs, 0).shape) - 2)]


def average_pool(ctx: Context, node: Node, inputs: Inputs) -> list[Item]:
    """AveragePool; where border windows count fewer elements, their averages are scaled up."""
    x, axes = _window(ctx, node, inputs)
    counted = bool(ctx.integer(node, "count_include_pad", 0))
    if _is_rare(axes):
        total = windowed(ctx, node, x, axes, "ADD", 0.0)
        shares = (1 / covered(axes, counted=counted)).astype(np.float32)
        return [binary(ctx.b, "MUL", total, Constant(shares, shares.shape))]
    image, axes = _image(ctx, x, axes)
    tensor = ctx.b.arranged(image, NHWC)
    factors = _border_factors(axes, counted)
    plain = bool(np.all(factors == 1))
    tensor, padding = apply_padding(ctx.b, tensor, axes, None if counted else 0.0)
    pooled = _pool(ctx, "AVERAGE_POOL_2D", tensor, axes, padding)
    out = as_channels_first(ctx, pooled, len(ctx.item(node, inputs, 0).shape) - 2)
    if plain or padding == "SAME":  # TFLite's SAME average leaves padding out of the count
        return [out]
    factors = factors.reshape(factors.shape[-(len(out.shape) - 2) :])
    return [binary(ctx.b, "MUL", out, Constant(factors, factors.shape))]


def lp_pool(ctx: Context, node: Node, inputs: Inputs) -> list[Item]:
    """Return the p-th root of the sum of p-th powers in each window."""
    x, axes = _window(ctx, node, inputs)
    p = ctx.integer(node, "p", 2)
    terms = unary(ctx.b, "ABS", x)
    terms = terms if p == 1 else binary(ctx.b, "POW", terms, scalar(p))
    total = windowed(ctx, node, terms, axes, "ADD", 0.0)
    return [total if p == 1 else binary(ctx.b, "POW", total, scalar(1 / p))]


def _window(ctx: Context, node: Node, inputs: Inputs) -> tuple[Value, list[Axis]]:
    x = ctx.value(node, inputs, 0)
    if len(x.shape) not in (3, 4, 5):
        raise BadInput(
            f"{node}: pooling over {describe(x.shape)} has no TFLite form",
            hint="pooling over one to three spatial axes has one",
        )
    return x, read_axes(ctx, node, x.shape[2:], ctx.ints(node, "kernel_shape"))


def _is_rare(axes: Sequence[Axis]) -> bool:
    """Whether no kernel of the runtimes does it."""
    return len(axes) > 2 or any(a.dilation != 1 for a in axes)


def _image(ctx: Context, x: Value, axes: list[Axis]) -> tuple[Value, list[Axis]]:
    if len(axes) == 1:
        x = ctx.b.reshaped(x, (*x.shape[:2], 1, x.shape[2]))
        axes = [Axis(1, 1, 1, 1, 0, 0, 1), *axes]
    return x, axes


def _pool(ctx: Context, kind: str, tensor: Tensor, axes: Sequence[Axis], padding: str) -> Tensor:
    rows, columns = axes
    options = {
        "padding": padding,
        "stride_w": columns.stride,
        "stride_h": rows.stride,
        "filter_w": columns.kernel,
        "filter_h": rows.kernel,
    }
    shape = (tensor.shape[0], rows.out, columns.out, tensor.shape[3])
    return ctx.b.op(kind, [tensor], shape, **options)


def _border_factors(axes: Sequence[Axis], counted: bool) -> Array:
    """Return (out_h, out_w): kernel size over the number of elements that each window counts."""
    per_axis = []
    for axis in axes:
        starts = np.arange(axis.out) * axis.stride - axis.before
        low = np.maximum(starts, -axis.before if counted else 0)
        high = np.minimum(starts + axis.kernel, axis.size + (axis.after if counted else 0))
        per_axis.append(axis.kernel / (high - low))
    rows, columns = per_axis
    return np.asarray(np.multiply.outer(rows, columns), np.float32)


def global_average_pool(ctx: Context, node: Node, inputs: Inputs) -> list[Item]:
    """Mean over all spatial axes, kept as size 1."""
    x = ctx.value(node, inputs, 0)
    return [reduce_value(ctx, "MEAN", x, range(2, len(x.shape)), keep=True)]


def global_max_pool(ctx: Context, node: Node, inputs: Inputs) -> list[Item]:
    """Maximum over all spatial axes, kept as size 1."""
    x = ctx.value(node, inputs, 0)
    if len(x.shape) != 4:
        return [reduce_value(ctx, "REDUCE_MAX", x, range(2, len(x.shape)), keep=True)]
    axes = [Axis(d, d, 1, 1, 0, 0, 1) for d in x.shape[2:]]
    tensor = ctx.b.arranged(x, NHWC)
    out = _pool(ctx, "MAX_POOL_2D", tensor, axes, "VALID")
    return [layout.permuted(out, (*x.shape[:2], 1, 1), NHWC)]
