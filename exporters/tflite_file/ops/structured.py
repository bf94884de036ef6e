"""The ops of ``ai.sepdeploy``: Kronecker and low-rank layers, without building their matrix."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from sepdeploy.errors import BadInput
from sepdeploy.exporters.lowerings import tflite as forms
from sepdeploy.exporters.lowerings.fused import FUSED
from sepdeploy.exporters.tflite_file.custom import custom_layer
from sepdeploy.exporters.tflite_file.format.graph import Array
from sepdeploy.exporters.tflite_file.source import Node
from sepdeploy.exporters.tflite_file.values import layout
from sepdeploy.exporters.tflite_file.values.context import Context, Item
from sepdeploy.exporters.tflite_file.values.contract import contract
from sepdeploy.exporters.tflite_file.values.contract_in_place import contract_in_place
from sepdeploy.exporters.tflite_file.values.elementwise import add_constant, binary
from sepdeploy.exporters.tflite_file.values.layout import Value


def kron_linear(ctx: Context, node: Node, inputs: Sequence[Item | None]) -> list[Item]:
    """Emit a Kronecker layer: y = (sum_k A_1k ⊗ ... ⊗ A_dk) x + bias, for rows x of (M, n_in)."""
    form = FUSED if ctx.fused(node) else ctx.form(node)
    in_shape = tuple(ctx.ints(node, "in_shape"))
    out_shape = tuple(ctx.ints(node, "out_shape"))
    terms = ctx.integer(node, "terms", 1)
    x = ctx.value(node, inputs, 0)
    factors = [ctx.array(node, inputs, 1 + k) for k in range(len(in_shape))]
    bias = ctx.array(node, inputs, 1 + len(in_shape))
    _check_kron(node, x, factors, in_shape, out_shape, terms)
    if form == FUSED:
        attributes: dict[str, int | Sequence[int]] = {
            "in_shape": in_shape,
            "out_shape": out_shape,
            "terms": terms,
        }
        named = {f"factors.{k}": f for k, f in enumerate(factors)} | {"bias": bias}
        return [custom_layer(ctx.b, node.op, x, named, attributes, math.prod(out_shape))]
    if form == "dense":
        matrix = sum(_kron_matrix([f[k] for f in factors]) for k in range(terms))
        return [contract(ctx.b, x, len(x.shape) - 1, np.asarray(matrix), bias, "weight")]
    rows = x.shape[:-1]
    modes = ctx.b.reshaped(x, (*rows, *in_shape))
    if len(in_shape) == 2 or terms == 1:
        y = _contract_modes(ctx, modes, factors, in_shape, out_shape, terms, bias, form)
    else:
        y = _sum_of_terms(ctx, modes, factors, in_shape, out_shape, bias, form)
    return [ctx.b.reshaped(y, (*rows, math.prod(out_shape)))]


def _contract_modes(
    ctx: Context,
    x: Value,
    factors: Sequence[Array],
    in_shape: tuple[int, ...],
    out_shape: tuple[int, ...],
    terms: int,
    bias: Array | None,
    form: str,
) -> Value:
    shapes = forms.KronShapes(in_shape, out_shape, terms)
    lead = len(x.shape) - len(in_shape)
    order = forms.contraction_order(shapes, _memory_modes(x, lead))
    if form == "fc_bmm":
        y = contract_in_place(ctx.b, x, factors, lead)
    elif terms > 1:
        y = _contract_stacked(ctx, x, factors, order, lead)
    else:
        y = x
        for mode in order:
            y = contract(ctx.b, y, lead + mode, factors[mode][0], None, f"factors.{mode}")
    if bias is None or not bias.any():
        return y
    return add_constant(ctx.b, y, bias.reshape(out_shape), "bias")


def _contract_stacked(
    ctx: Context, x: Value, factors: Sequence[Array], order: Sequence[int], lead: int
) -> Value:
    """Two modes and K terms as two products: outputs stacked, then summed by the second one."""
    first, second = order
    terms, out_first, in_first = factors[first].shape
    _, out_second, in_second = factors[second].shape
    # (o, K) with K fastest, so that transposing leaves (K, i_second) as neighbours in memory.
    stacked = factors[first].transpose(1, 0, 2).reshape(out_first * terms, in_first)
    y = contract(ctx.b, x, lead + first, stacked, None, f"factors.{first}")
    sizes = list(y.shape)
    sizes[lead + first : lead + first + 1] = [out_first, terms]
    y = ctx.b.reshaped(y, sizes)
    rank = len(sizes)
    term_axis = lead + first + 1
    second_axis = lead + second + (second > first)
    keep = [a for a in range(rank) if a not in (term_axis, second_axis)]
    y = layout.transpose(y, [*keep, term_axis, second_axis])
    y = ctx.b.reshaped(y, (*(sizes[a] for a in keep), terms * in_second))
    summed = factors[second].transpose(1, 0, 2).reshape(out_second, terms * in_second)
    y = contract(ctx.b, y, rank - 2, summed, None, f"factors.{second}")
    axes = list(range(lead)) + ([lead, lead + 1] if first < second else [lead + 1, lead])
    return layout.transpose(y, axes)


def _sum_of_terms(
    ctx: Context,
    x: Value,
    factors: Sequence[Array],
    in_shape: tuple[int, ...],
    out_shape: tuple[int, ...],
    bias: Array | None,
    form: str,
) -> Value:
    """Three or more modes and K terms: K chains of products, added up."""
    total: Value | None = None
    for k in range(factors[0].shape[0]):
        own_bias = bias if k == 0 else None
        term = [f[k : k + 1] for f in factors]
        y = _contract_modes(ctx, x, term, in_shape, out_shape, 1, own_bias, form)
        total = y if total is None else binary(ctx.b, "ADD", total, y)
    assert total is not None, "at least one term"
    return total


def _memory_modes(x: Value, lead: int) -> list[int]:
    """Return the modes from slowest to fastest in memory, or nothing if they are interleaved."""
    mode_of = {atom: m for m, group in enumerate(x.groups()[lead:]) for atom in group}
    runs: list[int] = []
    for atom in x.order:
        mode = mode_of.get(atom)
        if mode is not None and (not runs or runs[-1] != mode):
            runs.append(mode)
    return runs if len(set(runs)) == len(runs) else []


def _kron_matrix(factors: Sequence[Array]) -> Array:
    matrix = factors[0]
    for factor in factors[1:]:
        matrix = np.kron(matrix, factor)
    return matrix


def _check_kron(
    node: Node,
    x: Value,
    factors: Sequence[Array],
    in_shape: tuple[int, ...],
    out_shape: tuple[int, ...],
    terms: int,
) -> None:
    wanted = [(terms, o, i) for o, i in zip(out_shape, in_shape, strict=False)]
    found = [f.shape for f in factors]
    if len(in_shape) != len(out_shape) or len(in_shape) < 2 or found != wanted:
        raise BadInput(
            f"{node}: factors {found} do not fit in_shape {in_shape}, out_shape {out_shape}",
            hint="each factor is (terms, out_k, in_k)",
        )
    if x.shape[-1] != math.prod(in_shape):
        raise BadInput(f"{node}: input has {x.shape[-1]} features, in_shape is {in_shape}")


def low_rank_linear(ctx: Context, node: Node, inputs: Sequence[Item | None]) -> list[Item]:
    """Emit a low-rank layer: y = (x U) Vᵀ + bias."""
    form = FUSED if ctx.fused(node) else ctx.form(node)
    x = ctx.value(node, inputs, 0)
    u, v = ctx.array(node, inputs, 1), ctx.array(node, inputs, 2)
    bias = ctx.array(node, inputs, 3)
    last = len(x.shape) - 1
    if u.ndim != 2 or v.ndim != 2 or u.shape[1] != v.shape[1] or u.shape[0] != x.shape[-1]:
        raise BadInput(f"{node}: factors {u.shape}, {v.shape} do not fit {x.shape[-1]} features")
    if form == FUSED:
        named = {"U": u, "V": v, "bias": bias}
        return [custom_layer(ctx.b, node.op, x, named, {}, v.shape[0])]
    if form == "dense":
        return [contract(ctx.b, x, last, v @ u.T, bias, "weight")]
    inner = contract(ctx.b, x, last, u.T, None, "U")
    return [contract(ctx.b, inner, last, v, bias, "V")]
