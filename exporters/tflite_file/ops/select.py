"""Slice, Split, Gather, Concat, Pad: parts of values and values of parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from sepdeploy.errors import GRAPH, TFLITE_FORM, BadInput
from sepdeploy.exporters.tflite_file.format.graph import Array, bounded, describe, is_batch
from sepdeploy.exporters.tflite_file.format.limits import MAX_PLAIN_RANK
from sepdeploy.exporters.tflite_file.ops.composed import chosen
from sepdeploy.exporters.tflite_file.source import Node
from sepdeploy.exporters.tflite_file.values import layout
from sepdeploy.exporters.tflite_file.values.builder import Builder
from sepdeploy.exporters.tflite_file.values.context import Context, Inputs, Item, axis_of
from sepdeploy.exporters.tflite_file.values.elementwise import binary
from sepdeploy.exporters.tflite_file.values.layout import Constant, Value
from sepdeploy.exporters.tflite_file.values.slices import emit_slice

MOST_SAMPLES = 1 << 28  # no memory holds more


def slice_(ctx: Context, node: Node, inputs: Inputs) -> list[Item]:
    """Slice with starts, ends, axes and steps known at export."""
    x = ctx.value(node, inputs, 0)
    starts, ends = (_list(ctx, node, inputs, i) for i in (1, 2))
    axes = _list(ctx, node, inputs, 3) or list(range(len(starts)))
    steps = _list(ctx, node, inputs, 4) or [1] * len(starts)
    for start, end, raw_axis, step in zip(starts, ends, axes, steps, strict=True):
        axis = axis_of(node, raw_axis, len(x.shape))
        size = x.shape[axis]
        if step == 0:
            raise BadInput(f"{node}: a step of 0", hint=GRAPH)
        if is_batch(size) and step == 1 and start == 0 and end >= MOST_SAMPLES:
            continue  # "to the end", however that is spelled
        indices = slice(start, _open_end(end, step), step).indices(size)
        count = len(range(*indices))
        if count == 0:
            raise BadInput(
                f"{node} leaves nothing of dimension {axis} of {describe(x.shape)}", hint=GRAPH
            )
        if count != size or step < 0:
            x = sliced(ctx, node, x, axis, indices[0], count, step if count > 1 else 1)
    return [x]


def _list(ctx: Context, node: Node, inputs: Inputs, index: int) -> list[int]:
    array = ctx.optional_array(node, inputs, index)
    return [] if array is None else [int(v) for v in array.reshape(-1)]


def _open_end(end: int, step: int) -> int | None:
    return None if step < 0 and end <= -(1 << 31) else end


def sliced(
    ctx: Context, node: Node, x: Value, axis: int, start: int, count: int, step: int
) -> Value:
    """Emit ``count`` entries of a dimension from ``start`` on, ``step`` apart."""
    if is_batch(x.shape[axis]):
        raise BadInput(
            f"{node} takes part of the batch, so samples would depend on each other",
            hint="slice the other dimensions only",
        )
    if x.shape[axis] == 1:
        return x
    if step == 1:
        merged, place, inner = ctx.b.exposed(x, axis)
    else:
        merged, place = ctx.b.isolated(x, axis)
        inner = 1
    rank = len(merged.tensor.shape)
    shape = list(merged.tensor.shape)
    shape[place] = count * inner
    begin = [0] * rank
    begin[place] = start * inner
    steps = [1] * rank
    steps[place] = step
    out = emit_slice(ctx.b, merged.tensor, begin, shape, steps)
    return layout.resize_axis(merged, axis, count, out)


def split(ctx: Context, node: Node, inputs: Inputs) -> list[Item]:
    """Cut a dimension into parts."""
    x = ctx.value(node, inputs, 0)
    axis = axis_of(node, ctx.integer(node, "axis", 0), len(x.shape))
    total = x.shape[axis]
    sizes = _list(ctx, node, inputs, 1) or [int(v) for v in node.attributes.get("split", [])]
    if not sizes:
        parts = bounded(ctx.integer(node, "num_outputs", len(node.outputs)), node)
        chunk = -(-total // parts)
        sizes = [min(chunk, total - i * chunk) for i in range(parts)]
    if is_batch(total) or sum(sizes) != total or min(sizes) < 1:
        raise BadInput(
            f"{node}: parts {sizes} do not fit dimension {axis} of {describe(x.shape)}", hint=GRAPH
        )
    if len(sizes) == 1:
        return [x]
    b = ctx.b
    merged, place, inner = b.exposed(x, axis)
    shapes = []
    for size in sizes:
        shape = list(merged.tensor.shape)
        shape[place] = size * inner
        shapes.append(shape)
    place_operand = b.constant(np.array(place, np.int32), "axis")
    if len(set(sizes)) == 1:
        operands = [place_operand, merged.tensor]
        outs = b.multi("SPLIT", operands, shapes, num_splits=len(sizes))
    else:
        widths = b.ints([s * inner for s in sizes], "sizes")
        operands = [merged.tensor, widths, place_operand]
        outs = b.multi("SPLIT_V", operands, shapes, num_splits=len(sizes))
    return [layout.resize_axis(merged, axis, s, o) for s, o in zip(sizes, outs, strict=True)]


def gather(ctx: Context, node: Node, inputs: Inputs) -> list[Item]:
    """Pick entries along a dimension by index."""
    data, indices = ctx.item(node, inputs, 0), ctx.item(node, inputs, 1)
    axis = axis_of(node, ctx.integer(node, "axis", 0), len(data.shape))
    if isinstance(indices, Constant):
        return [picked_along(ctx, node, ctx.b.runtime(data), indices.whole(node), axis)]
    table = ctx.b.row_major(ctx.b.runtime(data, "weight"))
    if is_batch(table.shape[axis]):
        raise BadInput(
            f"{node} picks from the batch, so samples would depend on each other", hint=TFLITE_FORM
        )
    places = ctx.b.row_major(from_front(ctx.b, indices, table.shape[axis]))
    shape = (*table.shape[:axis], *places.shape, *table.shape[axis + 1 :])
    out = ctx.b.op(
        "GATHER", [table.tensor, places.tensor], shape, dtype=table.tensor.dtype, axis=axis
    )
    return [layout.plain(out)]


def from_front(b: Builder, places: Value, size: int | Sequence[int]) -> Value:
    """Return indices that may count from the end as such from the front.

    One that is out of range becomes negative: every kernel refuses that, where some would read
    another row, and no place has that number.
    """
    limits = np.asarray(size, places.tensor.dtype)
    ends = Constant(limits, limits.shape)
    zero, none = (Constant(np.array(n, limits.dtype), ()) for n in (0, -1))
    negative = binary(b, "LESS", places, zero, dtype=bool)
    places = chosen(b, negative, binary(b, "ADD", places, ends), places)
    return chosen(b, binary(b, "LESS", places, ends, dtype=bool), places, none)


def picked_along(ctx: Context, node: Node, x: Value, indices: Array, axis: int) -> Value:
    """Emit the selection of known indices along a dimension: a slice where they are consecutive."""
    size = x.shape[axis]
    if is_batch(size):
        raise BadInput(
            f"{node} takes part of the batch, so samples would depend on each other",
            hint="select along the other dimensions only",
        )
    picked = np.asarray(indices, np.int64)
    if np.any((picked < -size) | (picked >= size)):
        raise BadInput(
            f"{node}: an index is outside dimension {axis} of {describe(x.shape)}", hint=GRAPH
        )
    picked = np.where(picked < 0, picked + size, picked)
    shape = (*x.shape[:axis], *picked.shape, *x.shape[axis + 1 :])
    flat = picked.reshape(-1)
    start = int(flat[0])
    if np.array_equal(flat, np.arange(start, start + flat.size)):
        y = x if flat.size == size else sliced(ctx, node, x, axis, start, flat.size, 1)
        return ctx.b.reshaped(y, shape)
    if size == 1:
        x = ctx.b.row_major(x)
        table, place, merged = x.tensor, axis, None
    else:
        merged, place = ctx.b.isolated(x, axis)
        table = merged.tensor
    out_shape = (*table.shape[:place], flat.size, *table.shape[place + 1 :])
    operands = [table, ctx.b.ints(flat, "indices")]
    out = ctx.b.op("GATHER", operands, out_shape, axis=place)
    if merged is None:
        return ctx.b.reshaped(layout.plain(out), shape)
    return ctx.b.reshaped(layout.resize_axis(merged, axis, flat.size, out), shape)


def pad(ctx: Context, node: Node, inputs: Inputs) -> list[Item]:
    """Pad with a constant or by reflection; negative padding cuts off."""
    x = ctx.value(node, inputs, 0)
    rank = len(x.shape)
    given = _list(ctx, node, inputs, 1) or ctx.ints(node, "pads", [])
    axes = _list(ctx, node, inputs, 3) or list(range(rank))
    mode = ctx.text(node, "mode", "constant")
    fill = ctx.optional_array(node, inputs, 2)
    value = ctx.number(node, "value", 0.0) if fill is None else fill.reshape(-1)[0].item()
    if mode not in ("constant", "reflect", "edge", "wrap") or len(given) != 2 * len(axes):
        raise BadInput(
            f"{node}: mode '{mode}' with padding {given} has no TFLite form", hint=TFLITE_FORM
        )
    pads = {axis_of(node, a, rank): (given[i], given[len(axes) + i]) for i, a in enumerate(axes)}
    for axis, (before, after) in pads.items():
        if before < 0 or after < 0:
            start, stop = max(-before, 0), x.shape[axis] - max(-after, 0)
            x = sliced(ctx, node, x, axis, start, stop - start, 1)
    wanted = {a: (max(p, 0), max(q, 0)) for a, (p, q) in pads.items() if p > 0 or q > 0}
    if mode in ("edge", "wrap"):
        for axis, (before, after) in wanted.items():
            bounded(before + after, node)
            places = np.arange(-before, x.shape[axis] + after)
            last = x.shape[axis] - 1
            picked = np.clip(places, 0, last) if mode == "edge" else places % (last + 1)
            x = picked_along(ctx, node, x, picked, axis)
        return [x]
    return [padded(ctx, node, x, wanted, value, reflect=mode == "reflect")]


def padded(
    ctx: Context,
    node: Node,
    x: Value,
    pads: dict[int, tuple[int, int]],
    value: float,
    *,
    reflect: bool = False,
) -> Value:
    """Emit PAD, PADV2 or MIRROR_PAD for (before, after) per logical dimension."""
    if not pads:
        return x
    if any(is_batch(x.shape[a]) for a in pads):
        raise BadInput(f"{node} pads the batch", hint=TFLITE_FORM)
    if len(pads) > 1 and len(x.atoms) + len(pads) > MAX_PLAIN_RANK + 1:
        for axis, around in pads.items():
            x = padded(ctx, node, x, {axis: around}, value, reflect=reflect)
        return x
    if any(x.shape[a] == 1 for a in pads):
        x = ctx.b.row_major(x)
        tensor, places = x.tensor, dict(zip(pads, pads, strict=True))
    else:
        places = {}
        for axis in pads:
            x, _ = ctx.b.isolated(x, axis)
        atom_of = {axis: x.groups()[axis][0] for axis in pads}
        dims = layout.tensor_dims(x)
        places = {axis: dims.index([atom]) for axis, atom in atom_of.items()}
        tensor = x.tensor
    amounts = [[0, 0] for _ in tensor.shape]
    for axis, place in places.items():
        amounts[place] = list(pads[axis])
    shape = [d + sum(p) for d, p in zip(tensor.shape, amounts, strict=True)]
    b = ctx.b
    operands = [tensor, b.ints(amounts, "pads")]
    if reflect:
        out = b.op("MIRROR_PAD", operands, shape, mode=0)
    elif value == 0.0:
        out = b.op("PAD", operands, shape)
    else:
        out = b.op("PADV2", [*operands, b.constant(np.array([value], tensor.dtype), "fill")], shape)
    sizes = {axis: x.shape[axis] + sum(p) for axis, p in pads.items()}
    if any(x.shape[a] == 1 for a in pads):
        return layout.plain(out)
    atoms = list(x.atoms)
    for axis, size in sizes.items():
        atoms[x.groups()[axis][0]] = size
    logical = tuple(sizes.get(a, d) for a, d in enumerate(x.shape))
    return replace(x, shape=logical, tensor=out, atoms=tuple(atoms))
