"""Concatenation of values in a common memory order, and of constants with values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sepdeploy.errors import GRAPH, TFLITE_FORM, BadInput
from sepdeploy.exporters.tflite_file.format.graph import Array, Tensor, bounded, describe, is_batch
from sepdeploy.exporters.tflite_file.ops.select import padded
from sepdeploy.exporters.tflite_file.source import Node
from sepdeploy.exporters.tflite_file.values import layout
from sepdeploy.exporters.tflite_file.values.affine import Lazy, hold
from sepdeploy.exporters.tflite_file.values.context import Context, Inputs, Item, axis_of
from sepdeploy.exporters.tflite_file.values.elementwise import binary
from sepdeploy.exporters.tflite_file.values.layout import Constant, Value


def concat(ctx: Context, node: Node, inputs: Inputs) -> list[Lazy]:
    """Join items along a dimension."""
    items = [ctx.item(node, inputs, i) for i in range(len(inputs))]
    rank = len(items[0].shape)
    axis = axis_of(node, ctx.integer(node, "axis"), rank)
    _check(node, items, axis)
    if len(items) == 1:
        return [items[0]]
    repeated = [i for i in items if isinstance(i, Constant) and i.data.shape != i.shape]
    if any(is_batch(d) for i in repeated for d in i.shape):
        return [_with_repeated(ctx, node, items, axis)]
    full = [
        Constant(np.broadcast_to(i.data, i.shape), i.shape) if isinstance(i, Constant) else i
        for i in items
    ]
    return [_joined(ctx, full, axis)]


def _check(node: Node, items: Sequence[Item], axis: int) -> None:
    first = items[0].shape
    for item in items:
        others = [d for a, d in enumerate(item.shape) if a != axis]
        if len(item.shape) != len(first) or others != [d for a, d in enumerate(first) if a != axis]:
            raise BadInput(
                f"{node}: {describe(first)} and {describe(item.shape)} do not join", hint=GRAPH
            )
    if any(is_batch(i.shape[axis]) for i in items):
        raise BadInput(
            f"{node} joins along the batch, so samples would depend on each other", hint=TFLITE_FORM
        )


def _with_repeated(ctx: Context, node: Node, items: Sequence[Item], axis: int) -> Lazy:
    """Join values with constants that are the same for every sample (a class token).

    The values are padded with zeros where the constants go, and the constants are added there.
    """
    width = sum(i.shape[axis] for i in items)
    result: Value | None = None
    sheet: Array | None = None
    position = 0
    for item in items:
        size = item.shape[axis]
        around = (position, width - position - size)
        position += size
        if isinstance(item, Value):
            part = padded(ctx, node, item, {axis: around}, 0.0)
            result = part if result is None else binary(ctx.b, "ADD", result, part)
            continue
        data = item.data.reshape((1,) * (len(item.shape) - item.data.ndim) + item.data.shape)
        dims = [s if is_batch(d) else d for s, d in zip(data.shape, item.shape, strict=True)]
        pads = [around if a == axis else (0, 0) for a in range(len(dims))]
        bounded(math.prod(dims) // dims[axis] * width, node)
        piece = np.pad(np.broadcast_to(data, dims), pads)
        sheet = piece if sheet is None else sheet + piece
    if result is None or sheet is None:
        raise BadInput(
            f"{node} joins only constants repeated for every sample",
            hint="let them broadcast instead of expanding them to the batch size",
        )
    return hold(ctx.b, result, np.ones(1, np.float32), sheet)


@dataclass(frozen=True)
class _Frame:
    """A common memory order: every part's place, the joined dimension being a part of its own."""

    parts: list[list[int]]  # sizes within each logical dimension
    order: list[int]  # all parts, slowest first
    dims: list[list[int]]  # parts within each dimension of the tensors
    axis: int
    joined: int  # index of the joined part


def _joined(ctx: Context, items: Sequence[Item], axis: int) -> Value:
    frame = _frame(items, axis)
    if frame is None:
        items = [ctx.b.row_major(i) if isinstance(i, Value) else i for i in items]
        frame = _frame(items, axis) or _plain_frame(items[0].shape, axis)
    tensors = [_part(ctx, item, frame, item.shape[axis]) for item in items]
    place = frame.dims.index([frame.joined])
    width = sum(i.shape[axis] for i in items)
    shape = list(tensors[0].shape)
    shape[place] = width
    out = ctx.b.op("CONCATENATION", tensors, shape, axis=place)
    atoms = [p for part in frame.parts for p in part]
    atoms[frame.joined] = width
    first = items[0].shape
    logical = (*first[:axis], width, *first[axis + 1 :])
    return Value(logical, out, tuple(atoms), tuple(frame.order))


def _plain_frame(shape: Sequence[int], axis: int) -> _Frame:
    """Logical order, for parts that all have size 1 along the axis."""
    parts = [[d] if d != 1 or a == axis else [] for a, d in enumerate(shape)]
    order = list(range(sum(len(p) for p in parts)))
    return _Frame(parts, order, [[i] for i in order], axis, sum(len(p) for p in parts[:axis]))


def _frame(items: Sequence[Item], axis: int) -> _Frame | None:
    """Return the order of the widest value, factored finely enough for all; None if none fits."""
    values = [i for i in items if isinstance(i, Value)]
    merged = [layout.merge_axis(v, axis) for v in values]
    wide = [m for m in merged if m is not None and m.shape[axis] != 1]
    if not wide or len(wide) + sum(v.shape[axis] == 1 for v in values) != len(values):
        return None
    leader = max(wide, key=lambda v: v.shape[axis])
    parts = [[leader.atoms[a] for a in group] for group in leader.groups()]
    for item in values:
        for a, group in enumerate(item.groups()):
            if a == axis or not group:
                continue
            finer = layout.common_atoms(parts[a], [item.atoms[g] for g in group])
            if finer is None:
                return None
            parts[a] = list(finer)
    fine = layout.refine(leader, [p for part in parts for p in part])
    if fine is None:
        return None
    joined = sum(len(p) for p in parts[:axis])
    dims = layout.split_dims(fine, [[i == joined for i in range(len(fine.atoms))]])
    return _Frame(parts, list(fine.order), dims, axis, joined)


def _part(ctx: Context, item: Item, frame: _Frame, size: int) -> Tensor:
    atoms = [p for part in frame.parts for p in part]
    atoms[frame.joined] = size
    shape = [math.prod(atoms[p] for p in dim) for dim in frame.dims]
    if isinstance(item, Constant):
        array = item.data.reshape(atoms).transpose(frame.order)
        return ctx.b.constant(array.reshape(shape), "part")
    merged = layout.merge_axis(item, frame.axis)
    kept = [i for i, atom in enumerate(atoms) if atom != 1]
    refined = None if merged is None else layout.refine(merged, [atoms[i] for i in kept])
    assert refined is not None, "the frame refines every item"
    order = [kept.index(i) for i in frame.order if i in kept]
    return ctx.b.reshape(ctx.b.ordered(refined, order), shape)
