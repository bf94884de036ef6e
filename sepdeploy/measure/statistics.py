"""Statistics of timings and outcomes: pure functions on numpy arrays, nothing else imported.

Tests of significance give the probability, under "nothing changed", of a difference at least as
large as the one seen. They are exact where that is affordable and normal approximations with tie
and continuity corrections elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import numpy.typing as npt

Alternative = Literal["two-sided", "less", "greater"]
Values = Sequence[float] | npt.NDArray[np.float64]

EXACT_GROUP = 8  # Mann-Whitney: exact when a group is at most this small and nothing is tied
ONE_PERCENT = 2.33  # standard deviations that a normal variable exceeds once in a hundred
EXACT_PAIRS = 60  # signed ranks: exact up to here, ties included


def mann_whitney_p(a: Values, b: Values, alternative: Alternative = "two-sided") -> float:
    """Return the p-value of the Mann-Whitney rank-sum test of two independent samples.

    Args:
        a: First sample.
        b: Second sample.
        alternative: "greater" asks whether ``a`` tends to exceed ``b``; "less" the opposite.

    Raises:
        ValueError: A sample is empty.
    """
    first, second = _vector(a), _vector(b)
    if not first.size or not second.size:
        message = "Mann-Whitney needs two samples that are not empty"
        raise ValueError(message)
    ranks, ties = _ranks(np.concatenate([first, second]))
    n, m = first.size, second.size
    u = float(ranks[:n].sum()) - n * (n + 1) / 2
    if min(n, m) <= EXACT_GROUP and not ties.size:
        return _exact_p(_rank_sum_counts(n, m), round(u), alternative)
    total = n + m
    tie_term = float((ties**3 - ties).sum()) / (total * (total - 1))
    variance = n * m / 12 * (total + 1 - tie_term)
    return _normal_p(u, n * m / 2, variance, alternative)


def wilcoxon_p(differences: Values, alternative: Alternative = "two-sided") -> float:
    """Return the p-value of Wilcoxon's signed-rank test of paired differences.

    Differences of zero carry no sign and are left out.

    Args:
        differences: New minus old, one per pair.
        alternative: "greater" asks whether the differences tend to be above zero.
    """
    values = _vector(differences)
    values = values[values != 0]
    n = values.size
    if n == 0:
        return 1.0
    ranks, ties = _ranks(np.abs(values))
    w = float(ranks[values > 0].sum())
    if n <= EXACT_PAIRS:
        # Mid-ranks are multiples of one half, so twice the ranks are whole numbers.
        doubled = tuple(sorted(int(r) for r in np.rint(2 * ranks)))
        return _exact_p(_signed_rank_counts(doubled), round(2 * w), alternative)
    variance = n * (n + 1) * (2 * n + 1) / 24 - float((ties**3 - ties).sum()) / 48
    return _normal_p(w, n * (n + 1) / 4, variance, alternative)


def mcnemar_p(lost: int, gained: int) -> float:
    """Return the two-sided p-value of McNemar's exact test.

    Args:
        lost: Pairs that were right before and are wrong now.
        gained: Pairs that were wrong before and are right now.
    """
    return min(1.0, 2 * binomial_tail(max(lost, gained), lost + gained))


def binomial_tail(successes: int, trials: int) -> float:
    """Return P(X >= successes) for X ~ Binomial(trials, 1/2), exactly rounded."""
    if successes <= 0:
        return 1.0
    term = tail = math.comb(trials, successes)
    for k in range(successes, trials):
        term = term * (trials - k) // (k + 1)
        tail += term
    return float(tail / (1 << trials))


@dataclass(frozen=True)
class NoiseFloor:
    """Relative differences in latency that noise alone explains on a machine.

    Attributes:
        separate: Between two runs at different times.
        interleaved: Between two sides timed by turns in one run.
    """

    separate: float
    interleaved: float


def noise_floor(runs: Sequence[tuple[Sequence[Values], Sequence[Values]]]) -> NoiseFloor:
    """Return the noise floor of a machine from A/A runs: one file, timed against itself.

    Both are what one A/A comparison in a hundred exceeds, in one direction. With the medians of
    whole runs m, ``separate`` is 2.33 sqrt(2) s(ln m), or what the drift inside the runs suggests
    when that is more; with the ratio r of the medians of a round's two sides, ``interleaved`` is
    2.33 standard errors of the median of ln r.

    Args:
        runs: For each fresh process the rounds of its first and of its second side; every round
            holds its samples.

    Raises:
        ValueError: There is no run, or one without rounds.
    """
    if not runs or any(len(a) != len(b) or not len(a) for a, b in runs):
        message = "the noise floor needs A/A runs with rounds on both sides"
        raise ValueError(message)
    flat = [np.concatenate([_vector(r) for side in run for r in side]) for run in runs]
    inside = math.sqrt(2) * max(drift(samples) for samples in flat)
    medians = np.log([float(np.median(samples)) for samples in flat])
    between = math.sqrt(2) * float(np.std(medians, ddof=1)) if len(runs) > 1 else 0.0
    ratios = np.concatenate(
        [
            [
                math.log(np.median(_vector(y)) / np.median(_vector(x)))
                for x, y in zip(a, b, strict=True)
            ]
            for a, b in runs
        ]
    )
    scale = 1.4826 * float(np.median(np.abs(ratios - np.median(ratios))))
    rounds = ratios.size / len(runs)
    return NoiseFloor(
        separate=ONE_PERCENT * max(inside, between),
        interleaved=ONE_PERCENT * math.sqrt(math.pi / 2) * scale / math.sqrt(rounds),
    )


def drift(samples: Values, blocks: int = 10) -> float:
    """Return the relative standard error of a run's median, drift and bursts included.

    The run is cut into blocks of consecutive samples; the spread of their medians counts what an
    error computed from all samples as if they were independent does not see.

    Args:
        samples: Positive timings, in time order.
        blocks: Number of blocks.
    """
    values = np.log(_vector(samples))
    count = min(blocks, values.size)
    if count < 2:
        return 0.0
    medians = [float(np.median(part)) for part in np.array_split(values, count)]
    return float(np.std(medians, ddof=1)) / math.sqrt(count)


def _vector(values: Values) -> npt.NDArray[np.float64]:
    return np.asarray(values, dtype=np.float64).ravel()


def _ranks(
    values: npt.NDArray[np.float64],
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Return mid-ranks from 1, and the sizes of the groups of equal values."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[inverse], counts[counts > 1]


def _rank_sum_counts(n: int, m: int) -> list[int]:
    """Return how many orderings of n and m values give each U from 0 to n*m.

    The generating function is the Gaussian binomial, prod (1 - q^(m+i)) / (1 - q^i), i = 1..n.
    """
    n, m = min(n, m), max(n, m)
    counts = [1] + [0] * (n * m)
    for i in range(1, n + 1):
        for u in range(n * m, m + i - 1, -1):
            counts[u] -= counts[u - m - i]
        for u in range(i, n * m + 1):
            counts[u] += counts[u - i]
    return counts


@lru_cache(maxsize=64)
def _signed_rank_counts(ranks: tuple[int, ...]) -> list[int]:
    """Return how many sign patterns give each sum of positive ranks."""
    # At most 2^60 patterns: they fit into 64-bit integers.
    counts = np.zeros(sum(ranks) + 1, dtype=np.int64)
    counts[0] = 1
    for rank in ranks:
        shifted = counts[: counts.size - rank].copy()
        counts[rank:] += shifted
    return [int(c) for c in counts]


def _exact_p(counts: list[int], statistic: int, alternative: Alternative) -> float:
    total = sum(counts)
    below, above = sum(counts[: statistic + 1]), sum(counts[statistic:])
    tails = {"less": below, "greater": above, "two-sided": min(total, 2 * min(below, above))}
    return tails[alternative] / total


def _normal_p(statistic: float, mean: float, variance: float, alternative: Alternative) -> float:
    """Return the normal tail with a continuity correction of one half."""
    if variance <= 0:
        return 1.0
    spread = math.sqrt(2 * variance)
    greater = 0.5 * math.erfc((statistic - mean - 0.5) / spread)
    less = 0.5 * math.erfc((mean - statistic - 0.5) / spread)
    return {"less": less, "greater": greater, "two-sided": min(1.0, 2 * min(less, greater))}[
        alternative
    ]
