"""A new training objective is a function in a file and a row of ``OBJECTIVES``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import sepdeploy as sd
from sepdeploy.training.objectives import OBJECTIVES, Row

OBJECTIVE = """
import torch.nn.functional as F

def smoothed(model, batch, terms):
    return F.cross_entropy(model(batch.images), batch.labels, label_smoothing=0.5)
"""
WORDS = ("--hidden", "16", "--epochs", 2, "--threads", 1, "-q")


@pytest.fixture(autouse=True)
def smoothed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "toy_objective.py").write_text(OBJECTIVE)
    monkeypatch.syspath_prepend(tmp_path)
    row = Row("toy_objective:smoothed", robust=False, settings=("mart_beta",))
    monkeypatch.setitem(OBJECTIVES, "smoothed", row)


def test_an_objective_goes_from_its_name_to_a_model(call: Callable, tmp_path: Path) -> None:
    assert "| sar | smoothed]" in " ".join(call("train", "--help").out.split())
    out = tmp_path / "model.pt"
    assert call("train", "--objective", "smoothed", *WORDS, "-o", out).code == 0
    found = sd.load(out).provenance
    assert found["objective"] == "smoothed"
    assert found["accuracy"]["test_clean"] > 0.3
    assert found["accuracy"]["test_robust"] is None  # the row says that it attacks nothing


def test_its_row_says_which_keys_have_an_effect(call: Callable, tmp_path: Path) -> None:
    refused = ("--objective", "smoothed", "--set", "trades_beta=3", "-o", tmp_path / "m.pt")
    found = call("train", *refused)
    assert found.code == 2
    assert 'trades_beta is set and objective is not "trades"' in found.line
    assert 'objective is not "mart" or "smoothed"' in call("train", "--set", "mart_beta=3").line
    assert "closest: smoothed" in call("train", "--objective", "smoothd").line
