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

from sepdeploy.exporters.tflite_file.builder import Builder
from sepdeploy.exporters.tflite_file.context import Context, Item
from sepdeploy.exporters.tflite_file.elementwise import binary
from sepdeploy.exporters.tflite_file.graph import BATCH, Array, Shape, is_batch
from sepdeploy.exporters.tflite_file.layout import Constant, Value
from sepdeploy.exporters.tflite_file.source import DOMAIN, Node

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
    return data.reshape((1,) * (rank - data.ndim) + data.shape)


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
    if constant.data.ndim > rank or math.prod(constant.data.shape) > SPELL_LIMIT:
        return False
    dims = (1,) * (rank - constant.data.ndim) + constant.data.shape
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


Absorber = Callable[[Context, Node, Scaled, Sequence[Item | None]], list[Item | None] | None]


def absorb(
    ctx: Context, node: Node, held: Scaled, rest: Sequence[Item | None]
) -> list[Item | None] | None:
    """Return a linear node's inputs with the held back arrays moved into weight and bias.

    Args:
        ctx: The conversion.
        node: The node that reads the held back value as its first input.
        held: That value.
        rest: Its other inputs.

    Returns:
        All inputs, or None if the node cannot absorb it.
    """
    absorber = _ABSORBERS.get((node.domain, node.op))
    return None if absorber is None else absorber(ctx, node, held, rest)


def _data(rest: Sequence[Item | None], index: int) -> Array | None:
    item = rest[index] if index < len(rest) else None
    return item.data if isinstance(item, Constant) and item.data.shape == item.shape else None


def _known(array: Array) -> Constant:
    data = np.asarray(array, np.float32)
    return Constant(data, data.shape)


def _along(array: Array, axis: int) -> Array | None:
    """Return an array that varies along one axis only as a vector (or one number)."""
    return array.reshape(-1) if array.size == array.shape[axis] else None


def _columns(held: Scaled, width: int) -> tuple[Array, Array] | None:
    """Return scale and shift per feature of the last dimension, if that is how they vary."""
    last = len(held.shape) - 1
    scale, shift = _along(held.scale, last), _along(held.shift, last)
    if scale is None or shift is None:
        return None
    return np.broadcast_to(scale, (width,)), np.broadcast_to(shift, (width,))


def _gemm(
    ctx: Context, node: Node, held: Scaled, rest: Sequence[Item | None]
) -> list[Item | None] | None:
    weight = _data(rest, 0)
    plain = node.attributes.get("alpha", 1.0) == 1.0 == node.attributes.get("beta", 1.0)
    has_bias = len(rest) > 1 and rest[1] is not None
    bias = _data(rest, 1)
    if weight is None or weight.ndim != 2 or not plain or node.attributes.get("transA", 0):
        return None
    matrix = weight if node.attributes.get("transB", 0) else weight.T
    columns = _columns(held, matrix.shape[1])
    if columns is None or (has_bias and (bias is None or bias.ndim > 1)):
        return None
    scaled = matrix * columns[0]
    shifted = matrix @ columns[1] + (0 if bias is None else bias)
    new = scaled if node.attributes.get("transB", 0) else scaled.T
    return [held.value, _known(new), _known(shifted)]


def _matmul(
    ctx: Context, node: Node, held: Scaled, rest: Sequence[Item | None]
) -> list[Item | None] | None:
    weight = _data(rest, 0)
    if weight is None or weight.ndim != 2:
        return None
    columns = _columns(held, weight.shape[0])
    if columns is None:
        return None
    # A bias as third input is this package's own addition to MatMul.
    return [held.value, _known(weight * columns[0][:, None]), _known(columns[1] @ weight)]


def _low_rank(
    ctx: Context, node: Node, held: Scaled, rest: Sequence[Item | None]
) -> list[Item | None] | None:
    u, v, bias = (_data(rest, i) for i in range(3))
    columns = None if u is None else _columns(held, u.shape[0])
    if u is None or v is None or bias is None or columns is None:
        return None
    return [
        held.value,
        _known(u * columns[0][:, None]),
        _known(v),
        _known(bias + v @ (columns[1] @ u)),
    ]


def _kron(
    ctx: Context, node: Node, held: Scaled, rest: Sequence[Item | None]
) -> list[Item | None] | None:
    """Only a scale that is one number keeps the Kronecker form."""
    modes = ctx.ints(node, "in_shape")
    factors = [_data(rest, i) for i in range(len(modes))]
    bias = _data(rest, len(modes))
    columns = _columns(held, math.prod(modes))
    known = [f for f in factors if f is not None and f.ndim == 3]
    if columns is None or bias is None or len(known) != len(modes) or held.scale.size != 1:
        return None
    if [f.shape[2] for f in known] != modes or len({f.shape[0] for f in known}) != 1:
        return None
    shift = np.zeros(0, np.float32)
    for k in range(known[0].shape[0]):
        term = columns[1].reshape(modes)
        for factor in known:  # contracts the first mode and appends its result: in order at the end
            term = np.tensordot(term, factor[k], axes=(0, 1))
        shift = term.reshape(-1) if k == 0 else shift + term.reshape(-1)
    first = known[0] * held.scale.reshape(())
    return [held.value, _known(first), *(_known(f) for f in known[1:]), _known(bias + shift)]


def _conv(
    ctx: Context, node: Node, held: Scaled, rest: Sequence[Item | None]
) -> list[Item | None] | None:
    """Channels scale the weight; a shift is absorbed only where nothing is padded with zeros."""
    weight, bias = _data(rest, 0), _data(rest, 1)
    scale, shift = _along(held.scale, 1), _along(held.shift, 1)
    has_bias = len(rest) > 1 and rest[1] is not None
    if weight is None or scale is None or shift is None or (has_bias and bias is None):
        return None
    groups = ctx.integer(node, "group", 1)
    channels = held.shape[1]
    if weight.ndim < 3 or groups < 1 or weight.shape[1] * groups != channels:
        return None
    padded = any(node.attributes.get("pads", [])) or node.attributes.get(
        "auto_pad", "NOTSET"
    ) not in (
        "NOTSET",
        "VALID",
    )
    value = held.value
    if padded and np.any(shift != 0):
        if np.any(scale == 0) or not np.all(np.isfinite(held.shift / held.scale)):
            return None
        inner = held.shift / held.scale
        value = binary(ctx.b, "ADD", value, Constant(inner, inner.shape))
        shift = np.zeros(1, np.float32)
    by_group = [np.broadcast_to(a, (channels,)).reshape(groups, 1, -1) for a in (scale, shift)]
    split = weight.reshape(groups, weight.shape[0] // groups, weight.shape[1], -1)
    scaled = split * by_group[0][..., None]
    added = (split * by_group[1][..., None]).sum(axis=(2, 3)).reshape(-1)
    total = added + (0 if bias is None else bias)
    return [value, _known(scaled.reshape(weight.shape)), _known(total)]


_ABSORBERS: dict[tuple[str, str], Absorber] = {
    ("", "Gemm"): _gemm,
    ("", "MatMul"): _matmul,
    ("", "Conv"): _conv,
    (DOMAIN, "LowRankLinear"): _low_rank,
    (DOMAIN, "KronLinear"): _kron,
}
