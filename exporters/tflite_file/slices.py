"""Slices as STRIDED_SLICE with masks.

SLICE would be the obvious operator, but with an open batch neither runtime's fast path takes it,
and tflite-runtime 2.14 then gives up on the fast path for the whole file (both measured).
"""

from __future__ import annotations

from collections.abc import Sequence

from sepdeploy.exporters.tflite_file.builder import Builder
from sepdeploy.exporters.tflite_file.graph import Op, Shape, Tensor


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
    if op.kind != "STRIDED_SLICE":
        return None
    begin, steps = op.inputs[1].data, op.inputs[3].data
    if begin is None or steps is None or any(int(s) != 1 for s in steps):
        return None
    mask = op.options["begin_mask"]
    return tuple(0 if mask >> i & 1 else int(v) for i, v in enumerate(begin))
