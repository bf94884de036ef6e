"""Chains for given sizes and a budget, found by dynamic programming over the divisors.

A chain is two ordered factorisations of one length, q = s_1⋯s_N and p = r_1⋯r_N. Walking from the
input, the state is what is used of p and what is left of q; a step (r, s) costs r times the width
before it. Of all ways to a state one is kept per class of cost: the one whose narrowest place is
widest, then the shortest.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

from sepdeploy.errors import BadInput
from sepdeploy.structures.debut.chain import Chain, widths, with_steps, write_chain
from sepdeploy.structures.shapes import divisors

LARGEST_PRIME = 32  # a size with a larger one is padded
LARGEST_BLOCK = {"monotone": 64, "bulging": 16}  # of r and s; wider ones leave nothing to save
BULGE = 2  # the widest place of a bulging chain, of the wider end
COST_CLASSES = 12  # per factor e of cost
MAX_STEPS = 12


class _Way(NamedTuple):
    """One way to a state; the smaller of two is better."""

    thinness: int  # −(narrowest width)
    steps: int
    cost: int
    widest: int
    pairs: tuple[tuple[int, int], ...]


def best_chain(n_in: int, n_out: int, ratio: float, first: int = 0) -> tuple[Chain, ...]:
    """The best chains with at most n_in·n_out/ratio weights: monotone first, then bulging.

    Either kind is left out where it has none, and none is narrower within than both its ends.

    Args:
        n_in: q; padded where it does not factor.
        n_out: p, likewise.
        ratio: How many times fewer weights than the dense matrix.
        first: s of the first factor, k² of a convolution; 0 leaves it open.

    Raises:
        BadInput: No chain is that small; the message says how small they get.
    """
    budget = n_in * n_out / ratio
    offers = [chains(n_in, n_out, kind, first) for kind in LARGEST_BLOCK]
    fitting = [[c for c in found if weights(c) <= budget] for found in offers]
    best = tuple(max(found, key=weights) for found in fitting if found)
    if best:
        return best
    least = min((c for found in offers for c in found), key=weights, default=None)
    if least is None:
        raise BadInput(
            f"no chain maps {n_in} → {n_out}", hint="take another structure for this layer"
        )
    raise BadInput(
        f"no chain {n_in} → {n_out} has {ratio:g}x fewer weights; the best reachable is "
        f"{n_in * n_out / weights(least):.4g}x, {weights(least):,} weights",
        hint=f"ask for less, or write it out: debut:{write_chain(least)}",
    )


def nearest_chain(n_in: int, n_out: int, ratio: float, first: int = 0) -> Chain:
    """The best chain of a budget; else the smallest one; else the matrix itself, one factor."""
    try:
        return best_chain(n_in, n_out, ratio, first)[0]
    except BadInput:
        found = [c for kind in LARGEST_BLOCK for c in chains(n_in, n_out, kind, first)]
        return min(found, key=weights, default=with_steps([(n_out, n_in)]))


def weights(chain: Chain) -> int:
    """Numbers that a chain stores, and multiply-accumulates of one place."""
    return sum(width * r for width, (r, _, _) in zip(widths(chain), chain, strict=False))


@lru_cache(maxsize=512)
def chains(n_in: int, n_out: int, kind: str = "monotone", first: int = 0) -> tuple[Chain, ...]:
    """Chains of ever more weights, fewer than the dense matrix has.

    Args:
        n_in: q, padded to the next product of 2, 3 and 5 where it has a prime above 32.
        n_out: p, likewise.
        kind: "monotone" (r ≤ s throughout, or r ≥ s) or "bulging" (wider within than both ends).
        first: s of the first factor, 0 leaves it open.
    """
    q = first * padded_size(n_in // first) if first else padded_size(n_in)
    p = padded_size(n_out)
    ways = _ways(p, q, kind, first)
    found = [w for w in ways if kind != "bulging" or w.widest > max(p, q)]
    chosen = sorted((w for w in found if w.cost < n_in * n_out), key=lambda w: w.cost)
    return tuple(with_steps(w.pairs) for w in chosen)


def padded_size(n: int) -> int:
    """The next size that factors: n itself unless it has a prime above 32, else 2^a·3^b·5^c."""
    if _largest_prime(n) <= LARGEST_PRIME:
        return n
    while _largest_prime(n) > 5:
        n += 1
    return n


def suggestion(chain: Chain, n_in: int, n_out: int) -> str:
    """The chain n_in → n_out nearest in weights to one of other sizes, as it is written."""
    found = chains(n_in, n_out) or chains(n_in, n_out, "bulging")
    if not found:
        return "8x"
    wanted = weights(chain)
    near = min(found, key=lambda c: abs(math.log(weights(c) / wanted)))
    padded = (widths(near)[0], widths(near)[-1]) != (n_in, n_out)
    return write_chain(near) + ("+pad" if padded else "")


def _ways(p: int, q: int, kind: str, first: int) -> list[_Way]:
    """The best way from q features to p, per class of cost."""
    states: dict[tuple[int, int], dict[int, _Way]] = {
        (used, left): {} for left in reversed(divisors(q)) for used in divisors(p)
    }
    states[1, q][0] = _Way(-min(p, q), 0, 0, max(p, q), ())
    for (used, left), ways in states.items():
        if not ways or (used, left) == (p, 1):
            continue
        for r, s in _steps(p, q, used, left, kind):
            if first and used == 1 and left == q and s != first:
                continue
            width = used * r * (left // s)
            target = states[used * r, left // s]
            for way in ways.values():
                _offer(target, way, (r, s), used * left * r, width, p * q)
    return list(states[p, 1].values())


def _offer(
    target: dict[int, _Way], way: _Way, pair: tuple[int, int], price: int, width: int, most: int
) -> None:
    cost = way.cost + price
    if cost >= most or way.steps >= MAX_STEPS:
        return
    thin, wide = max(way.thinness, -width), max(way.widest, width)
    longer = _Way(thin, way.steps + 1, cost, wide, (*way.pairs, pair))
    group = int(math.log(cost) * COST_CLASSES)
    if group not in target or longer < target[group]:
        target[group] = longer


def _steps(p: int, q: int, used: int, left: int, kind: str) -> Iterator[tuple[int, int]]:
    """The pairs (r, s) that may follow."""
    block, start = LARGEST_BLOCK[kind], (used, left) == (1, q)
    for r in divisors(p // used):
        for s in divisors(left):
            large = r > block or (s > block and not start)
            if (r, s) == (1, 1) or large:
                continue
            width = used * r * (left // s)
            if kind == "monotone":
                if (r <= s) if q >= p else (r >= s):
                    yield r, s
            elif min(p, q) <= width <= BULGE * max(p, q):
                yield r, s


def _largest_prime(n: int) -> int:
    largest, prime = 1, 2
    while prime * prime <= n:
        while n % prime == 0:
            largest, n = prime, n // prime
        prime += 1
    return max(largest, n)
