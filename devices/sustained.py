"""A device under load for minutes: does it keep its speed when it gets warm?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import linear_regression, median

from sepdeploy.errors import Unstable
from sepdeploy.jobs import Clocked

MINUTE_S = 60.0
SLOPE_POINTS = 120  # medians of this many equal parts carry the slope
REFILLING = 3  # untimed runs before each sample, see the runner


@dataclass(frozen=True)
class Sustained:
    """How the latency of one model went over a sustained run.

    Attributes:
        seconds: How long it lasted.
        samples: How many samples it has.
        first_ms: Median of the first minute (of the first half when it lasted less than two).
        last_ms: Median of the last minute, likewise.
        ratio: last / first; above 1 the device became slower.
        slope_ms_per_minute: Of the straight line through the medians of equal parts of the run
            (least squares: the medians keep outliers out, and a step shows, which a median of
            slopes would hide).
    """

    seconds: float
    samples: int
    first_ms: float
    last_ms: float
    ratio: float
    slope_ms_per_minute: float


def sample_times(result: Clocked, seconds: float) -> tuple[tuple[float, ...], ...]:
    """Return when each sample of a latency result ended, in seconds, per model.

    The runner notes no times, but they follow from its samples: in every round each model takes
    its turn, in an order that reverses, and the sum of all is the length of the run.

    Args:
        result: The times of a job of mode "latency".
        seconds: Length of the timed part; the sum is stretched to it.
    """
    models, rounds = result.models, result.rounds
    times: list[list[float]] = [[] for _ in models]
    order = list(range(len(models)))
    clock = 0.0
    for turn in range(rounds):
        for i in order:
            samples, runs = models[i].samples_ms, models[i].block_runs
            per_round = len(samples) // rounds
            mine = samples[turn * per_round : (turn + 1) * per_round]
            clock += min(REFILLING, runs) * (mine[0] if mine else 0.0)
            for sample in mine:
                clock += sample * runs
                times[i].append(clock)
        order.reverse()
    stretch = seconds / clock if clock else 0.0
    return tuple(tuple(t * stretch for t in row) for row in times)


def sustained(times: Sequence[float], samples: Sequence[float]) -> Sustained:
    """Return the statistics of a sustained run.

    Args:
        times: When each sample ended, seconds from the start, ascending.
        samples: Milliseconds.

    Raises:
        Unstable: Fewer than four samples, so that it has no first and last part.
    """
    if len(samples) < 4 or len(times) != len(samples):
        raise Unstable(
            f"a sustained run gave {len(samples)} samples, at least 4 are needed",
            hint="run for longer: --sustained SECONDS",
        )
    length = times[-1]
    part = min(MINUTE_S, length / 2)
    first = [s for t, s in zip(times, samples, strict=True) if t <= part] or [samples[0]]
    last = [s for t, s in zip(times, samples, strict=True) if t > length - part] or [samples[-1]]
    first_ms, last_ms = median(first), median(last)
    return Sustained(
        seconds=length,
        samples=len(samples),
        first_ms=first_ms,
        last_ms=last_ms,
        ratio=last_ms / first_ms if first_ms else 1.0,
        slope_ms_per_minute=_slope(times, samples) * 60.0,
    )


def _slope(times: Sequence[float], samples: Sequence[float]) -> float:
    """Return the slope in ms per second of the line through the medians of equal parts."""
    n = len(samples)
    parts = min(n, SLOPE_POINTS)
    cuts = [round(k * n / parts) for k in range(parts + 1)]
    points = [(median(times[a:b]), median(samples[a:b])) for a, b in pairwise(cuts)]
    return linear_regression(*zip(*points, strict=True)).slope if times[-1] > times[0] else 0.0
