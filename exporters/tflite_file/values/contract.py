"""Multiply one dimension of a value by a constant matrix: FULLY_CONNECTED in whatever memory order.

FULLY_CONNECTED multiplies the fastest varying dimension. Rows may lie in any order, since each is
handled alone, and the columns of the weights can be put into the order of the memory, so memory
moves only where the dimension is not already last. That is how the layer behind a flattened
convolution output costs no transpose.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from sepdeploy.exporters.tflite_file.format.graph import Array, Shape, Tensor
from sepdeploy.exporters.tflite_file.values.builder import FLOAT, Builder
from sepdeploy.exporters.tflite_file.values.layout import Value


def contract(
    b: Builder, value: Value, axis: int, weight: Array, bias: Array | None, role: str
) -> Value:
    """Emit ``y[..., o, ...] = sum_i weight[o, i] x[..., i, ...] + bias[o]``.

    Args:
        b: The graph under construction.
        value: x.
        axis: The logical dimension that is contracted.
        weight: (o, i).
        bias: (o,), or None for zeros (a bias is always written: runtimes that inline composites
            mistake an absent one).
        role: Name of the weight within its layer.

    Returns:
        y, with ``axis`` fastest varying in memory.
    """
    units, width = weight.shape
    groups = value.groups()
    inner = [a for a in value.order if a in groups[axis]]
    rows = [a for a in value.order if a not in groups[axis]]
    tensor = b.ordered(value, rows + inner)
    columns = [value.atoms[a] for a in groups[axis]]
    permutation = [groups[axis].index(a) for a in inner]
    matrix = weight.reshape(units, *columns)
    matrix = matrix.transpose(0, *(p + 1 for p in permutation)).reshape(units, width)
    tensor = _rows_by_width(b, tensor, [value.atoms[a] for a in rows], width)
    out = fully_connected(b, tensor, matrix, bias, role)
    return _result(value, out, axis, units, rows)


def fully_connected(
    b: Builder, tensor: Tensor, weight: Array, bias: Array | None, role: str
) -> Tensor:
    """Emit FULLY_CONNECTED over the last dimension of a tensor."""
    units = weight.shape[0]
    zeros = np.zeros(units, np.float32)
    inputs = [
        tensor,
        b.constant(weight.astype(np.float32, copy=False), role),
        b.constant(zeros if bias is None else bias.astype(np.float32, copy=False), "bias"),
    ]
    keep = len(tensor.shape) != 2
    options = {"keep_num_dims": True} if keep else {}
    shape = (*tensor.shape[:-1], units)
    return b.op("FULLY_CONNECTED", inputs, shape, dtype=FLOAT, **options)


def _rows_by_width(b: Builder, tensor: Tensor, rows: Sequence[int], width: int) -> Tensor:
    """Return the tensor with ``width`` as its last dimension, reshaped only if it is not.

    Leading ones (of a global pool) are dropped: producers can leave them out themselves.
    """
    if len(tensor.shape) > 1 and tensor.shape[-1] == width and 1 not in tensor.shape[:-1]:
        return tensor
    return b.reshape(tensor, (*rows, width) if rows else (1, width))


def _result(value: Value, out: Tensor, axis: int, units: int, rows: Sequence[int]) -> Value:
    groups = value.groups()
    shape: Shape = (*value.shape[:axis], units, *value.shape[axis + 1 :])
    before = [a for group in groups[:axis] for a in group]
    after = [a for group in groups[axis + 1 :] for a in group]
    kept = [*before, *after]
    atoms = [value.atoms[a] for a in before]
    if units != 1:
        atoms.append(units)
    atoms += [value.atoms[a] for a in after]
    place = {a: i + (units != 1 and a in after) for i, a in enumerate(kept)}
    order = [place[a] for a in rows]
    if units != 1:
        order.append(len(before))
    assert math.prod(atoms) == math.prod(shape)
    return Value(shape, out, tuple(atoms), tuple(order))
