"""A new attack is a function in a file and a row of ``ATTACKS``; nothing else knows it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from sepdeploy.attacks import ATTACKS, Row

ATTACK = """
from sepdeploy.attacks.gradient import Made

def brighten(model, images, labels, ids, attack):
    return Made((images + attack.eps).clamp(0, 1))
"""


@pytest.fixture(autouse=True)
def brighten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "toy_attack.py").write_text(ATTACK)
    monkeypatch.syspath_prepend(tmp_path)
    row = Row("brighten", "toy_attack:brighten", norms=("linf",), gradients=False)
    monkeypatch.setitem(ATTACKS, "brighten", row)


@pytest.mark.slow
def test_an_attack_goes_from_its_name_to_an_accuracy(
    copy: Path, call: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(copy)
    words = ("--attack", "brighten", "--eps", "0.25", "-q")
    assert call("attack", "tiny.pt", *words, "-o", "adv.npz", "--samples", 20).code == 0
    made = np.load(copy / "adv.npz")
    clean = made["images"].astype(np.float32) / (255 if made["images"].dtype == np.uint8 else 1)
    moved = np.abs(made["adversarial"] - np.minimum(clean + 0.25, 1))
    assert moved.max() < 1e-6

    bench = call("bench", "tiny.onnx", *words, "--samples", 20, "--json", "found.json")
    assert bench.code == 0
    assert "brighten, linf eps 0.25" in " ".join(bench.out.split())
    (result,) = json.loads((copy / "found.json").read_text())["results"]
    (found,) = [m for m in result["measurements"] if m["metric"] == "adversarial_accuracy"]
    assert (found["attack"], found["eps"], found["norm"]) == ("brighten", 0.25, "linf")
    assert found["n"] == 20


def test_what_it_cannot_do_is_said(copy: Path, call: Callable) -> None:
    words = ("attack", copy / "tiny.pt", "--eps", "0.1", "-o", copy / "adv.npz", "--attack")
    found = call(*words, "brighten", "--norm", "l2")
    assert found.code == 2
    assert "attack 'brighten' knows linf, not l2" in found.line
    assert "brighten" in call(*words, "darken").err  # the names come from the table
    assert "one step" in call(*words, "brighten-3").line
    shown = "".join(call("bench", "--help").out.split())  # names are wrapped at their hyphens
    assert all(row.example in shown for row in ATTACKS.values() if row is not ATTACKS["brighten"])
