"""What an ONNX form of a layer costs, estimated; the planner takes the cheapest.

Microseconds for one sample on one core of a current x86 server, fitted to ONNX Runtime 1.31 over
some sixty cells (layers of 64 … 25088 features, one to six modes, one to four terms, batches 1
and 32). Only the order of two estimates matters. What decides it:

* a product with few columns leaves vector units idle: N columns run at N/(N + 8) of full speed;
* a factor on the left is not packed beforehand and its product is batched: both cost per sample;
* a transpose costs as much as many multiplications, and a node costs something by itself.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from sepdeploy.exporters.lowerings.merge import Groups, groupings, merged_spec
from sepdeploy.structures import KronSpec, LowRankSpec, Spec
from sepdeploy.structures.contraction import best_order

RUN = 1.8  # of one call of the runtime, the same for every form
NODE = 0.35  # of one node
MACS_PER_US = 90e3
IDLE_COLUMNS = 8
BATCHED_PRODUCT = 0.06
LEFT_ELEMENT = 0.08e-3  # reading an unpacked left factor
MOVED_ELEMENT = 0.15e-3  # in a transpose
BYTES_PER_US = ((1 << 20, 100e3), (1 << 25, 70e3), (1 << 62, 44e3))  # dense weights, by size

MAX_PERMUTED = 4  # modes; above, only the order of fewest multiplications is looked at


@dataclass(frozen=True)
class Arrangement:
    """How a Kronecker layer is written: which modes are merged, in which order it contracts."""

    groups: Groups
    order: tuple[int, ...]
    cost: float

    @property
    def key(self) -> str:
        """Short text, for example "0-12:1.0": modes 1 and 2 merged, the last group first."""
        groups = "-".join(".".join(map(str, g)) for g in self.groups)
        return f"{groups}:{'.'.join(map(str, self.order))}"


def product(rows: float, inner: float, columns: float) -> float:
    """A matrix product with a packed constant or many columns."""
    return rows * inner * columns / MACS_PER_US * (1 + IDLE_COLUMNS / columns)


@lru_cache(maxsize=4096)
def arrangement(form: str, spec: KronSpec) -> Arrangement | None:
    """The cheapest way to write a layer in a form; None where the form cannot be used."""
    found = [
        Arrangement(groups, order, RUN + _COSTS[form](merged, order))
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


def _mm_cost(spec: KronSpec, order: Sequence[int]) -> float:
    sizes, terms = list(spec.in_shape), spec.terms
    cost = NODE
    for step, mode in enumerate(order):
        o, i = spec.out_shape[mode], sizes[mode]
        left, right = math.prod(sizes[:mode]), math.prod(sizes[mode + 1 :])
        fan = terms if step == 0 else 1
        inner = i * (terms if step else 1)
        if mode == len(sizes) - 1:
            cost += 2 * NODE + product(left, inner, o * fan)
        else:
            one = product(o * fan, inner, right) + LEFT_ELEMENT * o * inner
            cost += 2 * NODE + left * (one + BATCHED_PRODUCT)
        sizes[mode] = o
    return cost


def _gemm2d_cost(spec: KronSpec, order: Sequence[int]) -> float:
    sizes, terms = list(spec.in_shape), spec.terms
    axes = list(range(len(sizes)))
    cost, copies = NODE, 1
    for step, mode in enumerate(order):
        last, middle = step == len(order) - 1, 0 < step < len(order) - 1
        if axes[-1] != mode or (terms > 1 and step):
            cost += 2 * NODE + MOVED_ELEMENT * math.prod(sizes) * copies
        o, i = spec.out_shape[mode], sizes[mode]
        rest = math.prod(sizes) // i
        if terms > 1 and middle:
            cost += 2 * NODE + terms * (product(rest, i, o) + BATCHED_PRODUCT)
        else:
            fan = terms if step == 0 else 1
            cost += 2 * NODE + product(rest, i * (copies if last else 1), o * fan)
        copies = 1 if last else terms
        sizes[mode] = o
        axes = [a for a in axes if a != mode] + [mode]
    if axes != sorted(axes):
        cost += 2 * NODE + MOVED_ELEMENT * math.prod(sizes)
    return cost


def _tt_cost(spec: KronSpec, order: Sequence[int]) -> float:
    return 1.1 * _gemm2d_cost(spec, order)


def _conv2d_cost(spec: KronSpec, order: Sequence[int]) -> float:
    return 1.1 * _mm_cost(spec, order)


_COSTS = {"gemm2d": _gemm2d_cost, "mm": _mm_cost, "tt": _tt_cost, "conv2d": _conv2d_cost}


def kron_cost(form: str, spec: KronSpec) -> float:
    """Microseconds of the cheapest arrangement."""
    found = arrangement(form, spec)
    return math.inf if found is None else found.cost


def lowrank_cost(spec: LowRankSpec) -> float:
    """Microseconds of two products."""
    return RUN + _dense(spec.in_features, spec.rank) + _dense(spec.rank, spec.out_features)


def dense_cost(spec: Spec) -> float:
    """Microseconds of the multiplied-out matrix: its bytes, read once."""
    return RUN + _dense(spec.in_features, spec.out_features)


def _dense(n_in: int, n_out: int) -> float:
    size = 4 * n_in * n_out
    speed = next(v for bound, v in BYTES_PER_US if size <= bound)
    return NODE + size / speed


def constant_values(form: str, spec: Spec) -> int:
    """Numbers of the weight constants that a form needs, bias left out."""
    if form == "dense":
        return spec.in_features * spec.out_features
    if isinstance(spec, KronSpec):
        found = arrangement(form, spec)
        if found is not None:
            return merged_spec(spec, found.groups).weight_params
    return spec.weight_params
