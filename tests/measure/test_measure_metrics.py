"""Latency, memory, accuracy and host facts of real artifacts."""

import json

import numpy as np
import onnx
import pytest
from measure_models import matmul_model

from sepdeploy import measure, runtimes
from sepdeploy.codec import to_json
from sepdeploy.errors import BadInput
from sepdeploy.gate import evidence
from sepdeploy.measure import accuracy, host
from sepdeploy.measure.latency import latency_pair
from sepdeploy.records import Kind
from sepdeploy.threat import Attack
from sepdeploy.workflows.bench.judging import JudgingSet
from sepdeploy.workflows.bench.measuring import Task, measure_at
from sepdeploy.workflows.bench.options import BenchOptions
from sepdeploy.workflows.bench.places import HostPlace

QUICK = {"min_rounds": 4, "min_seconds": 0.0, "block_us": 50.0}


# --- latency


def test_latency_and_its_ratio_to_dense(tmp_path):
    small = matmul_model(tmp_path / "small.onnx", 64, 8)
    large = matmul_model(tmp_path / "large.onnx", 64, 65536)
    timing = measure.Timing(batch=2, samples_per_round=2, **QUICK)
    times = measure.time_models({"artifact": small, "dense": large}, "onnxruntime", timing)
    own, ratio = latency_pair(times, timing, Kind.HOST)
    assert (own.metric, own.unit, own.kind, own.n) == ("latency_ms", "ms", Kind.HOST, 8)
    assert own.value == pytest.approx(np.percentile(own.samples, 10))
    assert own.details["median"] == pytest.approx(np.median(own.samples))
    assert own.details["batch"] == 2
    assert own.details["rounds"] == 4
    assert own.details["p90"] <= own.details["p99"]
    assert own.ci[0] <= own.value <= own.ci[1]
    assert ratio.metric == "latency_vs_dense"
    assert ratio.value == pytest.approx(ratio.details["dense_ms"] / own.value)
    assert ratio.value > 3  # 8192 times the work
    for measurement in (own, ratio):
        json.dumps(to_json(measurement), allow_nan=False)
        evidence.validate(measurement, "test")


def test_without_a_dense_form_the_reason_stands_there(artifacts):
    timing = measure.Timing(**QUICK)
    times = measure.time_models({"artifact": artifacts["onnx"]}, "onnxruntime", timing)
    own, ratio = latency_pair(times, timing, Kind.HOST, why_no_dense="the file is dense itself")
    assert own.kind is Kind.HOST
    assert ratio.value is None
    assert ratio.details["reason"] == "the file is dense itself"


def test_old_and_new_in_turns_are_what_the_gate_reads(runtime_and_path):
    runtime, path = runtime_and_path
    timing = measure.Timing(samples_per_round=3, **QUICK)
    found = measure.compare_latency(path, path, runtime, timing=timing)
    assert evidence.is_interleaved(found)
    evidence.validate(found, "test")
    old, new = evidence.rounds_of(found, "test")
    assert len(old) == len(new) == 4
    assert all(len(r) == 3 for r in (*old, *new))
    assert found.details["against"]["path"] == path.name
    assert found.value == pytest.approx(np.percentile(found.details["new_samples"], 10))


def test_models_of_different_inputs_cannot_be_timed_together(tmp_path, artifacts):
    other = matmul_model(tmp_path / "other.onnx", 64, 8)
    with pytest.raises(BadInput, match="different inputs"):
        measure.compare_latency(artifacts["onnx"], other, "onnxruntime")


@pytest.mark.parametrize("field", ["batch", "threads", "min_rounds", "samples_per_round"])
def test_timing_needs_positive_counts(field):
    with pytest.raises(BadInput, match="at least 1"):
        measure.Timing(**{field: 0})
    with pytest.raises(BadInput, match="at least 1"):
        measure.Timing(warmup=-1)


# --- memory


def test_memory_of_an_artifact(runtime_and_path):
    runtime, path = runtime_and_path
    peak, load = measure.measure_memory(path, runtime, repeats=2, batch=3)
    assert (peak.metric, peak.unit, peak.kind, peak.n) == ("peak_rss_bytes", "bytes", Kind.HOST, 2)
    assert peak.value in peak.samples
    assert peak.value >= peak.details["before_bytes"] > 10 << 20
    assert (load.metric, load.unit, load.n) == ("load_ms", "ms", 2)
    assert load.value == pytest.approx(np.median(load.samples))
    for measurement in (peak, load):
        json.dumps(to_json(measurement), allow_nan=False)
        evidence.validate(measurement, "test")


def test_a_larger_model_takes_more_memory(tmp_path):
    small = matmul_model(tmp_path / "small.onnx", 64, 8)
    large = matmul_model(tmp_path / "large.onnx", 1000, 8000)  # 32 MB
    peaks = [measure.measure_memory(p, "onnxruntime", repeats=1)[0].value for p in (small, large)]
    assert peaks[1] - peaks[0] > 30e6


# --- accuracy


class Judge(HostPlace):
    """This machine, where nothing is timed."""

    modes = frozenset({"run"})


def judged(path, runtime, images, labels, moved=None, attack=None):
    ids = np.arange(len(images))
    faces = JudgingSet(images, labels, ids, "x", "data", moved, attack)
    task = Task(path, runtime, (faces,), None, "", BenchOptions())
    return {m.metric: m for m in measure_at(Judge(), task)[0]}


def test_accuracy_is_counted_image_by_image(runtime_and_path, network, images):
    runtime, path = runtime_and_path
    predicted = network.logits(images).argmax(axis=1)
    labels = predicted.copy()
    wrong = [0, 5, 31]
    labels[wrong] = (labels[wrong] + 1) % 10
    found = judged(path, runtime, images, labels)["clean_accuracy"]
    assert (found.metric, found.unit, found.kind) == ("clean_accuracy", "fraction", Kind.HOST)
    assert found.value == pytest.approx(29 / 32)
    assert [i for i, s in enumerate(found.samples) if s == 0] == wrong
    assert found.n == 32
    assert found.ci[0] < found.value < found.ci[1]
    assert found.details["data"] == "x"
    assert found.details["images_sha256"] == measure.images_digest(images, labels)
    evidence.validate(found, "test")


def test_eps_zero_is_exactly_clean_accuracy(artifacts, network, images):
    labels = network.logits(images).argmax(axis=1)
    labels[:4] = (labels[:4] + 1) % 10
    clean = judged(artifacts["onnx"], "onnxruntime", images, labels)["clean_accuracy"]
    adversarial = judged(
        artifacts["onnx"], "onnxruntime", images, labels, images.copy(), Attack("pgd-40", 0.0)
    )["adversarial_accuracy"]
    assert adversarial.value == clean.value
    assert adversarial.samples == clean.samples
    assert adversarial.details["images_sha256"] == clean.details["images_sha256"]


def test_adversarial_accuracy_judges_the_examples(artifacts, network, images):
    labels = network.logits(images).argmax(axis=1)
    rng = np.random.default_rng(0)
    moved = np.clip(images + rng.choice([-0.1, 0.1], images.shape), 0, 1).astype(np.float32)
    found = judged(
        artifacts["onnx"],
        "onnxruntime",
        images,
        labels,
        moved,
        Attack("pgd-40", 0.1, restarts=2, seed=7),
    )["adversarial_accuracy"]
    expected = network.logits(moved).argmax(axis=1) == labels
    assert found.samples == tuple(int(e) for e in expected)
    names = ("attack", "eps", "norm", "steps", "restarts", "seed")
    details = [found.details[name] for name in names]
    assert details == ["pgd-40", 0.1, "linf", 40, 2, 7]
    json.dumps(to_json(found), allow_nan=False)
    evidence.validate(found, "test")


@pytest.mark.parametrize(
    ("norm", "eps", "passes"),
    [("linf", 0.1, True), ("linf", 0.099, False), ("l2", 0.4, True), ("l2", 0.39, False)],
)
def test_examples_further_away_than_eps_are_refused(norm, eps, passes):
    images = np.full((2, 4, 4), 0.5, np.float32)
    moved = images.copy()
    moved[1] += np.float32(0.1)  # L∞ 0.1, L2 0.4
    if passes:
        accuracy.check_distance(images, moved, eps, norm)
    else:
        with pytest.raises(BadInput, match="from its original, eps is"):
            accuracy.check_distance(images, moved, eps, norm)


def test_examples_must_be_images_of_the_same_shape():
    images = np.zeros((2, 4), np.float32)
    with pytest.raises(BadInput, match=r"\[0, 1\]"):
        accuracy.check_distance(images, images - np.float32(0.05), 0.1, "linf")
    with pytest.raises(BadInput, match=r"are \(1, 4\)"):
        accuracy.check_distance(images, images[:1], 0.1, "linf")
    with pytest.raises(BadInput, match="unknown norm 'l1'"):
        accuracy.check_distance(images, images, 0.1, "l1")
    with pytest.raises(BadInput, match="nan"):
        accuracy.check_distance(images, images * np.nan, 0.1, "linf")


@pytest.mark.parametrize("kind", [Kind.HOST, Kind.EMULATED, Kind.MEASURED])
def test_logits_that_are_not_finite_are_wrong(images, kind):
    """argmax of NaN is 0, which must not count as class 0."""
    logits = np.zeros((3, 10), np.float32)
    logits[:, 0] = 1
    logits[1, 4] = np.nan
    labels = np.zeros(3, np.int64)
    found = accuracy.accuracy("clean_accuracy", logits, images[:3], labels, kind, {}, where="x")
    assert found.samples == (1, 0, 1)
    assert found.kind is kind


@pytest.mark.slow
def test_labels_must_fit(artifacts, images):
    path = artifacts["onnx"]
    for labels, text in (
        (np.zeros(31, np.int64), "as many labels as images"),
        (np.zeros((32, 1), np.int64), "list of class numbers"),
        (np.full(32, -1), "list of class numbers"),
        (np.full(32, 10), "gives 10 classes, the labels go up to 10"),
    ):
        with pytest.raises(BadInput, match=text):
            judged(path, "onnxruntime", images, labels)
    logits, none = np.zeros((0, 10), np.float32), np.zeros(0, np.int64)
    with pytest.raises(BadInput, match="as many labels"):
        accuracy.accuracy("clean_accuracy", logits, images[:0], none, Kind.HOST, {}, where=path)


def test_the_digest_depends_on_images_labels_and_shape(images):
    labels = np.arange(32)
    base = measure.images_digest(images, labels)
    assert base == measure.images_digest(images.astype(np.float64), labels.astype(np.int32))
    assert base == measure.images_digest(np.asfortranarray(images), labels)
    assert base != measure.images_digest(images, labels[::-1])
    assert base != measure.images_digest(images.reshape(32, 16, 16), labels)
    changed = images.copy()
    changed[3, 3] += np.float32(1e-6)
    assert base != measure.images_digest(changed, labels)


# --- host


def test_host_facts_are_json_and_name_the_machine():
    facts = measure.host_facts()
    json.dumps(facts, allow_nan=False)
    assert facts["cores"] >= 1
    assert facts["memory_bytes"] > 100 << 20
    assert facts["runtimes"] == runtimes.versions()
    assert set(facts) >= {"machine", "cpu", "kernel", "python", "numpy", "governor", "load"}


def test_host_facts_where_the_system_tells_nothing(monkeypatch):
    monkeypatch.setattr(host, "_read", lambda path: None)
    for name in ("sysconf", "getloadavg"):
        monkeypatch.setattr(host.os, name, refuse)
    monkeypatch.delattr(host.os, "sched_getaffinity", raising=False)
    facts = measure.host_facts()
    assert (facts["memory_bytes"], facts["load"], facts["governor"]) == (None, None, None)
    assert facts["cores"] >= 1


def refuse(*args):
    raise OSError


def test_cpu_model_of_a_pi(monkeypatch):
    text = "processor\t: 0\n\nHardware\t: BCM2835\nModel\t: Raspberry Pi 4 Model B Rev 1.4\n"
    monkeypatch.setattr(host, "_read", lambda path: text)
    assert host.cpu_model() == "Raspberry Pi 4 Model B Rev 1.4"


def test_files_saved_by_the_fixture_are_valid(artifacts):
    onnx.checker.check_model(str(artifacts["onnx"]), full_check=True)
