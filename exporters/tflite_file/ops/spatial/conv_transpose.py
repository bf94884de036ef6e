"""Transposed convolution as ordinary convolutions of its phases.

TFLite's TRANSPOSE_CONV wants its output shape, batch included, as an operand, so it cannot leave
the batch open. Instead: along an axis with stride s, outputs p, p + s, p + 2s, ... (phase p) use
only every s-th element of the kernel, which makes each phase a plain convolution of the input,
with ceil(k / s) taps. The phases are interleaved by DEPTH_TO_SPACE and cropped. Nothing is
multiplied by inserted zeros.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from sepdeploy.errors import GRAPH, BadInput
from sepdeploy.exporters.tflite_file.format.graph import Array, Tensor, bounded, describe
from sepdeploy.exporters.tflite_file.ops.spatial.conv import (
    as_channels_first,
    convolve,
    read_operands,
)
from sepdeploy.exporters.tflite_file.ops.spatial.window import NHWC, Axis
from sepdeploy.exporters.tflite_file.source import Node
from sepdeploy.exporters.tflite_file.values import layout
from sepdeploy.exporters.tflite_file.values.context import Context, Inputs, Item
from sepdeploy.exporters.tflite_file.values.slices import emit_slice


def conv_transpose(ctx: Context, node: Node, inputs: Inputs) -> list[Item]:
    """ConvTranspose over one or two spatial axes."""
    x, weight, bias = read_operands(ctx, node, inputs, out_axis=1)
    groups = ctx.integer(node, "group", 1)
    if weight.shape[0] != x.shape[1] or groups < 1 or x.shape[1] % groups:
        raise BadInput(
            f"{node}: weight {weight.shape} does not fit {describe(x.shape)}", hint=GRAPH
        )
    spatial = len(x.shape) - 2
    strides = ctx.ints(node, "strides", [1] * spatial)
    weight = _dilated(node, weight, ctx.ints(node, "dilations", [1] * spatial))
    before, out = _extent(ctx, node, x.shape[2:], weight.shape[2:], strides)
    if spatial == 1:
        x = ctx.b.reshaped(x, (*x.shape[:2], 1, x.shape[2]))
        weight = weight[:, :, None, :]
        strides, before, out = [1, *strides], [0, *before], [1, *out]
    kernel = _as_forward(weight, groups)
    kernel = _lengthened(kernel, x.shape[2:], strides, before, out)
    tensor = ctx.b.arranged(x, NHWC)
    full = _phases(ctx, tensor, kernel, bias, strides, groups)
    return [as_channels_first(ctx, _crop(ctx, full, before, out), spatial)]


def _dilated(node: Node, weight: Array, dilations: Sequence[int]) -> Array:
    """Return the weight with its dilation written out as zeros."""
    for axis, step in enumerate(dilations, start=2):
        if step > 1:
            shape = list(weight.shape)
            shape[axis] = (shape[axis] - 1) * step + 1
            bounded(math.prod(shape), node)
            spread = np.zeros(shape, weight.dtype)
            spread[
                tuple(slice(None, None, step if a == axis else 1) for a in range(len(shape)))
            ] = weight
            weight = spread
    return weight


def _lengthened(
    kernel: Array,
    sizes: Sequence[int],
    strides: Sequence[int],
    before: Sequence[int],
    out: Sequence[int],
) -> Array:
    """Append zero taps where output padding reaches behind what the kernel covers."""
    pads = [(0, 0), (0, 0)]
    for axis, taps in enumerate(kernel.shape[2:]):
        needed = before[axis] + out[axis] - strides[axis] * (sizes[axis] - 1)
        pads.append((0, max(needed - taps, 0)))
    return np.pad(kernel, pads)


def _extent(
    ctx: Context, node: Node, sizes: Sequence[int], kernel: Sequence[int], strides: Sequence[int]
) -> tuple[list[int], list[int]]:
    """Return, per axis, how much of the full output is cut off in front, and the output size."""
    n = len(sizes)
    extra = ctx.ints(node, "output_padding", [0] * n)
    pads = ctx.ints(node, "pads", [0] * (2 * n))
    wanted = ctx.ints(node, "output_shape", [])
    auto = ctx.text(node, "auto_pad", "NOTSET")
    bounded(math.prod(strides), node)
    if not len(kernel) == len(strides) == len(extra) == len(pads) / 2 == n or min(strides) < 1:
        raise BadInput(f"{node}: kernel, strides and pads do not fit {n} axes", hint=GRAPH)
    before, out = [], []
    for i, size in enumerate(sizes):
        whole = strides[i] * (size - 1) + extra[i] + kernel[i]
        front, back = pads[i], pads[n + i]
        target = None
        if wanted:
            target = wanted[i - n]
        elif auto in ("SAME_UPPER", "SAME_LOWER"):
            target = size * strides[i]
        if target is not None:
            if target > whole:
                raise BadInput(
                    f"{node}: an output of {target} is more than the kernel reaches", hint=GRAPH
                )
            total = max(whole - target, 0)
            small, large = total // 2, total - total // 2
            front, back = (small, large) if auto == "SAME_UPPER" else (large, small)
        if auto == "VALID":
            front = back = 0
        length = whole - front - back
        if length < 1 or front < 0:
            raise BadInput(f"{node}: padding leaves nothing of an output of {whole}", hint=GRAPH)
        bounded(length, node)
        before.append(front)
        out.append(length)
    return before, out


def _as_forward(weight: Array, groups: int) -> Array:
    """Return (C, O/g, kh, kw) as (O, C/g, kh, kw)."""
    channels, units = weight.shape[:2]
    split = weight.reshape(groups, channels // groups, units, *weight.shape[2:])
    return split.transpose(0, 2, 1, 3, 4).reshape(
        groups * units, channels // groups, *weight.shape[2:]
    )


def _phases(
    ctx: Context, tensor: Tensor, kernel: Array, bias: Array, strides: Sequence[int], groups: int
) -> Tensor:
    """Return the whole output, before anything is cut off: (N, s (H + taps - 1), ..., O)."""
    rows, columns = strides
    parts = [_phase_kernel(kernel, (p, q), strides) for p in range(rows) for q in range(columns)]
    taps = parts[0].shape[2:]
    axes = [
        Axis(size, t, 1, 1, t - 1, t - 1, size + t - 1)
        for size, t in zip(tensor.shape[1:3], taps, strict=True)
    ]
    if groups == 1:
        merged = np.concatenate(parts)
        out = convolve(ctx, tensor, merged, np.tile(bias, len(parts)), axes, 1)
    else:
        outs = [convolve(ctx, tensor, part, bias, axes, groups) for part in parts]
        shape = (*outs[0].shape[:3], len(bias) * len(outs))
        out = outs[0] if len(outs) == 1 else ctx.b.op("CONCATENATION", outs, shape, axis=3)
    return _interleaved(ctx, out, rows, columns, len(bias))


def _phase_kernel(kernel: Array, phase: tuple[int, int], strides: Sequence[int]) -> Array:
    """Return the taps of one phase as a forward (flipped) kernel, padded to equal length."""
    for axis, (first, step) in enumerate(zip(phase, strides, strict=True), start=2):
        taps = -(-kernel.shape[axis] // step)
        index = [slice(None)] * kernel.ndim
        index[axis] = slice(first, None, step)
        picked = kernel[tuple(index)]
        missing = [(0, 0)] * kernel.ndim
        missing[axis] = (0, taps - picked.shape[axis])
        kernel = np.flip(np.pad(picked, missing), axis)
    return np.ascontiguousarray(kernel)


def _interleaved(ctx: Context, out: Tensor, rows: int, columns: int, units: int) -> Tensor:
    n, height, width, _ = out.shape
    shape = (n, height * rows, width * columns, units)
    if rows == columns:
        if rows == 1:
            return out
        return ctx.b.op("DEPTH_TO_SPACE", [out], shape, block_size=rows)
    split = layout.plain(out, (n, height, width, rows, columns, units))
    moved = ctx.b.reshaped(layout.transpose(split, (0, 1, 3, 2, 4, 5)), shape)
    return ctx.b.arranged(moved, range(4))


def _crop(ctx: Context, full: Tensor, before: Sequence[int], out: Sequence[int]) -> Tensor:
    """Cut the output to size."""
    n, height, width, units = full.shape
    if (height, width) == tuple(out):
        return full
    return emit_slice(ctx.b, full, [0, *before, 0], (n, *out, units))
