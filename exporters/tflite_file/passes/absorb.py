"""Move held back products and sums into the weights and biases of linear layers, at export."""

from __future__ import annotations

import numpy as np

from sepdeploy.exporters.families import family_of_op
from sepdeploy.exporters.families.family import Absorber
from sepdeploy.exporters.tflite_file.source import Node
from sepdeploy.exporters.tflite_file.values.affine import Scaled, along, by_feature, data_of, known
from sepdeploy.exporters.tflite_file.values.context import Context, Inputs, Item
from sepdeploy.exporters.tflite_file.values.elementwise import binary
from sepdeploy.exporters.tflite_file.values.layout import Constant
from sepdeploy.records import DOMAIN


def absorb(ctx: Context, node: Node, held: Scaled, rest: Inputs) -> list[Item | None] | None:
    """Return a linear node's inputs with the held back arrays moved into weight and bias.

    Args:
        ctx: The conversion.
        node: The node that reads the held back value as its first input.
        held: That value.
        rest: Its other inputs.

    Returns:
        All inputs, or None if the node cannot absorb it.
    """
    family = family_of_op(node.op) if node.domain == DOMAIN else None
    absorber = family.absorb if family else None if node.domain else _ABSORBERS.get(node.op)
    return None if absorber is None else absorber(ctx, node, held, rest)


def _gemm(ctx: Context, node: Node, held: Scaled, rest: Inputs) -> list[Item | None] | None:
    weight = data_of(rest, 0)
    plain = node.attributes.get("alpha", 1.0) == 1.0 == node.attributes.get("beta", 1.0)
    has_bias = len(rest) > 1 and rest[1] is not None
    bias = data_of(rest, 1)
    if weight is None or weight.ndim != 2 or not plain or node.attributes.get("transA", 0):
        return None
    matrix = weight if node.attributes.get("transB", 0) else weight.T
    columns = by_feature(held, matrix.shape[1])
    if columns is None or (has_bias and (bias is None or bias.ndim > 1)):
        return None
    scaled = matrix * columns[0]
    shifted = matrix @ columns[1] + (0 if bias is None else bias)
    new = scaled if node.attributes.get("transB", 0) else scaled.T
    return [held.value, known(new), known(shifted)]


def _matmul(ctx: Context, node: Node, held: Scaled, rest: Inputs) -> list[Item | None] | None:
    weight = data_of(rest, 0)
    if weight is None or weight.ndim != 2:
        return None
    columns = by_feature(held, weight.shape[0])
    if columns is None:
        return None
    # A bias as third input is this package's own addition to MatMul.
    return [held.value, known(weight * columns[0][:, None]), known(columns[1] @ weight)]


def _conv(ctx: Context, node: Node, held: Scaled, rest: Inputs) -> list[Item | None] | None:
    """Channels scale the weight; a shift is absorbed only where nothing is padded with zeros."""
    weight, bias = data_of(rest, 0), data_of(rest, 1)
    scale, shift = along(held.scale, 1), along(held.shift, 1)
    has_bias = len(rest) > 1 and rest[1] is not None
    if weight is None or scale is None or shift is None or (has_bias and bias is None):
        return None
    groups = ctx.integer(node, "group", 1)
    channels = held.shape[1]
    if weight.ndim < 3 or groups < 1 or weight.shape[1] * groups != channels:
        return None
    unpadded = node.attributes.get("auto_pad", "NOTSET") in ("NOTSET", "VALID")
    padded = any(node.attributes.get("pads", [])) or not unpadded
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
    return [value, known(scaled.reshape(weight.shape)), known(total)]


_ABSORBERS: dict[str, Absorber] = {"Gemm": _gemm, "MatMul": _matmul, "Conv": _conv}
