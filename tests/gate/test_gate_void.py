"""Numbers that a result itself calls void: never a pass, never a regression, always said."""

from __future__ import annotations

import json
from xml.etree import ElementTree as ET

import numpy as np
import pytest

from sepdeploy.errors import Unstable
from sepdeploy.gate import Outcome, check, make_baseline, parse_rules
from sepdeploy.records import Kind
from sepdeploy.reports import REPORTS, View, render
from sepdeploy.reports.check_terminal import verdict_table

UNRELIABLE = "unreliable: 7 of 1000 images have a zero or infinite gradient"
BUSY = "load 4.0 on 2 cores"


def times(median, seed=0):
    return np.random.default_rng(seed).normal(median, 0.02 * median, 150)


def by_turns(build, now, **details):
    old, new = (times(t, seed=k).reshape(30, 5) for k, t in enumerate((1.0, now)))
    return build.by_turns(old, new, **details)


def robust(build, right, **details):
    clean = build.outcomes(900, metric="clean_accuracy")
    return build.report(build.outcomes(right, **details), clean)


@pytest.mark.parametrize("right", [100, 700, 900])  # worse, equal, better
def test_a_robust_number_without_gradients_is_unstable_whatever_it_says(build, right):
    now = robust(build, right, unreliable=UNRELIABLE)
    verdict = check(now, make_baseline(robust(build, 700)))
    assert (verdict.verdict, verdict.exit_code) == ("unstable", 5)
    found = {i.metric: i for i in verdict.items}
    assert found["clean_accuracy"].verdict is Outcome.OK
    assert found["adversarial_accuracy"].verdict is Outcome.UNSTABLE
    assert found["adversarial_accuracy"].why.startswith(UNRELIABLE)


def test_a_robust_number_without_gradients_keeps_no_budget_and_enters_no_baseline(build):
    now = robust(build, 900, unreliable=UNRELIABLE)
    rules = parse_rules({"budgets": ["adversarial_accuracy >= 0.5"]})
    assert check(now, None, rules).exit_code == 5
    with pytest.raises(Unstable, match="7 of 1000 images") as caught:
        make_baseline(now)
    assert "--attack square@1000" in caught.value.hint


@pytest.mark.parametrize("now", [1.0, 1.5])
def test_rounds_by_turns_on_a_disturbed_machine_are_unstable(build, now):
    verdict = check(build.report(by_turns(build, now, disturbed=BUSY), device="host"), None)
    assert verdict.exit_code == 5
    assert verdict.items[0].why.startswith(f"disturbed: {BUSY}")


def test_a_disturbed_clock_of_a_device_is_unstable(build):
    calm, count = build.latency(times(5.0)), build.count("params", 3)
    disturbed = build.report(build.latency(times(5.0), disturbed=BUSY), count)
    assert check(disturbed, make_baseline(build.report(calm, count))).exit_code == 5
    with pytest.raises(Unstable, match=BUSY):
        make_baseline(disturbed)


def test_a_disturbed_clock_that_nobody_judges_is_said(build):
    report = build.report(
        build.latency(times(5.0), Kind.HOST, disturbed=BUSY), build.count("params", 3)
    )
    verdict = check(report, make_baseline(report))
    assert verdict.exit_code == 0
    assert BUSY in next(i.why for i in verdict.items if i.metric == "latency_ms")


def test_every_report_says_what_is_void(build):
    verdict = check(robust(build, 700, unreliable=UNRELIABLE), make_baseline(robust(build, 700)))
    pages = {name: render(name, verdict) for name in REPORTS} | {
        "table": str(verdict_table(verdict, View()))
    }
    assert all("7 of 1000 images" in page for page in pages.values())
    (error,) = ET.fromstring(pages["junit"]).iter("error")
    assert UNRELIABLE in str(error.attrib)
    (finding,) = json.loads(pages["sarif"])["runs"][0]["results"]
    assert (finding["level"], verdict.exit_code) == ("warning", 5)
