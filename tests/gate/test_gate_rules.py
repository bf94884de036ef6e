"""Each rule against closed forms, at and around its limits."""

from __future__ import annotations

import dataclasses
import doctest

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sepdeploy.errors import BadInput
from sepdeploy.gate import Outcome, check, make_baseline, parse_rules, wording
from sepdeploy.records import Kind

counts = st.integers(1, 10**12)


@pytest.mark.parametrize(
    "metric", ["params", "macs", "file_bytes", "factor_bytes", "resident_bytes"]
)
def test_one_unit_more_of_anything_counted_fails(build, judge, metric):
    assert judge(build.count(metric, 500), build.count(metric, 501)).verdict is Outcome.REGRESSION
    assert judge(build.count(metric, 500), build.count(metric, 500)).verdict is Outcome.OK
    assert judge(build.count(metric, 500), build.count(metric, 499)).verdict is Outcome.IMPROVED


def test_allowed_growth_passes_up_to_its_limit(build, judge):
    rules = parse_rules({"allow": {"file_bytes": "2%"}})
    old = build.count("file_bytes", 1000)
    assert judge(old, build.count("file_bytes", 1020), rules).verdict is Outcome.OK
    item = judge(old, build.count("file_bytes", 1021), rules)
    assert (item.verdict, item.limit) == (Outcome.REGRESSION, 1020)
    anything = parse_rules({"allow": ["file_bytes"]})
    item = judge(old, build.count("file_bytes", 10**9), anything)
    assert (item.verdict, item.limit) == (Outcome.OK, None)


def test_growth_from_zero_is_a_regression_with_a_finite_text(build, judge):
    item = judge(build.count("params", 0), build.count("params", 3))
    assert item.verdict is Outcome.REGRESSION
    assert "+3" in item.why


def test_the_layer_that_moved_most_is_named(build, judge):
    old = build.count("params", 300, layers={"fc1": 100, "fc2": 200})
    new = build.count("params", 310, layers={"fc1": 90, "fc2": 216, "fc3": 4})
    assert "layer fc2 (+16)" in judge(old, new).why
    grown = build.count("params", 350, layers={"fc1": 100, "fc2": 200, "head": 50})
    assert "layer head (new, +50)" in judge(old, grown).why


def instructions(build, value, **details):
    return build.count("instructions", value, Kind.EMULATED, **details)


@given(counts, st.floats(0.015, 3))
def test_one_and_a_half_percent_more_instructions_always_fail(build, judge, old, growth):
    new = int(np.ceil(old * (1 + growth)))
    assert judge(instructions(build, old), instructions(build, new)).verdict is Outcome.REGRESSION


@given(counts, st.floats(-0.9, 0.002))
def test_up_to_two_permille_more_instructions_never_fail(build, judge, old, growth):
    new = int(np.floor(old * (1 + growth)))
    verdict = judge(instructions(build, old), instructions(build, new)).verdict
    assert verdict in (Outcome.OK, Outcome.IMPROVED)


def test_instructions_between_the_limits_warn_and_name_the_layer(build, judge):
    old = instructions(build, 100_000, layers={"fc1": 60_000, "fc2": 40_000})
    new = instructions(build, 100_500, layers={"fc1": 60_000, "fc2": 40_500})
    item = judge(old, new)
    assert item.verdict is Outcome.WARNING
    assert "+0.5 %" in item.why
    assert "fc2 (+500)" in item.why
    at = judge(instructions(build, 100_000), instructions(build, 101_000))
    assert at.verdict is Outcome.WARNING
    over = judge(instructions(build, 100_000), instructions(build, 101_001))
    assert over.verdict is Outcome.REGRESSION


def test_a_lost_dot_path_fails_even_with_fewer_instructions(build, judge):
    old, new = instructions(build, 1000, dot=50), instructions(build, 900, dot=0)
    item = judge(old, new)
    assert item.verdict is Outcome.REGRESSION
    assert "dot" in item.why
    assert judge(instructions(build, 1000, dot=0), new).verdict is Outcome.IMPROVED
    assert judge(old, instructions(build, 1000, dot=49)).verdict is Outcome.OK
    # A count that does not say how many are dot products has not lost them.
    assert judge(old, instructions(build, 1000)).verdict is Outcome.OK


def test_a_count_that_did_not_repeat_is_unstable(build, judge):
    item = judge(
        instructions(build, 1000), instructions(build, 2000, unstable=True, reason="spread 3 %")
    )
    assert item.verdict is Outcome.UNSTABLE
    assert "spread 3 %" in item.why


def test_twenty_of_a_thousand_images_lost_and_none_gained_is_flagged(build, judge):
    item = judge(build.outcomes(700), build.outcomes(680))
    assert item.verdict is Outcome.REGRESSION
    assert "-2 points: 20 images lost, 0 gained of 1,000" in item.why
    assert item.limit == pytest.approx(0.69)


def test_exactly_one_point_is_allowed_and_one_image_more_is_not(build, judge):
    assert judge(build.outcomes(700), build.outcomes(690)).verdict is Outcome.WARNING
    assert judge(build.outcomes(700), build.outcomes(689)).verdict is Outcome.REGRESSION


def flipped(right: int, lost: int, gained: int, n: int = 1000) -> tuple[float, ...]:
    values = [1.0] * right + [0.0] * (n - right)
    values[:lost] = [0.0] * lost
    values[right : right + gained] = [1.0] * gained
    return tuple(values)


def test_a_loss_in_both_directions_needs_significance(build, judge):
    old = build.outcomes(500)
    # 70 lost and 50 gained: two points, but p = 0.083 by the exact test.
    noisy = build.outcomes(0, samples=flipped(500, 70, 50))
    item = judge(old, noisy)
    assert item.verdict is Outcome.WARNING
    assert "not significant" in item.why
    clear = build.outcomes(0, samples=flipped(500, 70, 30))
    assert judge(old, clear).verdict is Outcome.REGRESSION


def test_better_accuracy_is_seen(build, judge):
    assert judge(build.outcomes(500), build.outcomes(540)).verdict is Outcome.IMPROVED
    assert judge(build.outcomes(500), build.outcomes(502)).verdict is Outcome.OK
    unchanged = judge(build.outcomes(500), build.outcomes(500))
    assert unchanged.verdict is Outcome.OK
    assert unchanged.why.startswith("unchanged")


@pytest.mark.parametrize("metric", ["clean_accuracy", "adversarial_accuracy"])
def test_other_images_are_never_compared(build, judge, metric):
    old = build.outcomes(700, metric=metric)
    item = judge(old, build.outcomes(100, metric=metric, images_sha256="cd" * 32))
    assert item.verdict is Outcome.INCOMPARABLE
    assert "images differ" in item.why
    fewer = judge(old, build.outcomes(100, 500, metric=metric))
    assert fewer.verdict is Outcome.INCOMPARABLE
    assert "1000 images in the baseline, now 500" in fewer.why


def test_accuracy_without_outcomes_or_digest_is_not_compared(build, judge):
    old = build.outcomes(700, images_sha256=None)
    item = judge(old, build.outcomes(700, images_sha256=None))
    assert item.verdict is Outcome.INCOMPARABLE
    baseline = make_baseline(build.report(build.outcomes(700)))
    bare = build.count("adversarial_accuracy", 0.7, Kind.HOST, **build.outcomes(700).details)
    (item,) = check(build.report(bare), baseline).items
    assert item.verdict is Outcome.INCOMPARABLE
    assert "no outcomes per image" in item.why


def test_another_attack_is_another_number(build):
    baseline = make_baseline(build.report(build.outcomes(700)))
    verdict = check(build.report(build.outcomes(700, eps=0.2)), baseline)
    assert verdict.exit_code == 3
    assert any("eps=0.1" in i.why for i in verdict.items)
    seeded = make_baseline(build.report(build.outcomes(700, seed=0)))
    (item,) = check(build.report(build.outcomes(700, seed=1)), seeded).items
    assert item.verdict is Outcome.INCOMPARABLE
    assert "seed" in item.why


@pytest.mark.parametrize("kind", [Kind.HOST, Kind.EMULATED, Kind.MEASURED, Kind.MEASURED_EMULATOR])
def test_accuracy_is_judged_wherever_the_artifact_ran(build, judge, kind):
    item = judge(build.outcomes(700, kind=kind), build.outcomes(600, kind=kind))
    assert (item.verdict, item.kind) == (Outcome.REGRESSION, kind)


def samples(median, spread=0.01, n=400, seed=0):
    return median * np.exp(np.random.default_rng(seed).normal(0, spread, n))


def test_separate_runs_of_a_quiet_device(build, judge):
    old = build.latency(samples(5.0))
    slower = judge(old, build.latency(samples(5.75, seed=1)))
    assert slower.verdict is Outcome.REGRESSION
    assert "+15" in slower.why
    assert slower.limit == pytest.approx(5.5, rel=0.01)
    assert judge(old, build.latency(samples(5.4, seed=2))).verdict is Outcome.OK
    assert judge(old, build.latency(samples(4.0, seed=3))).verdict is Outcome.IMPROVED


def test_a_slowdown_of_disturbed_inferences_only_is_noise(build, judge):
    values = samples(5.0, seed=1)
    values[:300] *= np.random.default_rng(2).uniform(1.15, 1.4, 300)
    item = judge(
        build.latency(samples(5.0)), build.latency(np.random.default_rng(3).permutation(values))
    )
    assert item.verdict is Outcome.WARNING
    assert "only disturbed" in item.why


def test_thirty_samples_are_enough_of_a_quiet_device_and_fewer_are_not(build, judge):
    old = build.latency(samples(5.0, n=30))
    assert judge(old, build.latency(samples(6.0, n=30, seed=1))).verdict is Outcome.REGRESSION
    item = judge(old, build.latency(samples(6.0, n=29, seed=1)))
    assert item.verdict is Outcome.INCOMPARABLE
    assert "29 samples" in item.why


def test_a_latency_without_samples_in_the_result_is_not_compared(build):
    baseline = make_baseline(build.report(build.latency(samples(5.0))))
    bare = build.count("latency_ms", 5.0, Kind.MEASURED, batch=1)
    verdict = check(build.report(bare), baseline)
    assert verdict.exit_code == 3
    assert "0 samples" in verdict.items[0].why


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"value": 0.0, "samples": (0.0,)}, "is zero"),
        ({"value": 9.0}, "outside of its samples"),
        ({"samples": (1.0, float("nan"))}, "not finite"),
        ({"samples": (1.0, -1.0)}, "negative"),
        ({"details": {"interleaved": True}}, "no old_samples"),
        (
            {"details": {"interleaved": True, "rounds": 2, "old_samples": [1.0, "2"]}},
            "not positive",
        ),
        ({"details": {"interleaved": True, "rounds": 2, "old_samples": [1.0] * 3}}, "multiple"),
        ({"details": {"interleaved": True, "rounds": 0, "old_samples": [1.0]}}, "multiple"),
    ],
)
def test_latencies_that_cannot_be_are_refused(build, changes, match):
    broken = dataclasses.replace(build.latency([1.0, 1.1, 1.2]), **changes)
    with pytest.raises(BadInput, match=match):
        check(build.report(broken), None)


def test_a_dot_count_that_is_none_is_refused(build):
    with pytest.raises(BadInput, match="dot"):
        check(build.report(instructions(build, 100, dot="many")), None)


def test_examples_in_the_wording_hold():
    assert doctest.testmod(wording).failed == 0
    assert doctest.testmod(wording).attempted >= 4


def test_layers_that_only_shrank_are_not_blamed(build, judge):
    old = build.count("params", 300, layers={"fc1": 200})
    assert "layer" not in judge(old, build.count("params", 310, layers={"fc1": 190})).why


def test_a_slowdown_within_the_calibrated_noise_is_unstable(build):
    def report(value, seed):
        noise = build.count("noise_floor", 0.3, Kind.MEASURED, interleaved=0.05)
        return build.report(build.latency(samples(value, seed=seed)), noise)

    baseline = make_baseline(report(5.0, 0))
    verdict = check(report(5.8, 1), baseline)
    assert verdict.exit_code == 5
    assert [i.metric for i in verdict.items] == ["latency_ms"]
    verdict = check(report(7.0, 2), baseline)
    assert verdict.exit_code == 1
    quiet = check(report(5.0, 3), baseline)
    assert quiet.items[0].verdict is Outcome.WARNING
    assert "hides" in quiet.items[0].why


def test_a_throttled_device_is_unstable_not_slow(build):
    baseline = make_baseline(build.report(build.latency(samples(5.0))))
    slow = build.latency(samples(9.0, seed=1))
    hot = build.report(slow, device={"id": "rpi4", "throttled": True})
    assert check(hot, baseline).exit_code == 5
    marked = build.report(build.latency(samples(9.0), throttled=True, reason="0x50005"))
    verdict = check(marked, baseline)
    assert verdict.exit_code == 5
    assert "throttled: 0x50005" in verdict.items[0].why


def test_throttling_does_not_void_what_is_counted(build):
    old = build.count("file_bytes", 10)
    baseline = make_baseline(build.report(old))
    hot = build.report(old, device={"id": "rpi4", "throttled": True})
    assert check(hot, baseline).exit_code == 0


def rounds(median, count=30, per=5, seed=0):
    return samples(median, n=count * per, seed=seed).reshape(count, per)


def test_interleaved_rounds_are_judged_without_a_baseline(build):
    slower = build.report(build.by_turns(rounds(1.0), rounds(1.08, seed=1)), device="host")
    verdict = check(slower, None)
    assert verdict.exit_code == 1
    assert verdict.items[0].kind is Kind.HOST
    assert "+7.96 % in 30 interleaved rounds" in verdict.items[0].why
    fine = build.report(build.by_turns(rounds(1.0), rounds(1.03, seed=1)), device="host")
    assert check(fine, None).exit_code == 0
    faster = build.report(build.by_turns(rounds(1.0), rounds(0.8, seed=1)), device="host")
    assert check(faster, None).items[0].verdict is Outcome.IMPROVED


def test_few_interleaved_rounds_are_not_compared(build):
    few = build.by_turns(rounds(1.0, count=9), rounds(2.0, count=9, seed=1))
    verdict = check(build.report(few), None)
    assert verdict.exit_code == 3
    assert "9 rounds" in verdict.items[0].why


def test_interleaved_rounds_within_the_noise_floor_are_unstable(build):
    noise = build.count("noise_floor", 0.3, Kind.HOST, interleaved=0.12)
    report = build.report(build.by_turns(rounds(1.0), rounds(1.08, seed=1)), noise)
    assert check(report, None).exit_code == 5
    marked = build.by_turns(rounds(1.0), rounds(1.5), unstable=True)
    assert check(build.report(marked), None).exit_code == 5


def test_drift_that_hits_both_sides_of_a_round_does_not_matter(build):
    drift = np.linspace(1.0, 1.6, 30)[:, None]
    old, new = rounds(1.0) * drift, rounds(1.0, seed=1) * drift
    assert check(build.report(build.by_turns(old, new)), None).exit_code == 0
