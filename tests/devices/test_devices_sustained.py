"""Statistics of a sustained run against series whose answer is known."""

from __future__ import annotations

import random
from statistics import median

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sepdeploy.devices.sustained import sample_times, sustained
from sepdeploy.errors import Unstable
from sepdeploy.jobs import Clocked, Timed


def test_a_steady_device() -> None:
    times = [0.5 * k for k in range(1, 601)]
    found = sustained(times, [4.0] * 600)
    assert (found.first_ms, found.last_ms, found.ratio) == (4.0, 4.0, 1.0)
    assert found.slope_ms_per_minute == 0.0
    assert (found.seconds, found.samples) == (300.0, 600)


def test_a_line_with_outliers_keeps_its_slope() -> None:
    times = [0.1 * k for k in range(1, 3001)]  # five minutes
    noise = random.Random(3)
    samples = [10 + 2 * t / 60 + noise.gauss(0, 0.05) for t in times]
    for k in range(0, 3000, 17):
        samples[k] += 50  # what a daemon waking up does
    found = sustained(times, samples)
    assert found.slope_ms_per_minute == pytest.approx(2.0, rel=0.02)
    assert found.first_ms == pytest.approx(median(samples[:600]))
    assert found.last_ms == pytest.approx(19.0, abs=0.1)


def test_a_device_that_throttles_after_two_minutes() -> None:
    times = [1.0 * k for k in range(1, 301)]
    found = sustained(times, [5.0 if t < 120 else 8.0 for t in times])
    assert (found.first_ms, found.last_ms) == (5.0, 8.0)
    assert found.ratio == pytest.approx(1.6)
    assert found.slope_ms_per_minute > 0


def test_a_short_run_compares_its_halves() -> None:
    found = sustained([10.0, 20.0, 30.0, 40.0], [1.0, 1.0, 3.0, 3.0])
    assert (found.first_ms, found.last_ms) == (1.0, 3.0)


@pytest.mark.parametrize("n", [0, 1, 3])
def test_too_few_samples(n: int) -> None:
    with pytest.raises(Unstable, match=f"gave {n} samples"):
        sustained([float(k) for k in range(n)], [1.0] * n)


def test_the_times_follow_from_the_samples() -> None:
    models = (Timed("a", (1.0, 1.0), 100), Timed("b", (2.0, 2.0), 50))
    first, second = sample_times(Clocked(models, 2), 0.418)
    # 3 + 100, 6 + 100 | 6 + 100, 3 + 100 milliseconds: the order reverses
    assert first == pytest.approx((0.103, 0.418))
    assert second == pytest.approx((0.209, 0.315))


@given(st.lists(st.floats(0.1, 50), min_size=4, max_size=40), st.floats(1, 900))
def test_times_ascend_and_end_with_the_run(samples: list[float], seconds: float) -> None:
    (times,) = sample_times(Clocked((Timed("a", tuple(samples), 7),), len(samples)), seconds)
    assert list(times) == sorted(times)
    assert times[-1] == pytest.approx(seconds)
    assert min(samples) <= sustained(times, samples).last_ms <= max(samples)
