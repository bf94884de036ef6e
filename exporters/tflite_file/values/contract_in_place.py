"""Contract all modes of a value where they lie: the factor multiplies from the left, nothing moves.

With the modes in memory as (..., i, rest), BATCH_MATMUL of a constant (o, i) with each (i, rest)
contracts i in place. The mode that is last in memory is contracted by FULLY_CONNECTED first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from sepdeploy.exporters.tflite_file.format.graph import Array
from sepdeploy.exporters.tflite_file.values import layout
from sepdeploy.exporters.tflite_file.values.builder import FLOAT, Builder
from sepdeploy.exporters.tflite_file.values.contract import contract
from sepdeploy.exporters.tflite_file.values.layout import Value


def contract_in_place(b: Builder, x: Value, factors: Sequence[Array], lead: int) -> Value:
    """Return sum over k of x contracted with factor[k] (o, i) along each mode.

    Args:
        b: The graph under construction.
        x: Value whose dimensions from ``lead`` on are the modes.
        factors: Per mode (K, o, i); K > 1 with two modes only.
        lead: Number of dimensions before the modes.
    """
    modes = list(range(lead, lead + len(factors)))
    merged: Value | None = x
    for mode in modes:
        merged = None if merged is None else layout.merge_axis(merged, mode)
    if merged is None or not _modes_last(merged, modes):
        merged = b.row_major(x)
    last, *others = reversed(_by_memory(merged, modes))
    terms = factors[0].shape[0]
    if terms > 1:
        return _stacked(b, merged, factors, others[0], last, lead)
    y = contract(b, merged, last, factors[last - lead][0], None, f"factors.{last - lead}")
    for mode in others:
        y = _from_the_left(b, y, mode, factors[mode - lead][0], f"factors.{mode - lead}")
    return y


def _modes_last(x: Value, modes: Sequence[int]) -> bool:
    """Whether everything else lies before the modes in memory."""
    atoms = {a for m in modes for a in x.groups()[m]}
    tail = x.order[len(x.order) - len(atoms) :]
    return set(tail) == atoms


def _by_memory(x: Value, modes: Sequence[int]) -> list[int]:
    """Return the modes from slowest to fastest; those of size 1 come first."""
    groups = x.groups()
    return sorted(modes, key=lambda m: x.order.index(groups[m][0]) if groups[m] else -1)


def _from_the_left(b: Builder, x: Value, mode: int, weight: Array, role: str) -> Value:
    """Contract a mode that is one atom by BATCH_MATMUL with ``weight`` on the left."""
    units, width = weight.shape
    if not x.groups()[mode]:
        return contract(b, x, mode, weight, None, role)
    (atom,) = x.groups()[mode]
    place = x.order.index(atom)
    before = [x.atoms[a] for a in x.order[:place]]
    after = math.prod(x.atoms[a] for a in x.order[place + 1 :])
    rows = [before[0], math.prod(before[1:])] if len(before) > 1 else [*before]
    tensor = b.reshape(x.tensor, (*rows, width, after))
    lhs = b.constant(np.ascontiguousarray(weight).reshape((1,) * len(rows) + weight.shape), role)
    out = b.op("BATCH_MATMUL", [lhs, tensor], (*rows, units, after), dtype=FLOAT)
    return layout.resize_axis(x, mode, units, out)


def _stacked(
    b: Builder, x: Value, factors: Sequence[Array], other: int, last: int, lead: int
) -> Value:
    """Two modes and K terms: the products stacked as (i, K, o) are the rows of one more product."""
    first, second = factors[last - lead], factors[other - lead]
    terms, out_first, in_first = first.shape
    y = contract(
        b, x, last, first.reshape(terms * out_first, in_first), None, f"factors.{last - lead}"
    )
    sizes = list(y.shape)
    split = b.reshaped(y, (*sizes[:last], terms, out_first, *sizes[last + 1 :]))
    other_axis = other + (other > last)
    # Bring the terms next to the other mode, which is where they lie in memory.
    rest = [a for a in range(len(split.shape)) if a not in (other_axis, last)]
    at = sum(a < other_axis for a in rest)
    moved = layout.transpose(split, [*rest[:at], other_axis, last, *rest[at:]])
    joined = [moved.shape[i] for i in range(len(moved.shape))]
    joined[at : at + 2] = [joined[at] * terms]
    rows = layout.merge_axis(b.reshaped(moved, joined), at)
    assert rows is not None, "mode and terms are neighbours in memory"
    wide = second.transpose(1, 2, 0).reshape(second.shape[1], -1)
    return _from_the_left(b, rows, at, wide, f"factors.{other - lead}")
