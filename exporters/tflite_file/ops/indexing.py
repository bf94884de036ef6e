"""Rarer ways of picking and repeating: Tile, TopK, Trilu, CumSum."""

from __future__ import annotations

import numpy as np

from sepdeploy.errors import GRAPH, TFLITE_FORM, BadInput
from sepdeploy.exporters.tflite_file.format.graph import bounded, describe, is_batch
from sepdeploy.exporters.tflite_file.format.types import computes
from sepdeploy.exporters.tflite_file.ops.select import picked_along
from sepdeploy.exporters.tflite_file.source import Node
from sepdeploy.exporters.tflite_file.values import layout
from sepdeploy.exporters.tflite_file.values.builder import Builder
from sepdeploy.exporters.tflite_file.values.context import Context, Inputs, Item, axis_of
from sepdeploy.exporters.tflite_file.values.contract import contract
from sepdeploy.exporters.tflite_file.values.elementwise import align, binary, unary
from sepdeploy.exporters.tflite_file.values.layout import Constant, Value


def tile(ctx: Context, node: Node, inputs: Inputs) -> list[Item]:
    """Repeat along dimensions."""
    x = ctx.value(node, inputs, 0)
    repeats = [int(r) for r in ctx.array(node, inputs, 1).reshape(-1)]
    if len(repeats) != len(x.shape) or min(repeats, default=1) < 1:
        raise BadInput(f"{node}: repeats {repeats} do not fit {describe(x.shape)}", hint=GRAPH)
    for axis, times in enumerate(repeats):
        if times == 1:
            continue
        if is_batch(x.shape[axis]):
            raise BadInput(f"{node} repeats the batch", hint=TFLITE_FORM)
        bounded(x.shape[axis] * times, node)
        x = picked_along(ctx, node, x, np.tile(np.arange(x.shape[axis]), times), axis)
    return [x]


def top_k(ctx: Context, node: Node, inputs: Inputs) -> list[Item]:
    """Return the largest values along a dimension, sorted, and where they stood."""
    x = ctx.value(node, inputs, 0)
    count = int(ctx.array(node, inputs, 1).reshape(-1)[0])
    axis = axis_of(node, ctx.integer(node, "axis", -1), len(x.shape))
    smallest = not ctx.integer(node, "largest", 1)
    if smallest and not computes("NEG", x.tensor.dtype):
        raise BadInput(
            f"{node}: the smallest of {x.tensor.dtype} have no TFLite form", hint=TFLITE_FORM
        )
    if smallest:
        x = _mirrored(ctx.b, x)
    if is_batch(x.shape[axis]) or not 0 < count <= x.shape[axis]:
        raise BadInput(f"{node}: {count} of dimension {axis} of {describe(x.shape)}", hint=GRAPH)
    b = ctx.b
    rest = [a for a in range(len(x.shape)) if a != axis]
    tensor = b.arranged(x, [*rest, axis])
    shape = (*tensor.shape[:-1], count)
    operand = b.constant(np.array(count, np.int32), "k")
    values, places = b.multi("TOPK_V2", [tensor, operand], [shape, shape])
    places.dtype = np.dtype(np.int32)
    last = len(rest)
    axes = [*range(axis), last, *range(axis, last)]
    best = layout.plain(values)
    sorted_values = layout.transpose(_mirrored(b, best) if smallest else best, axes)
    where = unary(b, "CAST", layout.plain(places), dtype=np.int64, **_CAST_INDEX)
    return [sorted_values, layout.transpose(where, axes)]


def _mirrored(b: Builder, x: Value) -> Value:
    """Return numbers in the opposite order: -1 - x of integers, as the least has no negative."""
    if x.tensor.dtype.kind == "f":
        return unary(b, "NEG", x)
    return binary(b, "SUB", Constant(np.array(-1, x.tensor.dtype), ()), x)


_CAST_INDEX = {"in_dtype": "int32", "out_dtype": "int64"}


def triangle(ctx: Context, node: Node, inputs: Inputs) -> list[Item]:
    """Keep the upper or lower triangle of the last two dimensions."""
    x = ctx.value(node, inputs, 0)
    offset = ctx.optional_array(node, inputs, 1)
    diagonal = 0 if offset is None else int(offset.reshape(-1)[0])
    if len(x.shape) < 2 or any(is_batch(d) for d in x.shape[-2:]):
        raise BadInput(f"{node}: {describe(x.shape)} has no triangle", hint=GRAPH)
    ones = np.ones(x.shape[-2:], bool)
    upper = ctx.integer(node, "upper", 1)
    mask = np.triu(ones, diagonal) if upper else np.tril(ones, diagonal)
    zero = Constant(np.zeros(1, x.tensor.dtype), (1,))
    tensors, result = align(ctx.b, [Constant(mask, mask.shape), x, zero])
    out = ctx.b.op("SELECT_V2", tensors, result.tensor.shape, dtype=x.tensor.dtype)
    return [result.with_tensor(out)]


def cumulative_sum(ctx: Context, node: Node, inputs: Inputs) -> list[Item]:
    """Sum up along a dimension: a product with a triangle of ones."""
    x = ctx.value(node, inputs, 0)
    axis = axis_of(node, int(ctx.array(node, inputs, 1).reshape(-1)[0]), len(x.shape))
    size = x.shape[axis]
    if is_batch(size):
        raise BadInput(
            f"{node}: a running sum of {describe(x.shape)} has no TFLite form", hint=TFLITE_FORM
        )
    if x.tensor.dtype != np.float32:
        x, how = (
            ctx.b.row_major(x),
            {n: bool(ctx.integer(node, n, 0)) for n in ("exclusive", "reverse")},
        )
        place = ctx.b.constant(np.array(axis, np.int32), "axis")
        return [x.with_tensor(ctx.b.op("CUMSUM", [x.tensor, place], x.tensor.shape, **how))]
    bounded(size * size, node)
    matrix = np.tril(np.ones((size, size), np.float32), -ctx.integer(node, "exclusive", 0))
    if ctx.integer(node, "reverse", 0):
        matrix = matrix.T
    return [contract(ctx.b, x, axis, np.ascontiguousarray(matrix), None, "ones")]
