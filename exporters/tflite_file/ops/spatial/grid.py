"""GridSample: every place of a grid is a weighted sum of the pixels around it."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np

from sepdeploy.errors import GRAPH, TFLITE_FORM, BadInput
from sepdeploy.exporters.tflite_file.format.graph import describe, is_batch
from sepdeploy.exporters.tflite_file.ops.activation import clipped
from sepdeploy.exporters.tflite_file.ops.arithmetic import scalar
from sepdeploy.exporters.tflite_file.ops.composed import chosen
from sepdeploy.exporters.tflite_file.ops.scatter import picked
from sepdeploy.exporters.tflite_file.ops.select import sliced
from sepdeploy.exporters.tflite_file.source import Node
from sepdeploy.exporters.tflite_file.values import layout
from sepdeploy.exporters.tflite_file.values.context import Context, Inputs, Item
from sepdeploy.exporters.tflite_file.values.elementwise import binary, unary
from sepdeploy.exporters.tflite_file.values.layout import Value

MODES = {"nearest": "nearest", "bilinear": "linear", "linear": "linear"}
MODES |= {"bicubic": "cubic", "cubic": "cubic"}
SHARPNESS = -0.75  # of the cubic, as in the standard


@dataclass(frozen=True)
class _Tap:
    """One pixel along an axis for every place (N, places): which one, and its share."""

    index: Value
    share: Value


def grid_sample(ctx: Context, node: Node, inputs: Inputs) -> list[Item]:
    """Sample an image (N, C, …) where a grid (N, …, axes) in -1 to 1 says."""
    b, x, places = ctx.b, ctx.value(node, inputs, 0), ctx.value(node, inputs, 1)
    n, channels, *sizes = x.shape
    mode = MODES.get(ctx.text(node, "mode", "linear"))
    padding = ctx.text(node, "padding_mode", "zeros")
    if mode is None or places.shape[-1] != len(sizes) or places.shape[0] != n:
        raise BadInput(
            f"{node}: {describe(x.shape)} is not sampled at {describe(places.shape)}", hint=GRAPH
        )
    if any(is_batch(d) for d in sizes) or (mode == "cubic" and padding == "reflection"):
        raise BadInput(f"{node}: mode '{mode}', '{padding}' has no TFLite form", hint=TFLITE_FORM)
    count = math.prod(places.shape[1:-1])
    flat = b.reshaped(places, (n, count, len(sizes)))
    taps = []
    for k, size in enumerate(sizes):  # the grid names the last axis first
        own = b.reshaped(sliced(ctx, node, flat, 2, len(sizes) - 1 - k, 1, 1), (n, count))
        taps.append(_taps(ctx, node, own, size, mode))
    rows = b.reshaped(
        layout.transpose(x, (0, *range(2, len(x.shape)), 1)), (n, math.prod(sizes), channels)
    )
    total: Value | None = None
    for combination in itertools.product(*taps):
        index, share = combination[0].index, combination[0].share
        for tap, size in zip(combination[1:], sizes[1:], strict=True):
            index = binary(b, "ADD", binary(b, "MUL", index, scalar(size)), tap.index)
            share = binary(b, "MUL", share, tap.share)
        whole = unary(b, "CAST", index, dtype=np.int32, in_dtype="float32", out_dtype="int32")
        part = binary(b, "MUL", picked(b, rows, whole), b.reshaped(share, (n, count, 1)))
        total = part if total is None else binary(b, "ADD", total, part)
    assert total is not None, "an axis has a tap"
    turned = layout.transpose(total, (0, 2, 1))
    return [b.reshaped(turned, (n, channels, *places.shape[1:-1]))]


def _taps(ctx: Context, node: Node, grid: Value, size: int, mode: str) -> list[_Tap]:
    """Return the pixels along one axis that places between -1 and 1 see."""
    b, aligned = ctx.b, bool(ctx.integer(node, "align_corners", 0))
    padding = ctx.text(node, "padding_mode", "zeros")
    step, shift = ((size - 1) / 2, (size - 1) / 2) if aligned else (size / 2, (size - 1) / 2)
    at = binary(b, "ADD", binary(b, "MUL", grid, scalar(step)), scalar(shift))
    if padding == "reflection":
        low, high = (0.0, size - 1.0) if aligned else (-0.5, size - 0.5)
        at = _reflected(ctx, at, low, high)
    if padding in ("border", "reflection") and mode != "cubic":
        at = clipped(b, at, 0.0, size - 1.0)
    if mode == "nearest":
        return [_tap(ctx, unary(b, "ROUND", at), None, size, padding)]
    base = unary(b, "FLOOR", at)
    part = binary(b, "SUB", at, base)
    if mode == "linear":
        shares = [binary(b, "SUB", scalar(1), part), part]
        offsets = [0, 1]
    else:
        offsets = [-1, 0, 1, 2]
        shares = [_cubic(ctx, part, o) for o in offsets]
    places = [binary(b, "ADD", base, scalar(o)) if o else base for o in offsets]
    return [_tap(ctx, p, s, size, padding) for p, s in zip(places, shares, strict=True)]


def _tap(ctx: Context, place: Value, share: Value | None, size: int, padding: str) -> _Tap:
    """Hold a place inside the image; what lies outside has no share where padding is zero."""
    b = ctx.b
    inside = clipped(b, place, 0.0, size - 1.0)
    if share is None or padding == "zeros":
        whole = scalar(1) if share is None else share
        same = binary(b, "EQUAL", place, inside, dtype=bool)
        kept = chosen(b, same, whole, scalar(0 if padding == "zeros" else 1))
        return _Tap(inside, kept)
    return _Tap(inside, share)


def _reflected(ctx: Context, at: Value, low: float, high: float) -> Value:
    """Mirror a place at both borders until it lies between them."""
    b, width = ctx.b, high - low
    if width <= 0:
        return binary(b, "MUL", at, scalar(0))
    way = unary(b, "ABS", binary(b, "SUB", at, scalar(low)))
    left = binary(b, "FLOOR_MOD", way, scalar(2 * width))
    back = binary(b, "SUB", scalar(2 * width), left)
    return binary(b, "ADD", binary(b, "MINIMUM", left, back), scalar(low))


def _cubic(ctx: Context, part: Value, offset: int) -> Value:
    """Return the share of the pixel at an offset, by the cubic kernel of the distance."""
    b, a = ctx.b, SHARPNESS
    away = unary(b, "ABS", binary(b, "SUB", part, scalar(offset)))
    near = (a + 2, -(a + 3), 0.0, 1.0)
    far = (a, -5 * a, 8 * a, -4 * a)
    y = scalar((near if offset in (0, 1) else far)[0])
    total: Value | None = None
    for factor in (near if offset in (0, 1) else far)[1:]:
        product = binary(b, "MUL", away, y if total is None else total)
        total = binary(b, "ADD", product, scalar(factor))
    assert total is not None, "a cubic has four factors"
    return total
