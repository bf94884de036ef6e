"""Ways to write a number of features as a product of modes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import cache

KEPT_SPLIT_RATIO = 16  # a sample's own modes are kept up to this imbalance


def factor_pairs(n: int) -> list[tuple[int, int]]:
    """All (a, b) with a·b = n, most balanced first, a ≤ b before its mirror."""
    small = [a for a in range(1, math.isqrt(n) + 1) if n % a == 0]
    pairs = {(a, n // a) for a in small} | {(n // a, a) for a in small}
    return sorted(pairs, key=lambda p: (max(p), p))


def two_modes(shape: Sequence[int]) -> tuple[int, int]:
    """A sample shape as two modes, without mixing its axes where that stays balanced.

    Adjacent axes are merged at the most balanced place: (1, 28, 28) → (28, 28),
    (3, 32, 32) → (96, 32), (16, 5, 5) → (16, 25). A flat or very uneven shape gets its most
    balanced factor pair: (1024,) → (32, 32).
    """
    splits = [(math.prod(shape[:cut]), math.prod(shape[cut:])) for cut in range(1, len(shape))]
    best = min(splits, key=max, default=None)
    if best is not None and max(best) <= KEPT_SPLIT_RATIO * min(best):
        return best
    return factor_pairs(math.prod(shape))[0]


def mode_products(n: int, d: int) -> list[tuple[int, ...]]:
    """All ways to write n as d factors in order, with 1 only where primes are too few."""
    shapes = list(_ordered_products(n, d))
    fewest_ones = min(s.count(1) for s in shapes)
    return [s for s in shapes if s.count(1) == fewest_ones]


def _ordered_products(n: int, d: int) -> Iterator[tuple[int, ...]]:
    if d == 1:
        yield (n,)
        return
    for a in divisors(n):
        for rest in _ordered_products(n // a, d - 1):
            yield (a, *rest)


@cache
def divisors(n: int) -> tuple[int, ...]:
    """All divisors, smallest first."""
    small = [a for a in range(1, math.isqrt(n) + 1) if n % a == 0]
    return tuple(sorted({*small, *(n // a for a in small)}))
