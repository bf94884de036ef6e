"""Reductions, softmax and argmax along logical dimensions, wherever these lie in memory."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

from sepdeploy.errors import BadInput
from sepdeploy.exporters.tflite_file.format.graph import is_batch
from sepdeploy.exporters.tflite_file.format.limits import MAX_PLAIN_RANK
from sepdeploy.exporters.tflite_file.source import Node
from sepdeploy.exporters.tflite_file.values import layout
from sepdeploy.exporters.tflite_file.values.affine import Converter
from sepdeploy.exporters.tflite_file.values.builder import FLOAT
from sepdeploy.exporters.tflite_file.values.context import Context, Inputs, Item, axis_of
from sepdeploy.exporters.tflite_file.values.elementwise import binary, unary
from sepdeploy.exporters.tflite_file.values.layout import Constant, Value


def reduce_op(kind: str) -> Converter:
    """Return the converter of a reduction (axes as attribute or as input)."""

    def convert(ctx: Context, node: Node, inputs: Inputs) -> list[Item]:
        x, axes, keep = _operands(ctx, node, inputs)
        if axes is None:
            return [x]
        return [reduce_value(ctx, kind, x, axes, keep=keep)]

    return convert


def composed_reduce(before: str, after: str) -> Converter:
    """Return the converter of a sum of something, and of something of that sum.

    Args:
        before: What is summed: "ABS", "SQUARE" or "EXP".
        after: What follows the sum: "SQRT", "LOG" or "".
    """

    def convert(ctx: Context, node: Node, inputs: Inputs) -> list[Item]:
        x, axes, keep = _operands(ctx, node, inputs)
        if axes is None:
            raise BadInput(f"{node} reduces nothing", hint="name the axes to reduce over")
        largest = None
        if before == "EXP":  # the largest is taken out, so that nothing overflows
            largest = reduce_value(ctx, "REDUCE_MAX", x, axes, keep=True)
            x = binary(ctx.b, "SUB", x, largest)
        terms = binary(ctx.b, "MUL", x, x) if before == "SQUARE" else unary(ctx.b, before, x)
        y = reduce_value(ctx, "SUM", terms, axes, keep=keep)
        y = unary(ctx.b, after, y) if after else y
        if largest is not None:
            y = binary(ctx.b, "ADD", y, ctx.b.reshaped(largest, y.shape))
        return [y]

    return convert


def _operands(ctx: Context, node: Node, inputs: Inputs) -> tuple[Value, list[int] | None, bool]:
    """Return what is reduced, the axes (None for none of them), and whether they stay as size 1."""
    x = ctx.value(node, inputs, 0)
    axes = _axes(ctx, node, inputs, len(x.shape))
    _refuse_batch(node, x, axes or ())
    return x, axes, ctx.integer(node, "keepdims", 1) == 1


def _axes(ctx: Context, node: Node, inputs: Inputs, rank: int) -> list[int] | None:
    """Return the axes to reduce; None for "none", which an empty list may mean."""
    raw = ctx.optional_array(node, inputs, 1)
    given = node.attributes.get("axes", []) if raw is None else raw.reshape(-1)
    axes = [axis_of(node, int(a), rank) for a in given]
    if axes:
        return axes
    return None if ctx.integer(node, "noop_with_empty_axes", 0) == 1 else list(range(rank))


def _refuse_batch(node: Node, x: Value, axes: Iterable[int]) -> None:
    if any(is_batch(x.shape[a]) for a in axes):
        raise BadInput(
            f"{node} reduces over the batch, so samples would depend on each other",
            hint="reduce over the other dimensions only",
        )


def reduce_value(ctx: Context, kind: str, x: Value, axes: Iterable[int], *, keep: bool) -> Value:
    """Emit a reduction over logical dimensions; ``keep`` leaves them as size 1."""
    reduced = set(axes)
    groups = x.groups()
    gone = {a for axis in reduced for a in groups[axis]}
    flags = [a in gone for a in range(len(x.atoms))]
    shape = tuple(
        1 if axis in reduced else d for axis, d in enumerate(x.shape) if keep or axis not in reduced
    )
    if not gone:
        return ctx.b.reshaped(x, shape)
    dims = layout.split_dims(x, [flags])
    if layout.dims_shape(x, dims) != x.tensor.shape or len(dims) > MAX_PLAIN_RANK:
        dims = layout.compact(x, dims, [flags])
    tensor = ctx.b.reshape(x.tensor, layout.dims_shape(x, dims))
    places = [i for i, dim in enumerate(dims) if dim and dim[0] in gone]
    # Kept as size 1, so that what is computed from it broadcasts back without a RESHAPE.
    out_shape = [1 if i in places else d for i, d in enumerate(tensor.shape)]
    operands = [tensor, ctx.b.ints(places, "axes")]
    out = ctx.b.op(kind, operands, out_shape, keep_dims=True)
    kept = [a for a in range(len(x.atoms)) if a not in gone]
    order = tuple(kept.index(a) for a in x.order if a not in gone)
    return Value(shape, out, tuple(x.atoms[a] for a in kept), order)


def softmax_op(kind: str) -> Converter:
    """Return the converter of SOFTMAX or LOG_SOFTMAX along any axis."""

    def convert(ctx: Context, node: Node, inputs: Inputs) -> list[Item]:
        x = ctx.value(node, inputs, 0)
        if ctx.opset < 13:
            return [_over_the_rest(ctx, node, kind, x)]
        axis = axis_of(node, ctx.integer(node, "axis", -1), len(x.shape))
        return [_softmax(ctx, kind, x, axis)]

    return convert


def _over_the_rest(ctx: Context, node: Node, kind: str, x: Value) -> Value:
    """Before opset 13 the axis is the first of all those that are normalised together."""
    axis = axis_of(node, ctx.integer(node, "axis", 1), len(x.shape))
    matrix = ctx.b.reshaped(x, (math.prod(x.shape[:axis]), math.prod(x.shape[axis:])))
    return ctx.b.reshaped(_softmax(ctx, kind, matrix, 1), x.shape)


def _softmax(ctx: Context, kind: str, x: Value, axis: int) -> Value:
    inner = x.groups()[axis]
    order = [a for a in x.order if a not in inner]
    order += [a for a in x.order if a in inner]
    tensor = ctx.b.ordered(x, order)
    width = x.shape[axis]
    if tensor.shape[-1:] != (width,) or len(tensor.shape) > MAX_PLAIN_RANK:
        rows = [x.atoms[a] for a in order if a not in inner]
        tensor = ctx.b.reshape(tensor, (*rows, width) if len(rows) < 4 else _rows(rows, width))
    options = {"beta": 1.0} if kind == "SOFTMAX" else {}
    out = ctx.b.op(kind, [tensor], tensor.shape, dtype=FLOAT, **options)
    return Value(x.shape, out, x.atoms, tuple(order))


def _rows(rows: Sequence[int], width: int) -> tuple[int, ...]:
    first, *rest = rows
    return (first, math.prod(rest), width)


def arg_op(kind: str) -> Converter:
    """Return the converter of ARG_MAX or ARG_MIN; the index is int64 as in ONNX."""

    def convert(ctx: Context, node: Node, inputs: Inputs) -> list[Item]:
        x = ctx.value(node, inputs, 0)
        axis = axis_of(node, ctx.integer(node, "axis", 0), len(x.shape))
        keep = ctx.integer(node, "keepdims", 1) == 1
        last = bool(ctx.integer(node, "select_last_index", 0))
        return [arg_value(ctx, node, kind, x, axis, keep=keep, last=last)]

    return convert


def arg_value(
    ctx: Context,
    node: Node,
    kind: str,
    x: Value,
    axis: int,
    *,
    keep: bool = True,
    last: bool = False,
) -> Value:
    """Emit ARG_MAX or ARG_MIN: the first of equal values, or the ``last``."""
    _refuse_batch(node, x, [axis])
    b = ctx.b
    rest = [a for a in range(len(x.shape)) if a != axis]
    tensor = b.arranged(x, [*rest, axis])
    if last:
        tensor = b.op("REVERSE_V2", [tensor, b.ints([len(rest)], "axis")], tensor.shape)
    operands = [tensor, b.ints([len(rest)], "axis")]
    out = b.op(kind, operands, tensor.shape[:-1], dtype=np.int64, output_type="int64")
    value = layout.plain(out)
    if last:
        end = Constant(np.array(x.shape[axis] - 1), ())
        value = binary(b, "SUB", end, value)
    if keep:
        value = b.reshaped(value, (*x.shape[:axis], 1, *x.shape[axis + 1 :]))
    return value
