"""Reshape, Flatten, Squeeze, Unsqueeze, Transpose, Identity: notes about layout, no operators."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from sepdeploy.errors import GRAPH, BadInput
from sepdeploy.exporters.tflite_file.format.graph import bounded, describe, is_batch
from sepdeploy.exporters.tflite_file.format.limits import MAX_BROADCAST_RANK
from sepdeploy.exporters.tflite_file.format.types import computes
from sepdeploy.exporters.tflite_file.ops.select import picked_along
from sepdeploy.exporters.tflite_file.source import Node
from sepdeploy.exporters.tflite_file.values import layout
from sepdeploy.exporters.tflite_file.values.context import Context, Inputs, Item, axis_of
from sepdeploy.exporters.tflite_file.values.elementwise import binary, broadcast
from sepdeploy.exporters.tflite_file.values.layout import Constant


def identity(ctx: Context, node: Node, inputs: Inputs) -> list[Item]:
    """Identity, Dropout at inference, Cast from float to float."""
    return [ctx.item(node, inputs, 0)]


def reshape(ctx: Context, node: Node, inputs: Inputs) -> list[Item]:
    """Reshape with a shape known at export (up to the batch)."""
    target = [int(d) for d in ctx.array(node, inputs, 1).reshape(-1)]
    return [to_shape(ctx, node, ctx.item(node, inputs, 0), target)]


def to_shape(ctx: Context, node: Node, item: Item, target: Sequence[int]) -> Item:
    """Give an item another shape; 0 keeps a dimension and -1 is worked out, as in ONNX."""
    zero_copies = not ctx.integer(node, "allowzero", 0)
    dims = []
    for i, d in enumerate(target):
        if d == 0 and zero_copies:
            if i >= len(item.shape):
                raise BadInput(
                    f"{node}: shape {list(target)} keeps a dimension that is not there", hint=GRAPH
                )
            d = item.shape[i]
        dims.append(d)
    total, known = math.prod(item.shape), math.prod(d for d in dims if d != -1)
    if dims.count(-1) == 1 and known and total % known == 0:
        dims[dims.index(-1)] = total // known
    if math.prod(dims) != total or any(d < 1 for d in dims):
        raise BadInput(
            f"{node}: {describe(item.shape)} does not fit into shape {describe(dims)}",
            hint="if the batch size is part of the shape, export with a dynamic batch",
        )
    if isinstance(item, Constant) and not item.repeated:
        return Constant(item.whole(node).reshape(dims), tuple(dims))
    item = ctx.b.runtime(item)
    return ctx.b.reshaped(item, dims)


def flatten(ctx: Context, node: Node, inputs: Inputs) -> list[Item]:
    """Flatten to two dimensions."""
    item = ctx.item(node, inputs, 0)
    rank = len(item.shape)
    axis = ctx.integer(node, "axis", 1)
    axis = axis + rank if axis < 0 else axis
    if not 0 <= axis <= rank:
        raise BadInput(f"{node}: axis {axis} is outside a tensor of {rank} dimensions", hint=GRAPH)
    dims = (math.prod(item.shape[:axis]), math.prod(item.shape[axis:]))
    return [to_shape(ctx, node, item, dims)]


def squeeze(ctx: Context, node: Node, inputs: Inputs) -> list[Item]:
    """Drop dimensions of size 1."""
    item = ctx.item(node, inputs, 0)
    rank = len(item.shape)
    axes = _axes(ctx, node, inputs, rank)
    if axes is None:
        axes = [a for a, d in enumerate(item.shape) if d == 1]
    if any(item.shape[a] != 1 for a in axes):
        raise BadInput(
            f"{node}: axes {axes} of {describe(item.shape)} are not of size 1", hint=GRAPH
        )
    dims = [d for a, d in enumerate(item.shape) if a not in axes]
    return [to_shape(ctx, node, item, dims)]


def unsqueeze(ctx: Context, node: Node, inputs: Inputs) -> list[Item]:
    """Insert dimensions of size 1."""
    item = ctx.item(node, inputs, 0)
    raw = ctx.optional_array(node, inputs, 1)
    given = ctx.ints(node, "axes") if raw is None else [int(a) for a in raw.reshape(-1)]
    rank = len(item.shape) + len(given)
    axes = {axis_of(node, a, rank) for a in given}
    if len(axes) != len(given):
        raise BadInput(f"{node}: axes {given} repeat one another", hint=GRAPH)
    rest = iter(item.shape)
    return [to_shape(ctx, node, item, [1 if a in axes else next(rest) for a in range(rank)])]


def _axes(ctx: Context, node: Node, inputs: Inputs, rank: int) -> list[int] | None:
    raw = ctx.optional_array(node, inputs, 1)
    given = node.attributes.get("axes") if raw is None else raw.reshape(-1)
    return None if given is None else [axis_of(node, int(a), rank) for a in given]


def transpose(ctx: Context, node: Node, inputs: Inputs) -> list[Item]:
    """Permute dimensions; memory moves later, and only if somebody needs it to."""
    item = ctx.item(node, inputs, 0)
    rank = len(item.shape)
    axes = ctx.ints(node, "perm", list(reversed(range(rank))))
    if sorted(axes) != list(range(rank)):
        raise BadInput(
            f"{node}: perm {axes} does not fit a tensor of {rank} dimensions", hint=GRAPH
        )
    if isinstance(item, Constant):
        shape = tuple(item.shape[a] for a in axes)
        padded = item.data.reshape((1,) * (rank - item.data.ndim) + item.data.shape)
        return [Constant(padded.transpose(axes), shape)]
    return [layout.transpose(item, axes)]


def expand(ctx: Context, node: Node, inputs: Inputs) -> list[Item]:
    """Repeat dimensions of size 1, by adding zeros of the wanted shape."""
    x = ctx.value(node, inputs, 0)
    target = tuple(int(d) for d in ctx.array(node, inputs, 1).reshape(-1))
    shape = broadcast(ctx.b, [x.shape, target])
    if shape == x.shape:
        return [x]
    fill = [1 if is_batch(d) else d for d in shape]
    if any(is_batch(d) for d in shape) and not any(is_batch(d) for d in x.shape):
        raise BadInput(
            f"{node} repeats a value for every sample",
            hint="let it broadcast instead of expanding it to the batch size",
        )
    bounded(math.prod(fill), node)
    if len(shape) > MAX_BROADCAST_RANK or not computes("ADD", x.tensor.dtype):
        x = ctx.b.reshaped(x, (1,) * (len(shape) - len(x.shape)) + x.shape)
        for axis, size in enumerate(shape):
            if x.shape[axis] != size:
                x = picked_along(ctx, node, x, np.zeros(size, np.int64), axis)
        return [x]
    zeros = np.zeros(fill, x.tensor.dtype)
    return [binary(ctx.b, "ADD", x, Constant(zeros, zeros.shape))]
