"""Slices as STRIDED_SLICE with masks.

SLICE would be the obvious operator, but with an open batch neither runtime's fast path takes it,
and tflite-runtime 2.14 then gives up on the fast path for the whole file (both measured).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sepdeploy.exporters.tflite_file.format.graph import Op, Shape, Tensor
from sepdeploy.exporters.tflite_file.values.builder import Builder


def emit_slice(
    b: Builder,
    tensor: Tensor,
    begin: Sequence[int],
    shape: Sequence[int],
    steps: Sequence[int] | None = None,
) -> Tensor:
    """Return ``shape`` elements of a tensor from ``begin`` on.

    Args:
        b: The graph under construction.
        tensor: The whole.
        begin: First element per dimension.
        shape: Elements taken per dimension; a dimension taken whole may be the batch.
        steps: Distance between elements, 1 if absent; may be negative.
    """
    rank = len(tensor.shape)
    steps = [1] * rank if steps is None else list(steps)
    starts, ends, begin_mask, end_mask = [0] * rank, [0] * rank, 0, 0
    for dim in range(rank):
        end = begin[dim] + shape[dim] * steps[dim]
        if shape[dim] == tensor.shape[dim] and steps[dim] == 1:
            begin_mask |= 1 << dim
            end_mask |= 1 << dim
        elif end < 0:  # walks down to and including index 0
            starts[dim] = begin[dim]
            end_mask |= 1 << dim
        else:
            starts[dim], ends[dim] = begin[dim], end
    operands = [
        tensor,
        b.ints(starts, "begin"),
        b.ints(ends, "end"),
        b.ints(steps, "strides"),
    ]
    return b.op("STRIDED_SLICE", operands, shape, begin_mask=begin_mask, end_mask=end_mask)


def first_of(op: Op) -> Shape | None:
    """Return the first element per dimension of a slice without steps; None for other operators."""
    if op.kind != "STRIDED_SLICE" or any(step != 1 for step in _ints(op, 3)):
        return None
    mask = op.options["begin_mask"]
    return tuple(0 if mask >> i & 1 else v for i, v in enumerate(_ints(op, 1)))


def merge_slices(before: Op, op: Op) -> bool:
    """Let a slice read what the slice before it reads, if one slice can do the work of both.

    It can where each dimension is cut by one of the two only, or by both without steps.
    """
    source, middle, last = before.inputs[0].shape, before.outputs[0].shape, op.outputs[0].shape
    plain = first_of(before), first_of(op)
    begin, ends, steps, begin_mask, end_mask = [], [], [], 0, 0
    for dim, size in enumerate(last):
        if plain[0] is not None and plain[1] is not None:
            first = plain[0][dim] + plain[1][dim]
            whole = size == source[dim]
            own = (0, 0, 1, whole, whole) if whole else (first, first + size, 1, False, False)
        elif last[dim] == middle[dim] and _ints(op, 3)[dim] == 1:
            own = _cut(before, dim)
        elif middle[dim] == source[dim] and _ints(before, 3)[dim] == 1:
            own = _cut(op, dim)
        else:
            return False
        begin.append(own[0])
        ends.append(own[1])
        steps.append(own[2])
        begin_mask |= own[3] << dim
        end_mask |= own[4] << dim
    op.inputs[0] = before.inputs[0]
    for place, values in ((1, begin), (2, ends), (3, steps)):
        old = op.inputs[place]
        op.inputs[place] = Tensor(old.name, old.shape, old.dtype, np.array(values, np.int32))
    op.options = {"begin_mask": begin_mask, "end_mask": end_mask}
    return True


def _cut(op: Op, dim: int) -> tuple[int, int, int, bool, bool]:
    """Return begin, end, step and the two mask bits of one dimension."""
    begin, end, step = (_ints(op, place)[dim] for place in (1, 2, 3))
    begin_mask, end_mask = (op.options[name] >> dim & 1 for name in ("begin_mask", "end_mask"))
    return begin, end, step, bool(begin_mask), bool(end_mask)


def _ints(op: Op, place: int) -> list[int]:
    data = op.inputs[place].data
    assert data is not None, "slices are cut at places known at export"
    return [int(v) for v in data]
