"""Products and sums with constants, held back until it is known whether a layer can absorb them.

``(x - mean) / std`` in front of a linear layer is part of that layer: its weights are scaled and
its bias shifted at export, and nothing is left to compute. The same holds for the scale and shift
behind a layer normalisation. Whatever cannot absorb them gets a MUL and an ADD.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from sepdeploy.exporters.tflite_file.format.graph import BATCH, Array, Shape, is_batch
from sepdeploy.exporters.tflite_file.source import Node
from sepdeploy.exporters.tflite_file.values.builder import Builder
from sepdeploy.exporters.tflite_file.values.context import Context, Inputs, Item
from sepdeploy.exporters.tflite_file.values.elementwise import binary
from sepdeploy.exporters.tflite_file.values.layout import Constant, Value

# Per-sample constants are spelled out up to this size to follow a reshape.
SPELL_LIMIT = 1 << 18
LAYERS = {"FULLY_CONNECTED", "CONV_2D", "DEPTHWISE_CONV_2D"}


@dataclass(frozen=True)
class Scaled:
    """``scale * value + shift``; both arrays have the value's rank and broadcast to it."""

    value: Value
    scale: Array
    shift: Array

    @property
    def shape(self) -> Shape:
        """Logical shape."""
        return self.value.shape


Lazy = Item | Scaled
Converter = Callable[[Context, Node, Inputs], Sequence[Lazy]]


def settle(b: Builder, item: Lazy | None) -> Item | None:
    """Return an item with what was held back written as operators."""
    if not isinstance(item, Scaled):
        return item
    key = id(item)
    if key not in b.settled:
        value: Value = item.value
        if np.any(item.scale != 1):
            value = binary(b, "MUL", value, Constant(item.scale, item.scale.shape))
        if np.any(item.shift != 0):
            value = binary(b, "ADD", value, Constant(item.shift, item.shift.shape))
        b.settled[key] = (item, value)  # the item is kept too, so that its id stays its own
    return b.settled[key][1]


def hold(b: Builder, value: Value, scale: Array, shift: Array) -> Lazy:
    """Return a value times ``scale`` plus ``shift`` (arrays that broadcast to it).

    Right behind a layer they are written at once, for `fold_affine` to put them into that layer;
    otherwise they are held back for the next one.
    """
    rank = len(value.shape)
    held = Scaled(value, _ranked(scale, rank), _ranked(shift, rank))
    if b.producer(value.tensor) not in LAYERS:
        return held
    settled = settle(b, held)
    assert settled is not None, "settling an item gives one"
    return settled


def _ranked(array: Array, rank: int) -> Array:
    data = np.asarray(array, np.float32)
    return data.reshape((1,) * (rank - data.ndim) + data.shape[max(data.ndim - rank, 0) :])


def combine(b: Builder, node: Node, inputs: Sequence[Lazy | None]) -> Scaled | None:
    """Return Add, Sub, Mul or Div of a value with a constant as a held back one, if it is that."""
    if node.domain or node.op not in ("Add", "Sub", "Mul", "Div") or len(inputs) != 2:
        return None
    x, y = inputs
    if node.op in ("Add", "Mul") and isinstance(x, Constant):
        x, y = y, x
    if not isinstance(x, Value | Scaled) or not isinstance(y, Constant):
        return None
    value = x if isinstance(x, Value) else x.value
    if value.tensor.dtype != np.float32 or not _fits(y, value.shape):
        return None
    if isinstance(x, Value) and b.producer(value.tensor) in LAYERS:
        return None
    constant = _ranked(y.data, len(value.shape))
    one, zero = np.ones_like(constant), np.zeros_like(constant)
    old_scale, old_shift = (one, zero) if isinstance(x, Value) else (x.scale, x.shift)
    if node.op in ("Add", "Sub"):
        return Scaled(value, old_scale, old_shift + (constant if node.op == "Add" else -constant))
    if node.op == "Div":
        with np.errstate(all="ignore"):
            constant = np.float32(1) / constant
        if not np.all(np.isfinite(constant)) or np.any(
            np.abs(constant) < np.finfo(np.float32).tiny
        ):
            return None
    return Scaled(value, old_scale * constant, old_shift * constant)


def _fits(constant: Constant, shape: Shape) -> bool:
    rank = len(shape)
    if len(constant.shape) > rank or constant.data.size > SPELL_LIMIT:
        return False
    dims = (1,) * (rank - len(constant.shape)) + constant.shape
    return all(d in (1, s) for d, s in zip(dims, shape, strict=True))


def follow(held: Scaled, moved: Value, axes: Sequence[int] | None) -> Scaled | None:
    """Let what is held back follow a change of shape.

    Args:
        held: Before.
        moved: Its value after a reshape or transpose.
        axes: The permutation, None for a reshape.

    Returns:
        After; None where the arrays cannot follow and have to be settled.
    """
    scale = _follow(held.scale, held.shape, moved.shape, axes)
    shift = _follow(held.shift, held.shape, moved.shape, axes)
    return None if scale is None or shift is None else Scaled(moved, scale, shift)


def _follow(array: Array, old: Shape, new: Shape, axes: Sequence[int] | None) -> Array | None:
    if array.size == 1:
        return array.reshape((1,) * len(new))
    if axes is not None:
        return array.transpose(axes)
    if old and new and old[-1] == new[-1] == array.size == array.shape[-1]:
        return array.reshape((1,) * (len(new) - 1) + (new[-1],))
    rest = old[1:]
    per_sample = old and new and old[0] == new[0] == BATCH and not any(is_batch(d) for d in new[1:])
    if not per_sample or math.prod(rest) > SPELL_LIMIT or array.shape[0] != 1:
        return None
    return np.broadcast_to(array, (1, *rest)).reshape((1, *new[1:]))


def data_of(rest: Inputs, index: int) -> Array | None:
    """Return a known input of a node behind its first one, None where it is none."""
    item = rest[index] if index < len(rest) else None
    return item.data if isinstance(item, Constant) and item.data.shape == item.shape else None


def known(array: Array) -> Constant:
    """Return numbers as a constant of the graph."""
    data = np.asarray(array, np.float32)
    return Constant(data, data.shape)


def along(array: Array, axis: int) -> Array | None:
    """Return an array that varies along one axis only as a vector (or one number)."""
    return array.reshape(-1) if array.size == array.shape[axis] else None


def by_feature(held: Scaled, width: int) -> tuple[Array, Array] | None:
    """Return scale and shift per feature of the last dimension, if that is how they vary."""
    last = len(held.shape) - 1
    scale, shift = along(held.scale, last), along(held.shift, last)
    if scale is None or shift is None:
        return None
    return np.broadcast_to(scale, (width,)), np.broadcast_to(shift, (width,))
