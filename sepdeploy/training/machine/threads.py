"""One CPU thread or two: decided by timing a few steps.

On shared machines two OpenMP threads can be many times slower than one, because each waits for
the other at every operation while a neighbour holds a core. The number also decides how sums are
split, so it is stored with the training and used again when it is resumed.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median

import torch

STEPS = 4
GAIN = 1.25  # two threads must be this much faster: they take a core from somebody else


@contextmanager
def cpu_threads(count: int) -> Iterator[None]:
    """Run the block with ``count`` threads, then restore the number."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def choose_threads(step: Callable[[], None]) -> int:
    """Return 1 or 2, whichever makes ``step`` faster.

    Args:
        step: A training step on throw-away state.

    Returns:
        1 where only one core or thread is allowed (affinity, OMP_NUM_THREADS), or where two are
        not at least 1.25 times faster.
    """
    if min(torch.get_num_threads(), available_cores()) < 2:
        return 1
    with cpu_threads(1):
        step()
        one = median(_time(step) for _ in range(STEPS))
    with cpu_threads(2):
        times: list[float] = []
        for _ in range(STEPS + 1):
            times.append(_time(step))
            if times[-1] > 3 * one:  # hopeless: do not wait for the rest
                return 1
    return 2 if median(times[1:]) * GAIN < one else 1


def available_cores() -> int:
    """Return the number of cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _time(step: Callable[[], None]) -> float:
    start = time.perf_counter()
    step()
    return time.perf_counter() - start
