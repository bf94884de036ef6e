"""Kronecker layers in .tflite files.

``fc_t``: FULLY_CONNECTED and TRANSPOSE, one pair per factor. Tied for fastest on both runtimes and
the form that also quantises safely. ``fc_bmm``: FULLY_CONNECTED on the mode that is last in memory,
BATCH_MATMUL with the factor on the left for the others; moves nothing.

Small adjacent factors are merged (three factors as two: 1.1–1.5× faster). Moving the activation
between two products and multiplying it in place from the left are close: in place it is up to 14 %
faster in LiteRT, where its order costs no more and its products are wide, and many times slower
elsewhere.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Sequence
from functools import lru_cache

from sepdeploy.exporters.families.emit import Emitter, Weight
from sepdeploy.exporters.families.family import QUANTIZED, Form, Merged, TfliteBuilder, never
from sepdeploy.exporters.families.kron_merge import Groups, groupings, merge_factors, merged_spec
from sepdeploy.exporters.tflite_file.format.graph import Array
from sepdeploy.exporters.tflite_file.values import layout
from sepdeploy.exporters.tflite_file.values.context import Context
from sepdeploy.exporters.tflite_file.values.contract import contract
from sepdeploy.exporters.tflite_file.values.contract_in_place import contract_in_place
from sepdeploy.exporters.tflite_file.values.elementwise import add_constant, binary
from sepdeploy.exporters.tflite_file.values.layout import Value
from sepdeploy.structures import KronSpec

IN_PLACE_GAIN = 0.93  # cost of a product in place against one whose operand is moved, LiteRT 2.3
WIDEST_LEFT = 64  # side of a factor that multiplies from the left
NARROWEST_COLUMNS = 32  # of what it multiplies
# Costs in multiply-accumulates that one moved element and one more operator are worth, from the
# timings of single operators (a 64x64 contraction of 4096 values, a transpose of as many).
MOVE_COST = 8
OPERATOR_COST = 8000

MAX_MERGED_MODES = 6  # above, orders are too many to look at

Arrays = Sequence[Array]


@lru_cache(maxsize=4096)
def best_groups(spec: KronSpec) -> Groups:
    """The adjacent modes to merge before a layer is written: the cheapest way, the first of two."""
    if len(spec.in_shape) > MAX_MERGED_MODES:
        return tuple((mode,) for mode in range(len(spec.in_shape)))
    return min(groupings(spec), key=lambda groups: _cost(merged_spec(spec, groups)))


def _cost(spec: KronSpec) -> int:
    """Multiplications and moves per sample in the best order, a plain input taken."""
    memory = range(len(spec.in_shape))
    return order_cost(spec, memory, contraction_order(spec, memory))


def contraction_order(spec: KronSpec, memory: Sequence[int]) -> tuple[int, ...]:
    """Return the order in which to contract the modes: cheapest in multiplications and moves.

    Args:
        spec: Modes and terms.
        memory: The input's modes from slowest to fastest varying; a mode that is spread over
            memory is left out.

    Returns:
        All modes, first contracted first; ties go to the smaller indices.
    """
    modes = range(len(spec.in_shape))
    return min(itertools.permutations(modes), key=lambda o: (order_cost(spec, memory, o), o))


def order_cost(spec: KronSpec, memory: Sequence[int], order: Sequence[int]) -> int:
    """Return the cost of one order, in multiply-accumulates per sample."""
    sizes = list(spec.in_shape)
    last = memory[-1] if memory else None
    cost = 0
    for step, mode in enumerate(order):
        copies = spec.terms if len(order) == 2 and step == 1 else 1
        elements = math.prod(sizes) * copies
        if mode != last:
            cost += MOVE_COST * elements + OPERATOR_COST
        stacked = spec.terms if len(order) == 2 and step == 0 else 1
        cost += elements * spec.out_shape[mode] * stacked
        sizes[mode] = spec.out_shape[mode]
        last = mode
    return cost


def merge(spec: KronSpec) -> Merged | None:
    """The layer with its small adjacent factors multiplied together, None where that never pays."""
    groups = best_groups(spec)
    if len(groups) == len(spec.in_shape):
        return None

    def factors(e: Emitter, weights: Sequence[Weight]) -> list[Weight]:
        return merge_factors(e, weights, groups)

    return merged_spec(spec, groups), factors


def _written(spec: KronSpec) -> KronSpec:
    return merged_spec(spec, best_groups(spec))


def _macs(spec: KronSpec) -> float:
    return _written(spec).macs


def _weights(spec: KronSpec) -> int:
    return _written(spec).weight_params


def _in_place_macs(spec: KronSpec) -> float:
    """Multiplications of the only order that moves nothing: the last mode first."""
    written = _written(spec)
    if len(written.in_shape) != 2:
        return math.inf
    (n1, n2), (m1, m2) = written.in_shape, written.out_shape
    return IN_PLACE_GAIN * (n1 * n2 * m2 + n1 * m1 * m2)


def _refuse_in_place(spec: KronSpec) -> str:
    written = _written(spec)
    if len(written.in_shape) != 2 or written.terms > 1:
        return "needs two modes after merging and a single term"
    left = max(written.in_shape[0], written.out_shape[0])
    if left > WIDEST_LEFT or written.out_shape[1] < NARROWEST_COLUMNS:
        return "its products per sample would be too narrow"
    return ""


def _layer(
    in_place: bool, ctx: Context, spec: KronSpec, x: Value, factors: Arrays, bias: Array | None
) -> Value:
    rows = x.shape[:-1]
    modes = ctx.b.reshaped(x, (*rows, *spec.in_shape))
    whole = len(spec.in_shape) == 2 or spec.terms == 1
    write = _contract_modes if whole else _sum_of_terms
    y = write(in_place, ctx, spec, modes, factors, bias)
    return ctx.b.reshaped(y, (*rows, spec.out_features))


def _contract_modes(
    in_place: bool, ctx: Context, spec: KronSpec, x: Value, factors: Arrays, bias: Array | None
) -> Value:
    lead = len(x.shape) - len(spec.in_shape)
    order = contraction_order(spec, _memory_modes(x, lead))
    if in_place:
        y = contract_in_place(ctx.b, x, factors, lead)
    elif spec.terms > 1:
        y = _contract_stacked(ctx, x, factors, order, lead)
    else:
        y = x
        for mode in order:
            y = contract(ctx.b, y, lead + mode, factors[mode][0], None, f"factors.{mode}")
    if bias is None or not bias.any():
        return y
    return add_constant(ctx.b, y, bias.reshape(spec.out_shape), "bias")


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
    in_place: bool, ctx: Context, spec: KronSpec, x: Value, factors: Arrays, bias: Array | None
) -> Value:
    """Three or more modes and K terms: K chains of products, added up."""
    one = dataclasses.replace(spec, terms=1)
    total: Value | None = None
    for k in range(spec.terms):
        term = [f[k : k + 1] for f in factors]
        y = _contract_modes(in_place, ctx, one, x, term, bias if k == 0 else None)
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


FORMS: tuple[Form[TfliteBuilder], ...] = (
    Form(
        *("fc_t", never, _macs, _weights, functools.partial(_layer, False)),
        note="FULLY_CONNECTED and TRANSPOSE per factor",
    ),
    Form(
        *("fc_bmm", _refuse_in_place, _in_place_macs, _weights, functools.partial(_layer, True)),
        note="FULLY_CONNECTED, then BATCH_MATMUL in place",
        barred={
            "tflite-runtime-2.14": "up to 1.3× slower than moving in this runtime",
            QUANTIZED: "a constant on the left of a product has no safe integer form",
        },
    ),
)
