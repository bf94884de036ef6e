"""Picking and placing by computed indices: GatherElements, GatherND, Scatter*, OneHot.

Indices along one axis are a GATHER with batch dimensions; placing is a comparison of the indices
with all places, since the runtimes' own scatter loses what is placed twice. A negative index
counts from the end, which the runtimes do not know.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from sepdeploy.errors import GRAPH, TFLITE_FORM, BadInput
from sepdeploy.exporters.tflite_file.format.graph import bounded, describe, is_batch
from sepdeploy.exporters.tflite_file.ops.arithmetic import scalar
from sepdeploy.exporters.tflite_file.ops.composed import along, chosen
from sepdeploy.exporters.tflite_file.ops.reduce import reduce_value
from sepdeploy.exporters.tflite_file.ops.select import from_front, picked_along, sliced
from sepdeploy.exporters.tflite_file.source import Node
from sepdeploy.exporters.tflite_file.values import layout
from sepdeploy.exporters.tflite_file.values.builder import Builder
from sepdeploy.exporters.tflite_file.values.context import Context, Inputs, Item, axis_of
from sepdeploy.exporters.tflite_file.values.elementwise import binary
from sepdeploy.exporters.tflite_file.values.layout import Constant, Value

# What is placed where nothing is, and what joins all that is placed.
_JOINS = {
    "none": (0.0, "SUM", ""),
    "add": (0.0, "SUM", "ADD"),
    "mul": (1.0, "REDUCE_PROD", "MUL"),
    "max": (-math.inf, "REDUCE_MAX", "MAXIMUM"),
    "min": (math.inf, "REDUCE_MIN", "MINIMUM"),
}


def picked(b: Builder, rows: Value, places: Value) -> Value:
    """Return of each row of (R, D, …) what stands at its places (R, K): (R, K, …)."""
    table, index = b.row_major(rows).tensor, b.row_major(places).tensor
    shape = (table.shape[0], places.shape[1], *table.shape[2:])
    return layout.plain(b.op("GATHER", [table, index], shape, axis=1, batch_dims=1))


def gather_elements(ctx: Context, node: Node, inputs: Inputs) -> list[Item]:
    """Pick one element for each index, along an axis."""
    b, x, places = ctx.b, ctx.value(node, inputs, 0), ctx.value(node, inputs, 1)
    rank = len(x.shape)
    axis = axis_of(node, ctx.integer(node, "axis", 0), rank)
    _refuse_batch(node, x.shape[axis])
    for a in range(rank):
        if a != axis and places.shape[a] != x.shape[a]:
            x = sliced(ctx, node, x, a, 0, places.shape[a], 1)
    rows, index = (_axis_last(b, v, axis) for v in (x, from_front(b, places, x.shape[axis])))
    return [_axis_back(b, picked(b, rows, index), places.shape, axis)]


def _axis_last(b: Builder, x: Value, axis: int) -> Value:
    rest = [a for a in range(len(x.shape)) if a != axis]
    turned = layout.transpose(x, [*rest, axis])
    return b.reshaped(turned, (math.prod(turned.shape[:-1]), turned.shape[-1]))


def _axis_back(b: Builder, rows: Value, shape: Sequence[int], axis: int) -> Value:
    rest = [n for a, n in enumerate(shape) if a != axis]
    last = len(rest)
    whole = b.reshaped(rows, (*rest, shape[axis]))
    return layout.transpose(whole, [*range(axis), last, *range(axis, last)])


def gather_nd(ctx: Context, node: Node, inputs: Inputs) -> list[Item]:
    """Pick by several coordinates at once, behind any batch dimensions."""
    b, x = ctx.b, ctx.value(node, inputs, 0)
    item, own = ctx.item(node, inputs, 1), ctx.integer(node, "batch_dims", 0)
    depth = item.shape[-1] if item.shape else 0
    lead = x.shape[own : own + depth]
    if not 0 < depth <= len(x.shape) - own:
        raise BadInput(f"{node}: coordinates {describe(item.shape)} do not fit", hint=GRAPH)
    _refuse_batch(node, *lead)
    if isinstance(item, Constant) and not own:
        indices = item.whole(node)
        if np.any((indices < -np.array(lead)) | (indices >= np.array(lead))):
            raise BadInput(f"{node}: an index is outside {describe(x.shape)}", hint=GRAPH)
        places = np.where(indices < 0, indices + np.array(lead), indices)
        flat = np.ravel_multi_index(tuple(np.moveaxis(places, -1, 0)), lead)
        merged = b.reshaped(x, (math.prod(lead), *x.shape[depth:]))
        return [picked_along(ctx, node, merged, np.asarray(flat), 0)]
    index = _flat_index(ctx, b.runtime(item), lead)
    rows = (math.prod(x.shape[:own]), math.prod(lead), math.prod(x.shape[own + depth :]))
    count = math.prod(item.shape[own:-1])
    found = picked(b, b.reshaped(x, rows), b.reshaped(index, (rows[0], count)))
    return [b.reshaped(found, (*item.shape[:-1], *x.shape[own + depth :]))]


def _flat_index(ctx: Context, index: Value, lead: Sequence[int]) -> Value:
    """Return coordinates (…, depth) as one index (…, 1); -1 where one is out of range."""
    last = len(index.shape) - 1
    index = from_front(ctx.b, index, list(lead))
    if len(lead) == 1:
        return index
    strides = np.cumprod([1, *reversed(lead[1:])])[::-1].astype(index.tensor.dtype)
    steps = Constant(np.ascontiguousarray(strides), strides.shape)
    flat = reduce_value(ctx, "SUM", binary(ctx.b, "MUL", index, steps), [last], keep=True)
    least = reduce_value(ctx, "REDUCE_MIN", index, [last], keep=True)
    zero, none = (Constant(np.array(n, index.tensor.dtype), ()) for n in (0, -1))
    return chosen(ctx.b, binary(ctx.b, "LESS", least, zero, dtype=bool), none, flat)


def scatter_elements(ctx: Context, node: Node, inputs: Inputs) -> list[Item]:
    """Place one element for each index, along an axis."""
    b, x = ctx.b, ctx.value(node, inputs, 0)
    places, updates = ctx.value(node, inputs, 1), ctx.value(node, inputs, 2)
    axis = axis_of(node, ctx.integer(node, "axis", 0), len(x.shape))
    _refuse_batch(node, x.shape[axis])
    if any(m != n for a, (m, n) in enumerate(zip(places.shape, x.shape, strict=True)) if a != axis):
        raise BadInput(
            f"{node}: indices {describe(places.shape)} for a part of {describe(x.shape)} have no "
            "TFLite form",
            hint="index all of the other dimensions",
        )
    index = from_front(b, places, x.shape[axis])
    rows, index, new = (_axis_last(b, v, axis) for v in (x, index, updates))
    new = b.reshaped(new, (*new.shape, 1))
    old = b.reshaped(rows, (*rows.shape, 1))
    placed = _placed(ctx, node, old, index, new)
    return [_axis_back(b, b.reshaped(placed, rows.shape), x.shape, axis)]


def scatter_nd(ctx: Context, node: Node, inputs: Inputs) -> list[Item]:
    """Place slices by several leading coordinates at once."""
    b, x = ctx.b, ctx.value(node, inputs, 0)
    item, updates = ctx.item(node, inputs, 1), ctx.value(node, inputs, 2)
    depth = item.shape[-1]
    lead, rest = x.shape[:depth], x.shape[depth:]
    _refuse_batch(node, *lead, *item.shape)
    count, width = math.prod(item.shape[:-1]), math.prod(rest)
    index = b.reshaped(_flat_index(ctx, b.runtime(item), lead), (1, count))
    old, new = b.reshaped(x, (1, math.prod(lead), width)), b.reshaped(updates, (1, count, width))
    return [b.reshaped(_placed(ctx, node, old, index, new), x.shape)]


def _placed(ctx: Context, node: Node, old: Value, index: Value, new: Value) -> Value:
    """Place ``new`` (R, K, Q) at the indices (R, K) of ``old`` (R, P, Q)."""
    b, how = ctx.b, ctx.text(node, "reduction", "none")
    if how not in _JOINS:
        raise BadInput(f"{node}: reduction '{how}' has no TFLite form", hint=TFLITE_FORM)
    empty, join, kind = _JOINS[how]
    places, dtype = old.shape[1], new.tensor.dtype
    bounded(math.prod(1 if is_batch(n) else n for n in (*new.shape, places)), node)
    numbers = along(np.arange(places, dtype=index.tensor.dtype), 2, 4)
    here = binary(
        b,
        "EQUAL",
        b.reshaped(index, (*index.shape, 1, 1)),
        Constant(numbers, numbers.shape),
        dtype=bool,
    )
    if math.isinf(empty) and dtype.kind != "f":
        limits = np.iinfo(dtype)
        empty = int(limits.max if empty > 0 else limits.min)
    nothing = Constant(np.array(empty).astype(dtype), ())
    spread = chosen(b, here, b.reshaped(new, (*new.shape[:2], 1, new.shape[2])), nothing)
    joined = reduce_value(ctx, join, spread, [1], keep=False)
    if kind:
        return binary(b, kind, old, joined)
    one = chosen(b, here, scalar(1), scalar(0))
    hit = reduce_value(ctx, "REDUCE_MAX", one, [1], keep=False)
    return chosen(b, binary(b, "GREATER", hit, scalar(0.5), dtype=bool), joined, old)


def one_hot(ctx: Context, node: Node, inputs: Inputs) -> list[Item]:
    """Return one value where the index says so, another one elsewhere."""
    b, index = ctx.b, ctx.value(node, inputs, 0)
    depth = int(ctx.array(node, inputs, 1).reshape(-1)[0])
    rank = len(index.shape) + 1
    axis = axis_of(node, ctx.integer(node, "axis", -1), rank)
    spread = b.reshaped(index, (*index.shape[:axis], 1, *index.shape[axis:]))
    dtype = index.tensor.dtype
    zero, size = (Constant(np.array(n, dtype), ()) for n in (0, depth))
    negative = binary(b, "LESS", spread, zero, dtype=bool)
    spread = chosen(b, negative, binary(b, "ADD", spread, size), spread)
    numbers = along(np.arange(bounded(depth, node)).astype(dtype), axis, rank)
    here = binary(b, "EQUAL", spread, Constant(numbers, numbers.shape), dtype=bool)
    values = ctx.item(node, inputs, 2)
    if isinstance(values, Constant):
        off, on = values.whole(node).reshape(2)
        return [chosen(b, here, _number(on), _number(off))]
    pair = b.runtime(values)
    off_value, on_value = (b.reshaped(sliced(ctx, node, pair, 0, k, 1, 1), ()) for k in (0, 1))
    return [chosen(b, here, on_value, off_value)]


def _number(value: Any) -> Constant:
    return Constant(np.asarray(value), ())


def _refuse_batch(node: Node, *sizes: int) -> None:
    if any(is_batch(n) for n in sizes):
        raise BadInput(
            f"{node} picks from the batch, so samples would depend on each other",
            hint="index the other dimensions only",
        )
