"""Absolute limits, and the kinds that cannot support them."""

from __future__ import annotations

import numpy as np
import pytest

from sepdeploy.gate import Outcome, check, parse_budget, parse_rules
from sepdeploy.metrics import METRICS
from sepdeploy.records import BenchReport, Kind


def judged(report, *budgets):
    return check(report, None, parse_rules({"budgets": list(budgets)}))


def test_budgets_on_what_is_counted(build):
    report = build.report(build.count("file_bytes", 500_000))
    assert judged(report, "file_bytes <= 500_000").exit_code == 0
    verdict = judged(report, "file_bytes <= 499_999")
    assert verdict.exit_code == 1
    (item,) = verdict.items
    assert (item.current, item.limit, item.baseline) == (500_000, 499_999, None)
    assert "budget file_bytes <= 499,999" in item.why


def test_budgets_on_accuracy(build):
    report = build.report(build.outcomes(450))
    assert judged(report, "adversarial_accuracy >= 0.45").exit_code == 0
    assert judged(report, "adversarial_accuracy >= 0.451").exit_code == 1


@pytest.mark.parametrize("kind", [Kind.HOST, Kind.EMULATED, Kind.ESTIMATED, Kind.MEASURED_EMULATOR])
def test_milliseconds_are_held_against_a_real_device_only(build, kind):
    verdict = judged(build.report(build.latency([5.0] * 50, kind)), "latency_ms <= 20")
    assert verdict.exit_code == 3
    assert f"needs kind MEASURED, found {kind} only" in verdict.items[-1].why
    verdict = judged(build.report(build.latency([500.0] * 50, kind)), "latency_ms <= 20")
    assert verdict.exit_code == 3


def test_a_latency_budget_is_not_broken_by_noise(build):
    rng = np.random.default_rng(0)
    near = build.report(build.latency(rng.normal(20.05, 2.0, 100)))
    assert judged(near, "latency_ms <= 20").items[0].verdict in (Outcome.OK, Outcome.WARNING)
    over = build.report(build.latency(rng.normal(22.0, 2.0, 100)))
    assert judged(over, "latency_ms <= 20").exit_code == 1
    hot = build.report(build.latency(rng.normal(22.0, 2.0, 100), throttled=True))
    assert judged(hot, "latency_ms <= 20").exit_code == 5


def test_a_budget_for_nothing_is_no_pass(build):
    report = build.report(build.count("params", 3))
    assert judged(report, "params <= 5").exit_code == 0
    verdict = judged(report, "params <= 5", "file_bytes <= 5")
    assert verdict.exit_code == 3
    assert "nothing was measured" in verdict.items[-1].why + verdict.items[0].why
    verdict = judged(report, {"rule": "params <= 5", "artifact": "other.*"})
    assert verdict.exit_code == 3
    assert "nothing matches" in verdict.items[0].why
    empty = build.report(build.count("params", None))
    assert judged(empty, "params <= 5").exit_code == 3


def test_patterns_choose_artifacts_and_devices(build):
    report = BenchReport(
        {},
        {},
        (
            build.result(build.count("params", 10), artifact="dense.onnx"),
            build.result(build.count("params", 1), artifact="kron.onnx"),
            build.result(build.count("params", 20), artifact="kron.onnx", device="rpi5"),
        ),
    )
    assert judged(report, "params <= 5").exit_code == 1
    assert (
        judged(report, {"rule": "params <= 5", "artifact": "kron.*", "device": "rpi4"}).exit_code
        == 0
    )
    assert judged(report, {"rule": "params <= 5", "device": "rpi5"}).exit_code == 1


def test_one_artifact_with_the_right_kind_does_not_excuse_another(build):
    report = BenchReport(
        {},
        {},
        (
            build.result(build.latency([5.0] * 50), artifact="a.onnx"),
            build.result(build.latency([5.0] * 50, Kind.HOST), artifact="b.onnx"),
        ),
    )
    assert judged(report, "latency_ms <= 20").exit_code == 3


def test_a_weaker_kind_beside_the_right_one_is_left_alone(build):
    report = build.report(build.latency([5.0] * 50), build.latency([50.0] * 50, Kind.HOST))
    verdict = judged(report, "latency_ms <= 20")
    assert verdict.exit_code == 0
    assert [i.kind for i in verdict.items] == [Kind.MEASURED]


@pytest.mark.parametrize("metric", METRICS)
def test_every_metric_of_a_report_can_have_a_budget(metric):
    assert parse_budget(f"{metric} <= 1e6").limit == 1e6
    assert METRICS[metric].budget <= METRICS[metric].kinds - {Kind.ESTIMATED}
