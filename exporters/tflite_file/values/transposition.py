"""Choose the TRANSPOSE, and the RESHAPEs around it, that bring a value into a memory order."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from sepdeploy.exporters.tflite_file.format.graph import Shape
from sepdeploy.exporters.tflite_file.values import layout
from sepdeploy.exporters.tflite_file.values.layout import Value


def transposition(
    value: Value, order: tuple[int, ...], shape: Shape | None
) -> tuple[Shape, list[int]]:
    """Choose the shape to transpose in, and the permutation: fewest RESHAPEs, then rank."""
    sizes = [value.atoms[a] for a in value.order]
    candidates = [value.tensor.shape, tuple(_run_sizes(value, order))]
    if shape is not None:
        places = layout.split_groups([value.atoms[a] for a in order], shape)
        assert places is not None, "the wanted shape groups the wanted order"
        first = [min((value.order.index(order[p]) for p in g), default=-1) for g in places]
        candidates.append(tuple(shape[i] for i in np.argsort(first, kind="stable")))
    best: tuple[tuple[int, int], Shape, list[int]] | None = None
    for before in candidates:
        axes = _permutation(before, sizes, value.order, order, shape)
        if axes is None:
            continue
        after = tuple(before[a] for a in axes)
        cost = (before != value.tensor.shape) + (shape is not None and after != shape)
        if best is None or (cost, len(before)) < best[0]:
            best = ((cost, len(before)), before, axes)
    assert best is not None, "runs of atoms can always be permuted"
    return best[1], best[2]


def _run_sizes(value: Value, order: Sequence[int]) -> list[int]:
    """Return sizes, in memory order, of the runs of atoms that stay neighbours in ``order``."""
    after = {a: order[i + 1] if i + 1 < len(order) else -1 for i, a in enumerate(order)}
    sizes: list[int] = []
    previous: int | None = None
    for atom in value.order:
        if previous is not None and after[previous] == atom:
            sizes[-1] *= value.atoms[atom]
        else:
            sizes.append(value.atoms[atom])
        previous = atom
    return sizes


def _permutation(
    before: Shape, sizes: Sequence[int], old: Sequence[int], new: Sequence[int], after: Shape | None
) -> list[int] | None:
    """Return the permutation of ``before``'s dimensions that gives memory order ``new``.

    None where a dimension would have to be torn apart. Dimensions of size 1 are put where they
    make the result's shape ``after``, if they can.
    """
    groups = layout.split_groups(sizes, before)
    if groups is None:
        return None
    atoms = [[old[p] for p in group] for group in groups]
    start = {group[0]: dim for dim, group in enumerate(atoms) if group}
    axes: list[int] = []
    at = 0
    while at < len(new):
        dim = start.get(new[at])
        if dim is None or list(new[at : at + len(atoms[dim])]) != atoms[dim]:
            return None
        axes.append(dim)
        at += len(atoms[dim])
    ones = [dim for dim, group in enumerate(atoms) if not group]
    return _place_ones(before, axes, ones, after)


def _place_ones(before: Shape, axes: list[int], ones: list[int], after: Shape | None) -> list[int]:
    if after is None or math.prod(after) != math.prod(before) or len(after) != len(before):
        return ones + axes
    rest, spare, placed = list(axes), list(ones), []
    for dim in after:
        source = spare if dim == 1 and spare else rest
        if not source:
            return ones + axes
        placed.append(source.pop(0))
    return placed
