"""Descriptive statistics against closed forms and scipy."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sepdeploy.measure.summary import (
    Z95,
    median_interval,
    ratio_interval,
    summarize,
    wilson_interval,
)


def test_summary_of_a_known_series():
    found = summarize([5.0, 1.0, 2.0, 3.0, 4.0])
    assert (found.median, found.mad, found.n) == (3.0, 1.0, 5)
    assert found.p90 == pytest.approx(4.6)
    assert found.p99 == pytest.approx(4.96)
    assert found.interval == (1.0, 5.0)


def test_an_outlier_moves_neither_median_nor_mad():
    calm, struck = summarize([1.0, 2.0, 3.0, 4.0, 5.0]), summarize([1.0, 2.0, 3.0, 4.0, 5e9])
    assert (calm.median, calm.mad) == (struck.median, struck.mad)


@pytest.mark.parametrize("samples", [[], [math.nan], [1.0, math.inf]])
def test_a_summary_needs_finite_samples(samples):
    with pytest.raises(ValueError, match="at least one sample, all finite"):
        summarize(samples)


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=200))
def test_summaries_are_ordered(samples):
    found = summarize(samples)
    assert min(samples) <= found.interval[0] <= found.median <= found.interval[1] <= max(samples)
    assert found.median <= found.p90 <= found.p99 <= max(samples)
    assert found.mad >= 0


@given(st.lists(st.floats(1, 1e3), min_size=1, max_size=50), st.floats(0.1, 10))
def test_summaries_scale_with_the_unit(samples, factor):
    one, other = summarize(samples), summarize([s * factor for s in samples])
    for name in ("median", "mad", "p90", "p99"):
        assert getattr(other, name) == pytest.approx(getattr(one, name) * factor, abs=1e-9)


@pytest.mark.parametrize("n", [6, 10, 30, 101, 1999, 2001])
def test_the_median_interval_covers_as_the_binomial_says(n):
    """P(x_(k) <= median <= x_(n-k+1)) = 1 - 2 P(Bin(n, 1/2) < k), for any distribution."""
    low, high = median_interval(np.arange(1, n + 1, dtype=float))
    k = int(low)
    assert high == n - k + 1
    outside = 2 * sum(math.comb(n, i) for i in range(k)) / 2**n
    wider = outside + 2 * math.comb(n, k) / 2**n
    assert outside <= 0.05 + 1e-3 * (n > 2000)
    assert wider > 0.05 - 1e-3 * (n > 2000)


def test_the_median_interval_covers_the_median_of_a_skewed_distribution():
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(400):
        low, high = median_interval(rng.lognormal(size=40))
        hits += low <= 1.0 <= high  # the median of a standard log-normal is 1
    assert hits / 400 > 0.92


def test_small_samples_give_their_whole_range():
    assert median_interval([2.0]) == (2.0, 2.0)
    assert median_interval([3.0, 1.0, 2.0]) == (1.0, 3.0)


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_solves_its_equation(pair):
    """Both ends fulfil |p̂ − p| = z sqrt(p (1 − p) / n)."""
    successes, n = pair
    low, high = wilson_interval(successes, n)
    estimate = successes / n
    assert 0 <= low <= estimate <= high <= 1
    for end in (low, high):
        if 0 < end < 1:
            assert abs(estimate - end) == pytest.approx(
                Z95 * math.sqrt(end * (1 - end) / n), rel=1e-6, abs=1e-9
            )


@pytest.mark.parametrize(("successes", "n"), [(0, 10), (10, 10), (7, 10), (914, 1000), (1, 10000)])
def test_wilson_equals_scipy(successes, n):
    stats = pytest.importorskip("scipy.stats")
    interval = stats.binomtest(successes, n).proportion_ci(0.95, method="wilson")
    assert wilson_interval(successes, n) == pytest.approx((interval.low, interval.high), abs=1e-12)


@pytest.mark.parametrize(("successes", "n"), [(0, 0), (-1, 5), (6, 5)])
def test_wilson_refuses_what_is_no_proportion(successes, n):
    with pytest.raises(ValueError, match="0 <= successes <= n"):
        wilson_interval(successes, n)


def test_ratio_interval_contains_the_ratio_and_is_seeded():
    rng = np.random.default_rng(0)
    a, b = rng.normal(200, 5, 60), rng.normal(10, 0.2, 60)
    low, high = ratio_interval(a, b)
    assert low < np.median(a) / np.median(b) < high
    assert high - low < 1.5
    assert (low, high) == ratio_interval(a, b)


def test_what_slows_a_whole_round_does_not_widen_the_ratio():
    rng = np.random.default_rng(0)
    slow = rng.uniform(1, 10, 50)
    low, high = ratio_interval(20 * slow, slow)
    assert (low, high) == pytest.approx((20, 20))


def test_ratio_interval_needs_pairs():
    for a, b in (([1.0], [1.0, 2.0]), ([], [])):
        with pytest.raises(ValueError, match="same length"):
            ratio_interval(a, b)
