"""Learning rate as a pure function of the step, so that a resumed training needs no state."""

from __future__ import annotations

import math
from collections.abc import Callable

WARM_UP = 0.3  # share of a one-cycle training in which the rate rises
START_DIVISOR = 25.0
END_DIVISOR = 1e4


def cosine(done: float) -> float:
    """Half a cosine from 1 to 0; ``done`` is the share of steps taken, 0 .. 1."""
    return 0.5 * (1 + math.cos(math.pi * done))


def one_cycle(done: float) -> float:
    """Rise from 1/25 to 1 over the first 30 %, then fall to 1e-4, both as half cosines."""
    if done < WARM_UP:
        low = 1 / START_DIVISOR
        return low + (1 - low) * (1 - cosine(done / WARM_UP))
    low = 1 / END_DIVISOR
    return low + (1 - low) * cosine((done - WARM_UP) / (1 - WARM_UP))


def constant(done: float) -> float:
    """Return 1 throughout."""
    return 1.0


SCHEDULES: dict[str, Callable[[float], float]] = {
    "cosine": cosine,
    "one-cycle": one_cycle,
    "constant": constant,
}


def learning_rate(schedule: str, peak: float, step: int, total: int) -> float:
    """Return the rate of step ``step`` (from 0) of ``total``."""
    return peak * SCHEDULES[schedule](step / max(1, total))
