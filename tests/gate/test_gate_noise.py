"""False alarms and power, simulated from timings that were recorded on a noisy machine.

`noisy_timings.json` says how it was recorded. "shared" is the noise of an ordinary shared
machine, "busy" that of an overloaded one.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from sepdeploy.gate import Outcome, Rules
from sepdeploy.gate.latency import judge_interleaved, judge_separate
from sepdeploy.measure.statistics import drift, noise_floor
from sepdeploy.records import Kind

RECORDED = json.loads(Path(__file__).with_name("noisy_timings.json").read_text(encoding="utf-8"))
PER_ROUND = RECORDED["per_round"]
TRACES = {
    name: [np.array(trace, float).reshape(-1, PER_ROUND) / 1000 for trace in traces]
    for name, traces in RECORDED["traces"].items()
}
MACHINES = ["shared", pytest.param("busy", marks=pytest.mark.slow)]
RULES = Rules()
RUNS = 1000
SEPARATE_ROUNDS = 60  # of ten inferences each


def rates(outcomes):
    return {o: outcomes.count(o) / len(outcomes) for o in Outcome}


def interleaved(build, traces, slowdown, *, runs=RUNS, calibrate=False, seed=0):
    """Old and new by turns, 30 rounds each, from one stretch of one process."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(runs):
        trace = traces[rng.integers(len(traces))]
        start, first = rng.integers(len(trace) - 59), rng.integers(2)
        stretch = trace[start : start + 60]
        new = build.by_turns(stretch[first::2], stretch[1 - first :: 2] * slowdown)
        rest = np.concatenate([trace[:start], trace[start + 60 :]])[:60]
        floor = noise_floor([(rest[::2], rest[1::2])]).interleaved if calibrate else 0.0
        found.append(judge_interleaved(new, RULES, floor).outcome)
    return rates(found)


def separate(build, traces, slowdown, *, runs=RUNS, floor=0.0, seed=0):
    """Baseline and result from two processes."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(runs):
        pair = rng.choice(len(traces), 2, replace=False)
        starts = rng.integers(len(traces[0]) - SEPARATE_ROUNDS + 1, size=2)
        old, new = (
            traces[i][s : s + SEPARATE_ROUNDS].ravel() for i, s in zip(pair, starts, strict=True)
        )
        finding = judge_separate(build.latency(old), build.latency(new * slowdown), RULES, floor)
        found.append(finding.outcome)
    return rates(found)


@pytest.mark.slow
@pytest.mark.parametrize("machine", MACHINES)
def test_a_thousand_equal_runs_by_turns_raise_at_most_one_percent_false_alarms(build, machine):
    assert interleaved(build, TRACES[machine], 1.0)[Outcome.REGRESSION] <= 0.01


@pytest.mark.slow
@pytest.mark.parametrize("machine", MACHINES)
def test_a_thousand_equal_separate_runs_raise_at_most_one_percent_false_alarms(build, machine):
    found = separate(build, TRACES[machine], 1.0)
    assert found[Outcome.REGRESSION] <= 0.01
    assert found[Outcome.UNSTABLE] <= (0.01 if machine == "shared" else 0.06)


@pytest.mark.slow
@pytest.mark.parametrize("calibrate", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_ten_percent_slower_is_caught_in_thirty_interleaved_rounds(build, calibrate):
    found = interleaved(build, TRACES["shared"], 1.10, calibrate=calibrate, runs=600)
    assert found[Outcome.REGRESSION] >= 0.95


@pytest.mark.slow
def test_ten_percent_slower_on_an_overloaded_machine_is_mostly_caught(build):
    assert interleaved(build, TRACES["busy"], 1.10, runs=400)[Outcome.REGRESSION] >= 0.75


@pytest.mark.slow
def test_twenty_percent_slower_is_caught_by_separate_runs(build):
    found = separate(build, TRACES["shared"], 1.20)
    assert found[Outcome.REGRESSION] >= 0.95


@pytest.mark.slow
def test_twenty_percent_slower_on_an_overloaded_machine_never_passes_as_fine(build):
    found = separate(build, TRACES["busy"], 1.20, runs=400)
    assert found[Outcome.REGRESSION] + found[Outcome.UNSTABLE] + found[Outcome.WARNING] >= 0.85


def test_faster_is_never_a_regression_and_usually_seen(build):
    found = interleaved(build, TRACES["shared"], 0.85, runs=200)
    assert found[Outcome.REGRESSION] == found[Outcome.UNSTABLE] == 0
    assert found[Outcome.IMPROVED] >= 0.95


def test_noise_floor_bounds_what_equal_runs_differ_by():
    for traces in TRACES.values():
        floor = noise_floor([(t[::2], t[1::2]) for t in traces])
        medians = [float(np.median(t)) for t in traces]
        worst = max(medians) / min(medians) - 1
        assert floor.separate > worst / 2
        assert 0.005 < floor.interleaved < 0.2
    quiet = noise_floor([(t[::2], t[1::2]) for t in TRACES["shared"]])
    busy = noise_floor([(t[::2], t[1::2]) for t in TRACES["busy"]])
    assert quiet.interleaved < busy.interleaved


def test_noise_floor_of_a_perfect_clock_is_zero():
    rounds = [[1.0, 1.0]] * 10
    floor = noise_floor([(rounds, rounds), (rounds, rounds)])
    assert floor.separate == floor.interleaved == 0
    with pytest.raises(ValueError, match="A/A runs"):
        noise_floor([])
    with pytest.raises(ValueError, match="A/A runs"):
        noise_floor([(rounds, rounds[1:])])


def test_drift_of_independent_samples_is_the_error_of_their_median():
    rng = np.random.default_rng(5)
    errors = [drift(np.exp(rng.normal(0, 0.02, 1000))) for _ in range(300)]
    # The median of n normal values has the standard error 1.2533 sigma / sqrt(n).
    assert np.mean(errors) == pytest.approx(1.2533 * 0.02 / np.sqrt(1000), rel=0.1)
    assert drift([1.0]) == 0.0


def test_drift_sees_what_independence_would_hide():
    trend = np.linspace(1.0, 1.2, 1000)
    assert drift(trend) > 5 * 1.2533 * np.std(np.log(trend)) / np.sqrt(1000) / 3


def test_kinds_of_the_simulation_are_the_ones_that_are_gated(build):
    assert build.latency([1.0]).kind is Kind.MEASURED
    assert build.by_turns([[1.0]], [[1.0]]).kind is Kind.HOST
