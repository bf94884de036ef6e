"""Convolutions: images lie channels-last, weights are rearranged once at export."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sepdeploy.errors import GRAPH, BadInput
from sepdeploy.exporters.tflite_file.format.graph import Array, Tensor, describe
from sepdeploy.exporters.tflite_file.ops.select import padded, sliced
from sepdeploy.exporters.tflite_file.ops.spatial.window import NHWC, Axis, apply_padding, read_axes
from sepdeploy.exporters.tflite_file.source import Node
from sepdeploy.exporters.tflite_file.values import layout
from sepdeploy.exporters.tflite_file.values.builder import FLOAT
from sepdeploy.exporters.tflite_file.values.context import Context, Inputs, Item
from sepdeploy.exporters.tflite_file.values.contract import contract
from sepdeploy.exporters.tflite_file.values.elementwise import binary
from sepdeploy.exporters.tflite_file.values.layout import Value


def conv(ctx: Context, node: Node, inputs: Inputs) -> list[Item]:
    """Conv over one to three spatial axes, grouped, depthwise, dilated, strided."""
    if isinstance(ctx.item(node, inputs, 1), Value):
        return [_computed(ctx, node, inputs)]
    x, weight, bias = read_operands(ctx, node, inputs, out_axis=0)
    groups = ctx.integer(node, "group", 1)
    channels = x.shape[1]
    if groups < 1 or weight.shape[1] * groups != channels or weight.shape[0] % groups:
        raise BadInput(
            f"{node}: weight {weight.shape} does not fit {describe(x.shape)}", hint=GRAPH
        )
    axes = read_axes(ctx, node, x.shape[2:], weight.shape[2:])
    if len(axes) == 1 and _is_pointwise(axes) and groups == 1:
        return [contract(ctx.b, x, 1, weight[:, :, 0], bias, "weight")]
    if len(axes) == 3:
        return [_volume(ctx, node, x, weight, bias, axes)]
    image, weight, axes = as_image(ctx, x, weight, axes)
    tensor = ctx.b.arranged(image, NHWC)
    out = convolve(ctx, tensor, weight, bias, axes, groups)
    return [as_channels_first(ctx, out, len(x.shape) - 2)]


def _volume(
    ctx: Context, node: Node, x: Value, weight: Array, bias: Array, axes: Sequence[Axis]
) -> Value:
    """Sum up the convolutions of the slices under each place of the window's depth."""
    b, groups = ctx.b, ctx.integer(node, "group", 1)
    depth, rest = axes[0], axes[1:]
    if not depth.unpadded:
        x = padded(ctx, node, x, {2: (depth.before, depth.used_after)}, 0.0)
    total: Value | None = None
    for tap in range(depth.kernel):
        part = sliced(ctx, node, x, 2, tap * depth.dilation, depth.out, depth.stride)
        part = layout.transpose(part, (0, 2, 1, 3, 4))
        flat = b.reshaped(part, (part.shape[0] * depth.out, *part.shape[2:]))
        own = np.zeros_like(bias) if tap else bias
        kernel = np.ascontiguousarray(weight[:, :, tap])
        out = convolve(ctx, b.arranged(flat, NHWC), kernel, own, rest, groups)
        value = as_channels_first(ctx, out, 2)
        total = value if total is None else binary(b, "ADD", total, value)
    assert total is not None, "a window has a place"
    whole = b.reshaped(total, (x.shape[0], depth.out, *total.shape[1:]))
    return layout.transpose(whole, (0, 2, 1, 3, 4))


def _computed(ctx: Context, node: Node, inputs: Inputs) -> Value:
    """A convolution over an image whose weights come in as well."""
    b, x, weight = ctx.b, ctx.value(node, inputs, 0), ctx.value(node, inputs, 1)
    groups = ctx.integer(node, "group", 1)
    depthwise = groups == x.shape[1] and groups > 1 and weight.shape[1] == 1
    fits = 3 <= len(x.shape) <= 4 and len(weight.shape) == len(x.shape)
    if not fits or not (depthwise or weight.shape[1] == x.shape[1]):
        raise BadInput(
            f"{node}: a computed weight {describe(weight.shape)} has no TFLite form here",
            hint="those of one group, or one per channel, over one or two spatial axes have one",
        )
    axes = read_axes(ctx, node, x.shape[2:], weight.shape[2:])
    if len(axes) == 1:
        image = b.reshaped(x, (*x.shape[:2], 1, x.shape[2]))
        weight = b.reshaped(weight, (*weight.shape[:2], 1, weight.shape[2]))
        axes = [Axis(1, 1, 1, 1, 0, 0, 1), *axes]
    else:
        image = x
    tensor, padding = apply_padding(b, b.arranged(image, NHWC), axes, 0.0)
    rows, columns = axes
    options = {
        "padding": padding,
        "stride_w": columns.stride,
        "stride_h": rows.stride,
        "dilation_w": columns.dilation,
        "dilation_h": rows.dilation,
    }
    units = weight.shape[0]
    bias = ctx.optional(inputs, 2)
    held = b.constant(np.zeros(units, np.float32), "bias")
    kind = "DEPTHWISE_CONV_2D" if depthwise else "CONV_2D"
    if depthwise:
        options["depth_multiplier"] = units // groups
    operands = [tensor, b.arranged(weight, (1, 2, 3, 0) if depthwise else NHWC), held]
    shape = (tensor.shape[0], rows.out, columns.out, units)
    out = as_channels_first(ctx, b.op(kind, operands, shape, **options), len(x.shape) - 2)
    if bias is None:
        return out
    column = (units, *(1,) * (len(x.shape) - 2))
    return binary(b, "ADD", out, b.reshaped(b.runtime(bias), column))


def read_operands(
    ctx: Context, node: Node, inputs: Inputs, *, out_axis: int
) -> tuple[Value, Array, Array]:
    """Return image, weight and bias (zeros where absent) of a convolution of either direction."""
    x = ctx.value(node, inputs, 0)
    weight = ctx.array(node, inputs, 1)
    most = 4 if out_axis else 5
    if not 3 <= len(x.shape) <= most or weight.ndim != len(x.shape):
        raise BadInput(
            f"{node}: input {describe(x.shape)} and weight {weight.shape} have no TFLite form",
            hint="convolutions over one or two spatial axes have one, forward ones over three",
        )
    units = weight.shape[out_axis] * (ctx.integer(node, "group", 1) if out_axis else 1)
    bias = ctx.optional_array(node, inputs, 2)
    bias = np.zeros(units, np.float32) if bias is None else bias
    if bias.shape != (units,):
        raise BadInput(f"{node}: bias {bias.shape} does not fit {units} channels", hint=GRAPH)
    return x, weight, bias


def _is_pointwise(axes: Sequence[Axis]) -> bool:
    return all(a.kernel == a.stride == 1 and a.unpadded for a in axes)


def as_image(
    ctx: Context, x: Value, weight: Array, axes: list[Axis]
) -> tuple[Value, Array, list[Axis]]:
    """Give a signal a height of 1, so that it is an image."""
    if len(axes) == 2:
        return x, weight, axes
    image = ctx.b.reshaped(x, (*x.shape[:2], 1, x.shape[2]))
    return image, weight[:, :, None, :], [Axis(1, 1, 1, 1, 0, 0, 1), *axes]


def as_channels_first(ctx: Context, out: Tensor, spatial: int) -> Value:
    """Return an (N, H, W, C) tensor as the (N, C, ...) value it stands for."""
    n, height, width, channels = out.shape
    value = layout.permuted(out, (n, channels, height, width), NHWC)
    return value if spatial == 2 else ctx.b.reshaped(value, (n, channels, width))


def convolve(
    ctx: Context, tensor: Tensor, weight: Array, bias: Array, axes: Sequence[Axis], groups: int
) -> Tensor:
    """Emit CONV_2D or DEPTHWISE_CONV_2D on an (N, H, W, C) tensor; ``weight`` is (O, I, kh, kw)."""
    b = ctx.b
    tensor, padding = apply_padding(b, tensor, axes, 0.0)
    rows, columns = axes
    units, channels = weight.shape[0], tensor.shape[3]
    options = {
        "padding": padding,
        "stride_w": columns.stride,
        "stride_h": rows.stride,
        "dilation_w": columns.dilation,
        "dilation_h": rows.dilation,
    }
    shape = (tensor.shape[0], rows.out, columns.out, units)
    depthwise = groups == channels and groups > 1
    if depthwise:
        # Channel c's filters are outputs c * multiplier onwards in both formats.
        kernel = weight.transpose(1, 2, 3, 0)
        options["depth_multiplier"] = units // channels
    else:
        kernel = weight.transpose(0, 2, 3, 1)
    kind = "DEPTHWISE_CONV_2D" if depthwise else "CONV_2D"
    operands = [
        tensor,
        b.constant(np.ascontiguousarray(kernel), "weight"),
        b.constant(bias, "bias"),
    ]
    return b.op(kind, operands, shape, dtype=FLOAT, **options)
