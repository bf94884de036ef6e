"""One form per layer under a budget, at the least sum of losses: multiple-choice knapsack."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

UNITS = 20_000  # of the budget; costs are rounded up to whole ones, so every choice fits

Choice = tuple[int, float]  # cost, loss


def solve(layers: Sequence[Sequence[Choice]], room: int) -> tuple[list[int], float] | None:
    """Choose by dynamic programming; exact where the budget has at most ``UNITS`` units.

    Args:
        layers: The forms of each layer.
        room: What all may cost together.

    Returns:
        The number of each layer's form, and how far the sum is at most above the least possible,
        as a share of it (by the Lagrangian bound; 0 where exact). None where nothing fits.
    """
    unit = max(1, -(-room // UNITS))
    size = room // unit + 1
    if room < 0:
        return None
    best = np.zeros(size)
    taken = []
    for forms in layers:
        options = np.full((len(forms), size), np.inf)
        for row, (cost, loss) in zip(options, forms, strict=True):
            steps = -(-cost // unit)
            if steps < size:
                row[steps:] = best[: size - steps] + loss
        taken.append(options.argmin(axis=0))
        best = options.min(axis=0)
    if not np.isfinite(best[-1]):
        return None
    chosen, left = [], size - 1
    for forms, row in zip(reversed(layers), reversed(taken), strict=True):
        chosen.append(int(row[left]))
        left -= -(-forms[chosen[-1]][0] // unit)
    total = float(best[-1])
    gap = 0.0 if unit == 1 else max(0.0, total - lower_bound(layers, room))
    return chosen[::-1], gap / total if total > 0 else 0.0


def lower_bound(layers: Sequence[Sequence[Choice]], room: int) -> float:
    """The Lagrangian bound: no choice within the budget has a smaller sum of losses."""

    def value(price: float) -> float:
        sums = (min(loss + price * cost for cost, loss in forms) for forms in layers)
        return sum(sums) - price * room

    low, high = 0.0, 1.0
    while value(2 * high) > value(high) and high < 1e9:
        high *= 2
    high *= 2
    for _ in range(200):  # value is concave in the price
        one, two = low + (high - low) / 3, high - (high - low) / 3
        low, high = (one, high) if value(one) < value(two) else (low, two)
    return value((low + high) / 2)
