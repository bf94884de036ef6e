"""``inspect --frequency``: of a model and of its files, what it refuses, what it draws."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

import sepdeploy as sd
from sepdeploy.models import create
from sepdeploy.records import InputSpec

ASKED = ("--frequency", "--samples", "30", "--attack", "pgd-3")


def looked(call, *words: str | Path) -> dict:
    got = call("inspect", *words, "--json")
    assert got.code == 0, got.err
    return json.loads(got.out)["frequency"]


def test_a_model_and_its_files_have_the_same_frequencies(exported: Path, call) -> None:
    found = [looked(call, exported / f"tiny.{end}", *ASKED) for end in ("pt", "onnx", "tflite")]
    assert [f["images"] for f in found] == [30] * 3
    for own in found:
        by_name = {row["of"]: row for row in own["energy"]}
        assert set(by_name) == {"images", "perturbations", "white noise"}
        assert all(sum(r["shares"].values()) == pytest.approx(1) for r in by_name.values())
        assert np.sum(by_name["images"]["map"]) == pytest.approx(1, rel=1e-4)
        assert np.shape(own["sensitivity"]["map"]) == (8, 8)
        assert own["attack"]["attack"] == "pgd-3"
        assert all(r["adversarial_accuracy"] <= r["clean_accuracy"] for r in own["filters"])
    # The model draws its images, files may take those of the evaluation pack: 30 of the same set.
    _, onnx, tflite = found
    assert onnx["energy"] == tflite["energy"]
    for a, b in zip(onnx["filters"], tflite["filters"], strict=True):
        assert a["clean_accuracy"] == pytest.approx(b["clean_accuracy"], abs=0.07)


def test_a_foreign_size_with_three_channels(tmp_path: Path, call) -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (20, 3, 6, 10), dtype=np.uint8)
    labels = np.arange(20) % 3
    np.savez(tmp_path / "d.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    sd.save(create("mlp", InputSpec((3, 6, 10)), 3, hidden=(8,)).eval(), tmp_path / "net.pt")
    words = ("--frequency", "--data", tmp_path / "d.npz", "--wave", "0.5", "--eps", "8/255")
    drawn = call("inspect", tmp_path / "net.pt", *words, "--plot", tmp_path / "net.svg")
    assert drawn.code == 0, drawn.err
    assert "high-pass attacked" in drawn.out
    own = looked(call, tmp_path / "net.pt", *words)
    assert own["sensitivity"]["norm"] == 0.5
    assert (len(own["vertical"]), len(own["horizontal"])) == (6, 10)
    root = ElementTree.parse(tmp_path / "net.svg").getroot()
    cells = [e for e in root.iter() if e.get("height") == f"{240 / 6:.2f}"]
    assert len(cells) == 3 * 6 * 10  # images, perturbations and the heat map


def test_without_a_known_radius_there_are_no_perturbations(tmp_path: Path, call) -> None:
    model = create("mlp", InputSpec((1, 8, 8)), 10, hidden=(8,)).eval()
    sd.save(model, tmp_path / "net.pt")
    got = call("inspect", tmp_path / "net.pt", "--frequency", "--data", "digits", "--samples", "9")
    assert got.code == 0, got.err
    assert "give --eps" in got.out
    assert "attacked" not in got.out
    unknown = call("inspect", tmp_path / "net.pt", "--frequency")
    assert unknown.code == 4
    assert "--data NAME" in unknown.err
    shown = call("inspect", tmp_path / "net.pt", "--json")
    assert "frequency" not in json.loads(shown.out)


def test_numbers_that_are_no_images_have_no_frequencies(tmp_path: Path, call) -> None:
    sd.save(create("mlp", InputSpec((12,)), 3, hidden=(8,)).eval(), tmp_path / "net.pt")
    got = call("inspect", tmp_path / "net.pt", "--frequency", "--data", "digits")
    assert got.code == 2
    assert "takes 12 numbers, not images" in got.line
    assert "leave it out" in got.err
