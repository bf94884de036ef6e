"""What each ONNX form of a Kronecker layer costs, and the cheapest way to write it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from sepdeploy.exporters.families.cost import Work, product
from sepdeploy.exporters.families.kron_merge import Groups, groupings, merged_spec
from sepdeploy.structures import KronSpec
from sepdeploy.structures.contraction import best_order

BATCHED_PRODUCT = 0.116
MOVED_ELEMENT = 0.04e-3  # of one transpose per sample
MOVED_IN_BLOCKS = 0.23e-3  # of many small ones
MAX_PERMUTED = 4  # modes; above, only the order of fewest multiplications is looked at


@dataclass(frozen=True)
class Arrangement:
    """How a Kronecker layer is written: which modes are merged, in which order it contracts."""

    groups: Groups
    order: tuple[int, ...]
    cost: float

    @property
    def key(self) -> str:
        """Short text, for example "0-1.2:1.0": modes 1 and 2 merged, the last group first."""
        groups = "-".join(".".join(map(str, g)) for g in self.groups)
        return f"{groups}:{'.'.join(map(str, self.order))}"


@lru_cache(maxsize=4096)
def arrangement(form: str, spec: KronSpec) -> Arrangement | None:
    """The cheapest way to write a layer in a form; None where the form cannot be used."""
    if form not in _WORK:
        return None
    found = [
        Arrangement(groups, order, round(_WORK[form](merged, order).cost, 6))
        for groups in groupings(spec)
        for merged in [merged_spec(spec, groups)]
        for order in _orders(form, merged)
    ]
    return min(found, key=lambda a: (a.cost, -len(a.groups), a.key), default=None)


def _orders(form: str, spec: KronSpec) -> Iterator[tuple[int, ...]]:
    d = len(spec.in_shape)
    last_first = tuple(reversed(range(d)))
    if form != "gemm2d" and d > 2 and (spec.terms > 1 or form != "mm"):
        return
    if form == "tt" and spec.terms > 1:
        return
    if form in ("tt", "conv2d") or (form == "mm" and spec.terms > 1):
        yield last_first
    elif d <= MAX_PERMUTED:
        yield from sorted(itertools.permutations(range(d)), reverse=True)
    else:
        yield best_order(spec.in_shape, spec.out_shape)


def _mm_work(spec: KronSpec, order: Sequence[int]) -> Work:
    sizes, terms = list(spec.in_shape), spec.terms
    work = Work(1, 0)
    for step, mode in enumerate(order):
        o, i = spec.out_shape[mode], sizes[mode]
        left, right = math.prod(sizes[:mode]), math.prod(sizes[mode + 1 :])
        fan, inner = (terms, i) if step == 0 else (1, i * terms)
        if mode == len(sizes) - 1:
            work += product(left, inner, o * fan)
        else:
            work += product(left * o * fan, inner, right) + Work(0, left * BATCHED_PRODUCT)
        sizes[mode] = o
    return work


def _gemm2d_work(spec: KronSpec, order: Sequence[int]) -> Work:
    sizes, terms = list(spec.in_shape), spec.terms
    axes, copies, work = list(range(len(sizes))), 1, Work(1, 0)
    for step, mode in enumerate(order):
        last = step == len(order) - 1
        if axes[-1] != mode or (terms > 1 and step):
            work += _transpose(math.prod(sizes) * copies, whole=axes[0] == mode)
        o, i = spec.out_shape[mode], sizes[mode]
        rest = math.prod(sizes) // i
        if terms > 1 and step > 0 and not last:
            work += product(terms * rest, i, o) + Work(0, terms * BATCHED_PRODUCT)
        else:
            work += product(rest, i * (copies if last else 1), o * (terms if step == 0 else 1))
        copies = 1 if last else terms
        sizes[mode] = o
        axes = [a for a in axes if a != mode] + [mode]
    if axes != sorted(axes):
        start = axes.index(0)
        work += _transpose(math.prod(sizes), whole=axes[start:] + axes[:start] == sorted(axes))
    return work


def _transpose(elements: int, *, whole: bool) -> Work:
    return Work(2, elements * (MOVED_ELEMENT if whole else MOVED_IN_BLOCKS))


def _scaled(work: Work, factor: float) -> Work:
    return Work(work.nodes + 1, work.sample * factor)


_WORK: dict[str, Callable[[KronSpec, Sequence[int]], Work]] = {
    "mm": _mm_work,
    "gemm2d": _gemm2d_work,
    # Like one of the two above, never better by more than a tenth: kept as candidates.
    "tt": lambda spec, order: _scaled(_gemm2d_work(spec, order), 1.1),
    "conv2d": lambda spec, order: _scaled(_gemm2d_work(spec, order), 1.1),
}


def kron_cost(form: str, spec: KronSpec) -> float:
    """Cost of the cheapest arrangement, infinite where there is none."""
    found = arrangement(form, spec)
    return math.inf if found is None else found.cost


def constant_values(form: str, spec: KronSpec) -> int:
    """Numbers of the weight constants that a form needs, bias left out."""
    found = arrangement(form, spec)
    return spec.weight_params if found is None else merged_spec(spec, found.groups).weight_params
