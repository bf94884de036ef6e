"""Describing one sample: location, spread, intervals. Pure functions on numpy arrays."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Values = Sequence[float] | npt.NDArray[np.float64]

EXACT_SAMPLES = 2000  # above it the binomial is as good as normal
DRAWS = 500  # of a bootstrap
LOW = 10  # percentile of timings that other work on the machine has not touched
Z95 = 1.959963984540054  # 97.5 % quantile of the standard normal distribution


@dataclass(frozen=True)
class Summary:
    """What is reported of a series of timings, in the unit of the samples.

    ``mad`` is the median of |x − median|, not scaled to a standard deviation. ``interval`` is a
    two-sided 95 % interval of the median; ``low`` is the 10th percentile, with one of its own.
    """

    median: float
    mad: float
    p90: float
    p99: float
    interval: tuple[float, float]
    low: float
    low_interval: tuple[float, float]
    n: int


def summarize(samples: Values) -> Summary:
    """Return the summary of a series.

    Raises:
        ValueError: No samples, or one that is not finite.
    """
    values = np.asarray(samples, dtype=np.float64).ravel()
    if not values.size or not np.isfinite(values).all():
        message = "a summary needs at least one sample, all finite"
        raise ValueError(message)
    median = float(np.median(values))
    low, p90, p99 = (float(p) for p in np.percentile(values, (LOW, 90, 99)))
    mad = float(np.median(np.abs(values - median)))
    around = median_interval(values)
    return Summary(median, mad, p90, p99, around, low, low_interval(values), values.size)


def low_interval(samples: Values) -> tuple[float, float]:
    """Return a 95 % interval of the 10th percentile, by a bootstrap of the samples."""
    values = np.asarray(samples, dtype=np.float64).ravel()
    drawn = values[np.random.default_rng(0).integers(0, values.size, (DRAWS, values.size))]
    own = float(np.percentile(values, LOW))
    low, high = np.percentile(np.percentile(drawn, LOW, axis=1), (2.5, 97.5))
    return min(own, float(low)), max(own, float(high))


def median_interval(samples: Values) -> tuple[float, float]:
    """Return an interval that holds the median with 95 % or more, whatever the distribution.

    Its ends are order statistics: the number of samples below the median is binomial(n, 1/2).
    Fewer than six samples cannot reach 95 %: their whole range is returned.
    """
    values = np.sort(np.asarray(samples, dtype=np.float64).ravel())
    rank = _median_rank(values.size)
    return float(values[rank - 1]), float(values[values.size - rank])


def _median_rank(n: int) -> int:
    """Return the largest k >= 1 with 2 P(Bin(n, 1/2) < k) <= 5 %."""
    if n > EXACT_SAMPLES:
        return math.floor(n / 2 - Z95 * math.sqrt(n) / 2)
    term, below, k = 1, 0, 0
    while 40 * (below + term) <= 1 << n:
        below += term
        term = term * (n - k) // (k + 1)
        k += 1
    return max(1, k)


def ratio_interval(
    numerator: Values, denominator: Values, *, percentile: float = 50
) -> tuple[float, float]:
    """Return a 95 % interval of the quotient of two medians, by a paired bootstrap.

    The two series were taken in turns; rounds are drawn with replacement, both members of a round
    together, so that what slowed a whole round does not widen the interval. ``percentile`` takes
    another one than the median.

    Raises:
        ValueError: The series differ in length or are empty.
    """
    a, b = (np.asarray(v, dtype=np.float64).ravel() for v in (numerator, denominator))
    if a.size != b.size or not a.size:
        message = "a paired interval needs two series of the same length"
        raise ValueError(message)
    chosen = np.random.default_rng(0).integers(0, a.size, (DRAWS, a.size))
    tops, bottoms = (np.percentile(v[chosen], percentile, axis=1) for v in (a, b))
    ratios = tops / bottoms
    low, high = np.percentile(ratios, (2.5, 97.5))
    return float(low), float(high)


def wilson_interval(successes: int, n: int) -> tuple[float, float]:
    """Return Wilson's 95 % score interval of a proportion (Wilson 1927).

    The interval holds the p with |p̂ − p| <= z·sqrt(p(1 − p)/n), z = ``Z95``.

    Raises:
        ValueError: ``n`` is not positive or ``successes`` is not within 0..n.
    """
    if n < 1 or not 0 <= successes <= n:
        message = f"a proportion needs 0 <= successes <= n, n > 0; found {successes} of {n}"
        raise ValueError(message)
    p, z = successes / n, Z95
    scale = 1 + z * z / n
    centre = (p + z * z / (2 * n)) / scale
    half = z / scale * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    # The bounds at 0 and n are exact; rounding must not move them.
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == n else min(1.0, centre + half)
    return low, high
