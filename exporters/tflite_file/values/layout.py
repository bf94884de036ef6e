"""Values with a layout: what ONNX calls a tensor, and how its elements lie in the TFLite tensor.

Convolutions of TFLite want channels last, ONNX writes channels first, and a Kronecker layer
contracts one mode after the other. Instead of inserting a TRANSPOSE wherever two sides disagree,
a value remembers how its memory order differs from its logical order; transposes and reshapes
only rewrite that note, and an operator that cares asks for the order it needs.

A value's logical shape is factored into *atoms* (dimensions > 1, in logical row-major order), and
``order`` lists the atoms from the slowest to the fastest varying one in memory. Size-1 dimensions
carry no order and are left out. Example: the NHWC tensor of a logical (N, 64, 7, 7) has atoms
(N, 64, 7, 7) and order (0, 2, 3, 1); flattening it gives the logical shape (N, 3136) with the
same atoms and order.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from sepdeploy.errors import BadInput
from sepdeploy.exporters.tflite_file.format.graph import Array, Shape, Tensor, is_batch


@dataclass(frozen=True)
class Constant:
    """A value known at export. ``data`` broadcasts to ``shape``, which may hold the batch."""

    data: Array
    shape: Shape

    @property
    def repeated(self) -> bool:
        """Whether it is repeated over the batch, so that it has no data of its own shape."""
        return self.data.shape != self.shape

    def whole(self, where: object) -> Array:
        """Return the data of a constant that is not repeated over the batch.

        Raises:
            BadInput: It is, so that it has no data of its own shape; ``where`` is named.
        """
        if self.data.shape != self.shape:
            raise BadInput(
                f"{where}: a constant repeated for every sample has no TFLite form here",
                hint="let it broadcast instead of expanding it to the batch size",
            )
        return self.data


@dataclass(frozen=True)
class Value:
    """A value computed at run time, with its layout (see the module)."""

    shape: Shape
    tensor: Tensor
    atoms: Shape
    order: tuple[int, ...]

    @property
    def row_major(self) -> bool:
        """Whether memory order is logical order."""
        return list(self.order) == sorted(self.order)

    def groups(self) -> list[list[int]]:
        """Return, for each logical dimension, the indices of its atoms."""
        found = split_groups(self.atoms, self.shape)
        assert found is not None, "atoms always refine the shape"
        return found

    def with_tensor(self, tensor: Tensor) -> Value:
        """Return a value of the same shape and layout in another tensor."""
        return replace(self, tensor=tensor)


def plain(tensor: Tensor, shape: Shape | None = None) -> Value:
    """Return the value of a tensor whose memory order is the logical order."""
    logical = tensor.shape if shape is None else shape
    atoms = tuple(d for d in logical if d != 1)
    return Value(logical, tensor, atoms, tuple(range(len(atoms))))


def permuted(tensor: Tensor, logical: Shape, order: Sequence[int]) -> Value:
    """Return the value of a tensor whose dimension ``i`` holds logical dimension ``order[i]``."""
    return transpose(plain(tensor, tuple(logical)), range(len(logical)), memory=order)


def split_groups(atoms: Sequence[int], shape: Sequence[int]) -> list[list[int]] | None:
    """Return which consecutive atoms make up each dimension, or None if they do not."""
    groups: list[list[int]] = []
    at = 0
    for dim in shape:
        group: list[int] = []
        product = 1
        while product != dim and at < len(atoms):
            product *= atoms[at]
            group.append(at)
            at += 1
        if product != dim:
            return None
        groups.append(group)
    return groups if at == len(atoms) else None


def coarsen(value: Value) -> Value:
    """Merge atoms that are neighbours in both orders, across logical dimensions too.

    The result's atoms need not refine its shape any more; `reshape` splits them again.
    """
    runs: list[list[int]] = []
    for atom in value.order:
        if runs and runs[-1][-1] + 1 == atom:
            runs[-1].append(atom)
        else:
            runs.append([atom])
    logical = sorted(runs)
    atoms = tuple(math.prod(value.atoms[a] for a in run) for run in logical)
    return replace(value, atoms=atoms, order=tuple(logical.index(run) for run in runs))


def reshape(value: Value, shape: Sequence[int]) -> Value | None:
    """Give a value another logical shape without touching its memory.

    Returns:
        The value, or None where its memory order cannot be described for the new shape, so that
        it has to be brought into logical order first.
    """
    merged = coarsen(value)
    sizes = common_atoms(merged.atoms, shape)
    if sizes is None:
        return None
    pieces = split_groups(sizes, merged.atoms)
    assert pieces is not None, "a common factoring refines both sides"
    order = tuple(p for atom in merged.order for p in pieces[atom])
    return Value(tuple(shape), value.tensor, sizes, order)


def _boundaries(dims: Sequence[int]) -> set[int]:
    marks, product = {1}, 1
    for dim in reversed(dims):
        product *= dim
        marks.add(product)
    return marks


def transpose(value: Value, axes: Sequence[int], *, memory: Sequence[int] | None = None) -> Value:
    """Permute the logical dimensions without touching memory.

    Args:
        value: The value.
        axes: New dimension ``i`` is old dimension ``axes[i]``.
        memory: Set instead the memory order: the tensor's dimension ``i`` holds new dimension
            ``memory[i]`` (for a tensor just computed in that order).
    """
    groups = value.groups()
    moved = [atom for axis in axes for atom in groups[axis]]
    place = {atom: i for i, atom in enumerate(moved)}
    shape = tuple(value.shape[a] for a in axes)
    atoms = tuple(value.atoms[a] for a in moved)
    if memory is None:
        return Value(shape, value.tensor, atoms, tuple(place[a] for a in value.order))
    new = split_groups(atoms, shape)
    assert new is not None, "whole groups were moved"
    return Value(shape, value.tensor, atoms, tuple(a for axis in memory for a in new[axis]))


def refine(value: Value, atoms: Sequence[int]) -> Value | None:
    """Split a value's atoms so that they are ``atoms``; None where they are not a refinement."""
    pieces = split_groups(atoms, value.atoms)
    if pieces is None:
        return None
    order = tuple(p for atom in value.order for p in pieces[atom])
    return Value(value.shape, value.tensor, tuple(atoms), order)


def common_atoms(first: Sequence[int], second: Sequence[int]) -> Shape | None:
    """Return the coarsest factoring that refines both, or None."""
    marks = sorted(_boundaries(first) | _boundaries(second))
    sizes = []
    for low, high in itertools.pairwise(marks):
        if high % low:
            return None
        sizes.append(high // low)
    return tuple(reversed(sizes))


def arrange_constant(
    data: Array, value_atoms: Sequence[Sequence[int]], order: Sequence[int]
) -> Array:
    """Return a constant's elements in a value's memory order, as a one-row array per atom.

    Args:
        data: Array whose dimension ``i`` is either 1 or the product of ``value_atoms[i]``.
        value_atoms: Atom sizes of each logical dimension.
        order: Memory order of all atoms.
    """
    dims: list[int] = []
    for dim, atoms in zip(data.shape, value_atoms, strict=True):
        dims += list(atoms) if dim != 1 or not atoms else [1] * len(atoms)
    # ascontiguousarray would give one number a dimension
    return np.asarray(data.reshape(dims).transpose(tuple(order)), order="C")


def tensor_dims(value: Value) -> list[list[int]]:
    """Return the atoms in each dimension of the value's tensor, slowest first.

    Where the tensor's shape cuts through an atom, every atom is a dimension of its own; the
    tensor then has to be reshaped before use.
    """
    groups = split_groups([value.atoms[a] for a in value.order], value.tensor.shape)
    if groups is None:
        return [[a] for a in value.order]
    return [[value.order[p] for p in group] for group in groups]


def split_dims(value: Value, flags: Sequence[Sequence[bool]]) -> list[list[int]]:
    """Return the tensor's dimensions, split where atoms of one dimension are flagged differently.

    Args:
        value: The value.
        flags: Any number of lists with one flag per atom.
    """
    dims: list[list[int]] = []
    for dim in tensor_dims(value):
        runs: list[list[int]] = []
        for atom in dim:
            if runs and all(f[runs[-1][-1]] == f[atom] for f in flags):
                runs[-1].append(atom)
            else:
                runs.append([atom])
        dims += runs or [[]]
    return dims


def compact(
    value: Value,
    dims: Sequence[Sequence[int]],
    flags: Sequence[Sequence[bool]],
    *,
    batch_too: bool = False,
) -> list[list[int]]:
    """Merge neighbouring dimensions that are flagged alike, leaving the batch alone.

    Args:
        value: The value.
        dims: Atoms per dimension, none of them flagged differently inside.
        flags: Any number of lists with one flag per atom.
        batch_too: Whether the batch may be merged with what follows it.
    """
    merged: list[list[int]] = []
    for dim in dims:
        if not dim:
            continue
        last = merged[-1][-1] if merged else None
        alike = last is not None and all(f[last] == f[dim[0]] for f in flags)
        if alike and last is not None and (batch_too or not is_batch(value.atoms[last])):
            merged[-1] += dim
        else:
            merged.append(list(dim))
    return merged


def dims_shape(value: Value, dims: Sequence[Sequence[int]]) -> Shape:
    """Return the sizes of dimensions given as lists of atoms."""
    return tuple(math.prod(value.atoms[a] for a in dim) for dim in dims)


def merge_axis(value: Value, axis: int) -> Value | None:
    """Make a logical dimension one atom; None where its atoms are apart in memory."""
    group = value.groups()[axis]
    if len(group) < 2:
        return value
    start = value.order.index(group[0])
    if list(value.order[start : start + len(group)]) != group:
        return None
    atoms = (*value.atoms[: group[0]], value.shape[axis], *value.atoms[group[-1] + 1 :])
    shift = len(group) - 1
    order = [a - shift if a > group[-1] else a for a in value.order if a not in group[1:]]
    return Value(value.shape, value.tensor, atoms, tuple(order))


def resize_axis(value: Value, axis: int, size: int, tensor: Tensor) -> Value:
    """Return the value after an operator changed the size of a dimension that is one atom.

    Args:
        value: The value before, ``axis`` being exactly one atom.
        axis: The dimension.
        size: Its new size; 1 removes the atom.
        tensor: The operator's output.
    """
    (atom,) = value.groups()[axis]
    shape = (*value.shape[:axis], size, *value.shape[axis + 1 :])
    atoms = list(value.atoms)
    if size != 1:
        atoms[atom] = size
        return Value(shape, tensor, tuple(atoms), value.order)
    del atoms[atom]
    order = tuple(a - (a > atom) for a in value.order if a != atom)
    return Value(shape, tensor, tuple(atoms), order)
