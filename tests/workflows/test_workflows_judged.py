"""Logits of devices and emulators are judged by the rule that those of this machine are."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from sepdeploy import measure
from sepdeploy.devices.emulation import Outcome
from sepdeploy.errors import BadInput
from sepdeploy.records import Kind
from sepdeploy.threat import Attack
from sepdeploy.workflows.bench import emulating, remote
from sepdeploy.workflows.bench.judging import JudgingSet

IMAGES = np.zeros((3, 4), np.float32)
LOGITS = np.array([[1, 0], [1, np.nan], [0, 1]], np.float32)  # right, not finite, wrong


def judging(*, last_class: int = 0) -> JudgingSet:
    labels = np.array([0, 0, last_class])
    attack = Attack("fgsm", 0.1)
    return JudgingSet(IMAGES, labels, np.arange(3), "digits", "pack", IMAGES + 0.1, attack)


def emulated(judged: JudgingSet, monkeypatch: pytest.MonkeyPatch) -> list[object]:
    answer = Outcome(LOGITS, {"core": "cortex-a72"})
    monkeypatch.setattr(emulating, "measurements", lambda *_: ())
    monkeypatch.setattr(emulating, "logits", lambda *_: answer)
    monkeypatch.setattr(measure, "run_logits", lambda *_: (LOGITS[None], {}))
    found = emulating.emulate(None, Path("net.tflite"), (judged,))
    return [m for m in found if m.metric.endswith("accuracy")]


def measured(judged: JudgingSet, folder: Path) -> list[object]:
    for name in ("clean", "attack0"):
        np.save(folder / f"{name}-logits.npy", LOGITS[None])
    run = SimpleNamespace(results={"clean": {}, "attack0": {}}, kind=Kind.MEASURED)
    jobs = SimpleNamespace(path=Path("net.tflite"), judged=(judged,))
    return list(remote._accuracies(run, jobs, folder))


@pytest.mark.parametrize("kind", [Kind.EMULATED, Kind.MEASURED])
def test_one_rule_and_the_same_details(
    kind: Kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def found(judged: JudgingSet) -> list[object]:
        emulator = kind is Kind.EMULATED
        return emulated(judged, monkeypatch) if emulator else measured(judged, tmp_path)

    clean, attacked = found(judging())
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
        found(judging(last_class=2))


def test_what_an_emulator_cannot_give_is_absent_with_its_reason() -> None:
    found = Outcome(None, {"core": "cortex-a53"}, "no dot products").absent("instructions")
    assert (found.value, found.n, found.kind) == (None, 0, Kind.EMULATED)
    assert found.details == {"reason": "no dot products", "core": "cortex-a53"}
