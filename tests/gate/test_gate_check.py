"""What is compared with what, and the verdict over all of it."""

from __future__ import annotations

import itertools
import subprocess
import sys

import numpy as np
import pytest

from sepdeploy.codec import dump
from sepdeploy.errors import BadInput
from sepdeploy.gate import Outcome, Verdict, check, load_rules, make_baseline, parse_rules
from sepdeploy.gate.verdict import Finding, conclude
from sepdeploy.records import BenchReport, Kind


def size(build, value=100):
    return build.count("file_bytes", value)


def counted(build, value=100):
    return build.count("instructions", value, Kind.EMULATED)


def only(verdict: Verdict):
    assert len(verdict.items) == 1
    return verdict.items[0]


def test_equal_results_pass(build):
    report = build.report(size(build), counted(build), build.outcomes(700))
    verdict = check(report, make_baseline(report))
    assert (verdict.verdict, verdict.exit_code) == (Outcome.OK, 0)
    assert {i.verdict for i in verdict.items} == {Outcome.OK}


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        ({"version": "1.32.0"}, "runtime version 1.32.0, baseline 1.31.1"),
        ({"precision": "dynamic"}, "precision dynamic, baseline none"),
        ({"threads": 4}, "with 1 threads only"),
        ({"runtime": "litert"}, "in onnxruntime only"),
        ({"device": "rpi5"}, "on rpi4 only"),
        ({"device": {"id": "rpi4", "profile_sha256": "ee"}}, "device profile changed"),
        ({"artifact": "demo/other.onnx"}, "the artifact is not in the baseline"),
    ],
)
def test_another_world_is_incomparable_with_the_reason(build, names, reason):
    baseline = make_baseline(build.report(size(build)))
    verdict = check(build.report(size(build, 999), **names), baseline)
    assert (verdict.verdict, verdict.exit_code) == (Outcome.INCOMPARABLE, 3)
    assert any(reason in i.why for i in verdict.items)


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("version", "10.0", "emulator qemu-aarch64 10.0 plugin 1, baseline qemu-aarch64 7.2.22"),
        ("plugin", 2, "plugin 2"),
        ("libc", "2.41", "libc 2.41, baseline 2.36"),
    ],
)
def test_another_emulator_is_incomparable_for_what_was_emulated_only(build, field, value, reason):
    old = {"id": "rpi4", "emulator": build.qemu}
    new = {"id": "rpi4", "emulator": build.qemu | {field: value}}
    baseline = make_baseline(build.report(size(build), counted(build), device=old))
    verdict = check(build.report(size(build), counted(build), device=new), baseline)
    assert verdict.exit_code == 3
    outcomes = {i.metric: i for i in verdict.items}
    assert outcomes["file_bytes"].verdict is Outcome.OK
    assert reason in outcomes["instructions"].why


def test_the_folder_of_an_artifact_does_not_matter(build):
    baseline = make_baseline(build.report(size(build), artifact="/build/1/kron.onnx"))
    assert check(build.report(size(build), artifact="out/kron.onnx"), baseline).exit_code == 0


@pytest.mark.parametrize(("old", "new"), list(itertools.permutations(list(Kind)[1:], 2)))
def test_kinds_are_never_compared(build, old, new):
    baseline = make_baseline(build.report(build.outcomes(900, kind=old)))
    verdict = check(build.report(build.outcomes(100, kind=new)), baseline)
    assert verdict.exit_code == 3
    assert all(i.verdict in (Outcome.INCOMPARABLE, Outcome.REPORTED) for i in verdict.items)


@pytest.mark.parametrize("kind", [Kind.HOST, Kind.ESTIMATED, Kind.MEASURED_EMULATOR])
def test_clocks_that_prove_nothing_are_reported_only(build, kind):
    baseline = make_baseline(build.report(size(build), build.latency([1.0] * 50, kind)))
    verdict = check(build.report(size(build), build.latency([9.0] * 50, kind)), baseline)
    assert verdict.exit_code == 0
    assert {i.metric: i.verdict for i in verdict.items}["latency_ms"] is Outcome.REPORTED


def test_estimates_never_gate(build):
    values = [
        build.count(m, 5, Kind.ESTIMATED) for m in ("instructions", "params", "peak_rss_bytes")
    ]
    worse = [build.count(m.metric, 50, Kind.ESTIMATED) for m in values]
    verdict = check(build.report(*worse), make_baseline(build.report(*values)))
    assert verdict.exit_code == 3
    assert any("nothing was measured" in i.why for i in verdict.items)


def test_nothing_measured_is_never_a_pass(build):
    baseline = make_baseline(build.report(size(build)))
    for report in (
        BenchReport({}, {}, ()),
        build.report(),
        build.report(build.count("file_bytes", None, reason="the file vanished")),
        build.report(build.latency([1.0], Kind.HOST)),
    ):
        verdict = check(report, baseline)
        assert (verdict.verdict, verdict.exit_code) == (Outcome.INCOMPARABLE, 3)
        assert verdict.items
    assert check(BenchReport({}, {}, ()), None).exit_code == 3


def test_a_metric_that_was_not_taken_is_incomparable_with_its_reason(build):
    baseline = make_baseline(build.report(size(build), counted(build)))
    missing = build.count("instructions", None, Kind.EMULATED, reason="qemu is not installed")
    verdict = check(build.report(size(build), missing), baseline)
    assert verdict.exit_code == 3
    assert "qemu is not installed" in verdict.items[-1].why
    verdict = check(build.report(size(build)), baseline)
    assert verdict.exit_code == 3
    assert "not measured now" in verdict.items[-1].why


def test_an_artifact_that_vanished_from_a_device_does_not_pass(build):
    both = BenchReport(
        {}, {}, (build.result(size(build)), build.result(size(build), artifact="b.onnx"))
    )
    verdict = check(build.report(size(build)), make_baseline(both))
    assert verdict.exit_code == 3
    assert [(i.artifact, i.verdict) for i in verdict.items] == [
        ("b.onnx", Outcome.INCOMPARABLE),
        ("kron.onnx", Outcome.OK),
    ]


def test_devices_of_other_jobs_are_reported_only(build):
    both = BenchReport({}, {}, tuple(build.result(size(build), device=d) for d in ("rpi4", "rpi5")))
    verdict = check(build.report(size(build)), make_baseline(both))
    assert verdict.exit_code == 0
    assert {i.device: i.verdict for i in verdict.items} == {
        "rpi4": Outcome.OK,
        "rpi5": Outcome.REPORTED,
    }


def test_new_artifacts_can_be_let_through(build):
    baseline = make_baseline(build.report(size(build)))
    both = BenchReport(
        {}, {}, (build.result(size(build)), build.result(size(build), artifact="new.onnx"))
    )
    assert check(both, baseline).exit_code == 3
    assert check(both, baseline, parse_rules({"new": "reported"})).exit_code == 0
    more = build.report(size(build), build.count("macs", 7))
    assert check(more, baseline).exit_code == 3
    assert check(more, baseline, parse_rules({"new": "reported"})).exit_code == 0


def test_ignored_things_are_not_judged(build):
    baseline = make_baseline(build.report(size(build), build.count("macs", 5)))
    worse = build.report(size(build, 200), build.count("macs", 5))
    assert check(worse, baseline).exit_code == 1
    assert check(worse, baseline, parse_rules({"ignore": ["metric=file_bytes"]})).exit_code == 0
    other = parse_rules({"ignore": ["metric=file_bytes, device=rpi5"]})
    assert check(worse, baseline, other).exit_code == 1
    everything = check(worse, baseline, parse_rules({"ignore": ["artifact=kron.*"]}))
    assert everything.exit_code == 3


def findings(*outcomes):
    return [Finding(o, "why").about("m", "a", "d", Kind.STATIC) for o in outcomes]


@pytest.mark.parametrize("size_", range(1, 4))
def test_precedence_of_every_mixture(size_):
    codes = {Outcome.REGRESSION: 1, Outcome.UNSTABLE: 5, Outcome.INCOMPARABLE: 3}
    for mixture in itertools.product(Outcome, repeat=size_):
        verdict = conclude(findings(*mixture))
        worst = next((codes[o] for o in codes if o in mixture), None)
        if worst is None:
            worst = 3 if set(mixture) == {Outcome.REPORTED} else 0
        assert verdict.exit_code == worst
        assert verdict.verdict in ("ok", "regression", "incomparable", "unstable")


def test_check_changes_nothing_and_repeats_itself(build):
    results = tuple(
        build.result(size(build, n), build.outcomes(n), artifact=f"{n}.onnx") for n in (3, 1, 2)
    )
    report = BenchReport({}, {}, results)
    baseline = make_baseline(report)
    before = dump(report), dump(baseline)
    first = dump(check(report, baseline))
    backwards = BenchReport({}, {}, results[::-1])
    assert first == dump(check(report, baseline)) == dump(check(backwards, baseline))
    assert before == (dump(report), dump(baseline))


def test_the_json_has_the_stable_keys(build):
    report = build.report(size(build))
    from sepdeploy.codec import to_json

    document = to_json(check(report, make_baseline(report)))
    assert list(document) == ["schema", "verdict", "exit_code", "items"]
    assert document["schema"] == "sepdeploy.check/1"
    written = "metric artifact device kind baseline current limit verdict why"
    assert list(document["items"][0]) == written.split()  # in this order: people read it


def test_nan_in_a_result_is_refused(build):
    baseline = make_baseline(build.report(size(build)))
    with pytest.raises(BadInput, match="file_bytes is nan"):
        check(build.report(size(build, float("nan"))), baseline)


def test_two_results_of_one_name_are_refused(build):
    twice = BenchReport({}, {}, (build.result(size(build)), build.result(size(build))))
    with pytest.raises(BadInput, match="occurs twice"):
        check(twice, None)
    with pytest.raises(BadInput, match="file_bytes occurs twice"):
        check(build.report(size(build), size(build)), None)


def test_several_batches_and_attacks_stand_side_by_side(build):
    report = build.report(
        build.latency([1.0] * 50),
        build.latency([9.0] * 50, batch=32),
        build.outcomes(700),
        build.outcomes(600, eps=0.2),
        build.outcomes(650, attack="fgsm", steps=1),
    )
    verdict = check(report, make_baseline(report))
    assert verdict.exit_code == 0
    assert len(verdict.items) == 5


def test_what_holds_in_several_runtimes_is_said_once(build):
    def report(value):
        return BenchReport(
            {},
            {},
            tuple(
                build.result(size(build, value), runtime=r, version=v, artifact="kron.tflite")
                for r, v in (("litert", "2.3.0"), ("tflite-runtime", "2.14.0"))
            ),
        )

    found = only(check(report(101), make_baseline(report(100))))
    assert found.verdict is Outcome.REGRESSION
    assert found.why.endswith("[litert 2.3.0; tflite-runtime 2.14.0]")
    rules = parse_rules({"budgets": ["file_bytes <= 100"]})
    assert len(check(report(101), None, rules).items) == 1


def test_interleaved_latency_replaces_the_separate_one(build):
    samples = np.full((30, 10), 2.0)
    baseline = make_baseline(build.report(build.latency(samples.ravel())))
    report = build.report(build.by_turns(samples, samples, Kind.MEASURED))
    item = only(check(report, baseline))
    assert item.verdict is Outcome.OK
    assert "interleaved" in item.why


def test_a_large_check_takes_less_than_a_second(build):
    rng = np.random.default_rng(0)
    outcomes = tuple(float(v) for v in rng.integers(0, 2, 10_000))
    results = tuple(
        build.result(
            size(build),
            counted(build),
            build.latency(rng.normal(5, 0.05, 1000)),
            build.outcomes(0, samples=outcomes),
            build.by_turns(rng.normal(5, 0.05, (30, 10)), rng.normal(5, 0.05, (30, 10))),
            artifact=f"{n}.onnx",
        )
        for n in range(10)
    )
    report = BenchReport({}, {}, results)
    baseline = make_baseline(report)
    assert check(report, baseline).exit_code == 0


def test_the_gate_needs_neither_torch_nor_a_runtime_nor_rich():
    code = (
        "import sys, sepdeploy.gate, sepdeploy.reports, sepdeploy.reports.sarif, "
        "sepdeploy.reports.junit, sepdeploy.reports.markdown, sepdeploy.reports.annotations; "
        "heavy = {'torch', 'onnxruntime', 'tflite_runtime', 'ai_edge_litert', 'rich', 'typer'}; "
        "sys.exit(', '.join(heavy & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_rules_without_a_file_are_the_defaults(tmp_path):
    assert load_rules(None, tmp_path) == parse_rules({})
