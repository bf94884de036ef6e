"""Move held back products and sums into the weights and biases of linear layers, at export."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from sepdeploy.exporters.tflite_file.format.graph import Array
from sepdeploy.exporters.tflite_file.source import Node
from sepdeploy.exporters.tflite_file.values.affine import Scaled
from sepdeploy.exporters.tflite_file.values.context import Context, Item
from sepdeploy.exporters.tflite_file.values.elementwise import binary
from sepdeploy.exporters.tflite_file.values.layout import Constant
from sepdeploy.records import DOMAIN

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
