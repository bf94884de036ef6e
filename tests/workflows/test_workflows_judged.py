"""Logits of devices and emulators are judged by the rule that those of this machine are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sepdeploy import measure
from sepdeploy.errors import BadInput
from sepdeploy.jobs import Answer
from sepdeploy.measure.latency import Timing
from sepdeploy.records import Kind, Measurement
from sepdeploy.threat import Attack
from sepdeploy.workflows.bench.judging import JudgingSet
from sepdeploy.workflows.bench.measuring import Jobs, Place, Taken, Task, measure_at
from sepdeploy.workflows.bench.options import BenchOptions

IMAGES = np.zeros((3, 4), np.float32)
LOGITS = np.array([[1, 0], [1, np.nan], [0, 1]], np.float32)  # right, not finite, wrong


def judging(*, last_class: int = 0) -> JudgingSet:
    labels = np.array([0, 0, last_class])
    attack = Attack("fgsm", 0.1)
    return JudgingSet(IMAGES, labels, np.arange(3), "digits", "pack", IMAGES + 0.1, attack)


class Fake:
    """A place that answers every job with the same logits."""

    name, modes, threads, repeats = "fake", frozenset({"run"}), 1, False

    def __init__(self, kind: Kind, findings: tuple[str, ...] = ()) -> None:
        self.kind, self.findings = kind, findings
        self.details = {"core": "cortex-a72"}

    def timing(self, options: BenchOptions) -> Timing:
        return Timing()

    def take(self, jobs: Jobs) -> Taken:
        done = [(name, job) for name, job in jobs if name not in self.findings]
        for _, job in done:
            np.save(job.output, LOGITS[None])
        answers = {name: Answer("1") for name, _ in done}
        return Taken(self.kind, answers, findings=dict.fromkeys(self.findings, "no dot products"))

    def own(self, task: Task, logits: object) -> tuple[()]:
        return ()


def found(place: Place, judged: JudgingSet) -> list[Measurement]:
    task = Task(Path("net.tflite"), "litert", (judged,), None, "", BenchOptions())
    return list(measure_at(place, task)[0])


@pytest.mark.parametrize("kind", [Kind.HOST, Kind.EMULATED, Kind.MEASURED])
def test_one_rule_and_the_same_details(kind: Kind) -> None:
    clean, attacked = found(Fake(kind), judging())
    assert [m.metric for m in (clean, attacked)] == ["clean_accuracy", "adversarial_accuracy"]
    digest = measure.images_digest(IMAGES, judging().labels)
    for one in (clean, attacked):
        assert one.kind is kind
        assert one.samples == (1, 0, 0)
        assert (one.details["data"], one.details["images_from"]) == ("digits", "pack")
        assert one.details["images_sha256"] == digest
    assert attacked.details["attack"] == "fgsm"
    assert "attack" not in clean.details
    with pytest.raises(BadInput, match=r"net\.tflite: gives 2 classes, the labels go up to 2"):
        found(Fake(kind), judging(last_class=2))


def test_what_a_place_cannot_give_is_absent_with_its_reason() -> None:
    _, attacked = found(Fake(Kind.EMULATED, ("attack0",)), judging())
    assert (attacked.value, attacked.n, attacked.kind) == (None, 0, Kind.EMULATED)
    assert attacked.details == {"reason": "no dot products", "core": "cortex-a72"}


def test_examples_that_left_their_ball_are_refused_everywhere() -> None:
    with pytest.raises(BadInput, match="from its original"):
        found(Fake(Kind.MEASURED), replace(judging(), adversarial=IMAGES + 0.5))
