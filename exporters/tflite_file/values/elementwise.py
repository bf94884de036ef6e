"""Operators that work element by element, on operands with different layouts and broadcasting.

The operand with the full shape leads: the others are brought into its memory order (for free
where they are constants). Dimensions of the leading tensor are split only where one of them holds
both a broadcast and an unbroadcast part of another operand.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from sepdeploy.errors import GRAPH, BadInput
from sepdeploy.exporters.tflite_file.format.graph import Array, Shape, Tensor, describe, per_sample
from sepdeploy.exporters.tflite_file.format.limits import MAX_PLAIN_RANK
from sepdeploy.exporters.tflite_file.values import layout
from sepdeploy.exporters.tflite_file.values.builder import Builder
from sepdeploy.exporters.tflite_file.values.context import Item
from sepdeploy.exporters.tflite_file.values.layout import Constant, Value

# A constant is repeated up to this many values to spare a RESHAPE of the other operand.
EXPAND_LIMIT = 4096


def unary(b: Builder, kind: str, value: Value, **options: Any) -> Value:
    """Emit an operator of one operand."""
    tensor = b.op(kind, [value.tensor], value.tensor.shape, **options)
    return value.with_tensor(tensor)


def binary(b: Builder, kind: str, x: Item, y: Item, *, dtype: Any = None, **options: Any) -> Value:
    """Emit an operator of two operands with ONNX's broadcasting; ``dtype`` is the result's."""
    tensors, result = align(b, [x, y])
    return result.with_tensor(b.op(kind, tensors, result.tensor.shape, dtype=dtype, **options))


def add_constant(b: Builder, value: Value, data: Array, role: str) -> Value:
    """Emit ADD of a constant that broadcasts to the value."""
    tensors, result = align(b, [value, Constant(data, data.shape)], role)
    return result.with_tensor(b.op("ADD", tensors, result.tensor.shape))


def align(b: Builder, items: Sequence[Item], role: str = "constant") -> tuple[list[Tensor], Value]:
    """Return operand tensors that broadcast in TFLite as the items do in ONNX.

    Returns:
        The tensors, and a value whose tensor has the result's shape and whose layout is the
        result's; only its tensor has to be replaced.

    Raises:
        BadInput: No item is computed at run time with a form that TFLite has.
    """
    shape = broadcast(b, [item.shape for item in items])
    values = [item for item in items if isinstance(item, Value)]
    if not values:
        values = [b.runtime(items[0], role)]
        items = [values[0], *items[1:]]
    leader = max(values, key=lambda v: (v.shape == shape, per_sample(v.shape)))
    if _pad(leader.shape, len(shape)) != shape:
        return _align_row_major(b, items, shape, role)
    leading = layout.reshape(leader, shape)
    assert leading is not None, "only leading ones were added"
    plan = _common_atoms(leading, items, shape)
    if plan is None:
        leading = b.row_major(leading)
        plan = _common_atoms(leading, [_row_major(b, i) for i in items], shape)
        items = [_row_major(b, i) if i is not leader else leader for i in items]
        assert plan is not None, "row-major memory takes any factoring"
    return _align_to(b, plan, items, leader, role)


def broadcast(b: Builder, shapes: Sequence[Shape]) -> Shape:
    """Return the shape that several shapes broadcast to (the batch counts as a number)."""
    rank = max(len(s) for s in shapes)
    result = []
    for dims in zip(*(_pad(s, rank) for s in shapes), strict=True):
        sizes = {d for d in dims if d != 1}
        if len(sizes) > 1:
            texts = " and ".join(describe(s) for s in shapes)
            raise BadInput(f"{b.scope}: shapes {texts} do not broadcast", hint=GRAPH)
        result.append(sizes.pop() if sizes else 1)
    return tuple(result)


def _pad(shape: Sequence[int], rank: int) -> Shape:
    return (1,) * (rank - len(shape)) + tuple(shape)


def _row_major(b: Builder, item: Item) -> Item:
    return b.row_major(item) if isinstance(item, Value) else item


@dataclass(frozen=True)
class _Plan:
    """The leader with atoms fine enough for all, and each item's share of them."""

    leader: Value
    groups: list[list[int]]  # atoms of each logical dimension
    present: list[list[bool]]  # per item, per atom


def _common_atoms(leading: Value, items: Sequence[Item], shape: Shape) -> _Plan | None:
    """Factor every logical dimension finely enough for all operands."""
    parts: list[list[int]] = [[leading.atoms[a] for a in group] for group in leading.groups()]
    for item in items:
        if not isinstance(item, Value):
            continue
        rank = len(shape) - len(item.shape)
        for axis, group in enumerate(item.groups(), start=rank):
            if group:
                finer = layout.common_atoms(parts[axis], [item.atoms[a] for a in group])
                if finer is None:
                    return None
                parts[axis] = list(finer)
    atoms = [size for part in parts for size in part]
    fine = layout.refine(leading, atoms)
    if fine is None:
        return None
    present = []
    for item in items:
        dims = _pad(item.data.shape if isinstance(item, Constant) else item.shape, len(shape))
        present.append([d != 1 for d, part in zip(dims, parts, strict=True) for _ in part])
    return _Plan(fine, fine.groups(), present)


def _align_to(
    b: Builder, plan: _Plan, items: Sequence[Item], leader: Item, role: str
) -> tuple[list[Tensor], Value]:
    fine = plan.leader
    splitting = [
        p for item, p in zip(items, plan.present, strict=True) if not _expands(item, plan, p)
    ]
    dims = layout.split_dims(fine, splitting)
    if len(dims) > MAX_PLAIN_RANK:
        dims = layout.compact(fine, dims, plan.present)
    if len(dims) > MAX_PLAIN_RANK:
        dims = layout.compact(fine, dims, plan.present, batch_too=True)
    shape = layout.dims_shape(fine, dims)
    base = b.reshape(fine.tensor, shape)
    tensors = []
    for item, present in zip(items, plan.present, strict=True):
        if item is leader:
            tensors.append(base)
        elif isinstance(item, Constant):
            tensors.append(_constant(b, item, plan, present, dims, role))
        else:
            tensors.append(_value(b, item, plan, present, dims))
    return tensors, replace(fine, tensor=Tensor("", shape, base.dtype))


def _expands(item: Item, plan: _Plan, present: Sequence[bool]) -> bool:
    if not isinstance(item, Constant):
        return False
    touched = math.prod(a for a, p in zip(plan.leader.atoms, present, strict=True) if p)
    return touched == 1 or _expanded_size(plan, present) <= max(EXPAND_LIMIT, touched)


def _expanded_size(plan: _Plan, present: Sequence[bool]) -> int:
    """Values of a constant repeated over the tensor dimensions that it touches."""
    fine = plan.leader
    return math.prod(
        math.prod(fine.atoms[a] for a in dim)
        for dim in layout.tensor_dims(fine)
        if any(present[a] for a in dim)
    )


def _constant(
    b: Builder, item: Constant, plan: _Plan, present: list[bool], dims: list[list[int]], role: str
) -> Tensor:
    fine = plan.leader
    data = item.data.reshape(_pad(item.data.shape, len(plan.groups)))
    sizes = [[fine.atoms[a] for a in group] for group in plan.groups]
    array = layout.arrange_constant(data, sizes, fine.order)
    shape: list[int] = []
    full: list[int] = []
    for dim in dims:
        touched = any(present[a] for a in dim)
        shape.append(math.prod(fine.atoms[a] for a in dim) if touched else 1)
        full += [fine.atoms[a] if touched else 1 for a in dim]
    array = np.broadcast_to(array, full).reshape(shape)
    while array.ndim > 1 and array.shape[0] == 1:
        array = array[0]
    return b.constant(array.reshape(1) if array.ndim == 0 else array, role)


def _value(
    b: Builder, item: Value, plan: _Plan, present: Sequence[bool], dims: Sequence[Sequence[int]]
) -> Tensor:
    fine = plan.leader
    mine = [a for a, p in enumerate(present) if p]
    refined = layout.refine(item, [fine.atoms[a] for a in mine])
    assert refined is not None, "the common factoring refines every operand"
    place = {a: i for i, a in enumerate(mine)}
    order = [place[a] for a in fine.order if present[a]]
    tensor = b.ordered(refined, order)
    shape = [
        math.prod(fine.atoms[a] for a in dim) if any(present[a] for a in dim) else 1 for dim in dims
    ]
    return b.reshape(tensor, shape)


def _align_row_major(
    b: Builder, items: Sequence[Item], shape: Shape, role: str
) -> tuple[list[Tensor], Value]:
    """No operand has the full shape: every one in logical order, TFLite broadcasts."""
    tensors = []
    for item in items:
        if isinstance(item, Constant):
            if item.repeated:
                tensors.append(b.runtime(item, role).tensor)
                continue
            data = item.whole(b.scope)
            tensors.append(b.constant(data.reshape(data.shape or (1,)), role))
            continue
        padded = layout.reshape(item, _pad(item.shape, len(shape)))
        assert padded is not None, "only leading ones were added"
        tensors.append(b.row_major(padded).tensor)
    dtype = tensors[0].dtype
    return tensors, layout.plain(Tensor("", shape, dtype))
