"""The forms a structured layer can take in a .tflite file, and the order of contraction.

Names of forms, as they stand in the manifest:

* ``fc_t`` (kron): FULLY_CONNECTED and TRANSPOSE, one pair per factor. Tied for fastest on both
  runtimes and the form that also quantises safely.
* ``fc_bmm`` (kron): FULLY_CONNECTED on the mode that is last in memory, BATCH_MATMUL with the
  factor on the left for the others; moves nothing.
* ``fc`` (lowrank): two FULLY_CONNECTED.
* ``dense`` (both): one FULLY_CONNECTED with the multiplied-out matrix, where the planner found
  the structure not to pay.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from sepdeploy.errors import BadInput, unknown_name

FORMS: dict[str, tuple[str, ...]] = {
    "KronLinear": ("fc_t", "fc_bmm", "dense"),
    "LowRankLinear": ("fc", "dense"),
}

# Costs in multiply-accumulates that one moved element and one more operator are worth, from the
# timings of single operators (a 64x64 contraction of 4096 values, a transpose of as many).
MOVE_COST = 8
OPERATOR_COST = 8000


@dataclass(frozen=True)
class KronShapes:
    """A Kronecker layer's modes and number of summed terms."""

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    terms: int = 1


def default_form(op: str) -> str:
    """Return the form taken when no planner chose one."""
    return FORMS[op][0]


def check_form(op: str, form: str, layer: str) -> None:
    """Raise `BadInput` for a form that this op does not have in TFLite."""
    if op not in FORMS:
        raise BadInput(
            f"layer '{layer}': the domain has no op '{op}' with a TFLite form",
            hint=f"known: {', '.join(sorted(FORMS))}; a newer sepdeploy may know it",
        )
    if form not in FORMS[op]:
        raise unknown_name(f"TFLite form of {op} for layer '{layer}'", form, FORMS[op])


def contraction_order(shapes: KronShapes, memory: Sequence[int]) -> tuple[int, ...]:
    """Return the order in which to contract the modes: cheapest in multiplications and moves.

    Args:
        shapes: Modes and terms.
        memory: The input's modes from slowest to fastest varying; a mode that is spread over
            memory is left out.

    Returns:
        All modes, first contracted first; ties go to the smaller indices.
    """
    modes = range(len(shapes.inputs))
    return min(itertools.permutations(modes), key=lambda o: (order_cost(shapes, memory, o), o))


def order_cost(shapes: KronShapes, memory: Sequence[int], order: Sequence[int]) -> int:
    """Return the cost of one order, in multiply-accumulates per sample."""
    sizes = list(shapes.inputs)
    last = memory[-1] if memory else None
    cost = 0
    for step, mode in enumerate(order):
        copies = shapes.terms if len(order) == 2 and step == 1 else 1
        elements = math.prod(sizes) * copies
        if mode != last:
            cost += MOVE_COST * elements + OPERATOR_COST
        stacked = shapes.terms if len(order) == 2 and step == 0 else 1
        cost += elements * shapes.outputs[mode] * stacked
        sizes[mode] = shapes.outputs[mode]
        last = mode
    return cost
