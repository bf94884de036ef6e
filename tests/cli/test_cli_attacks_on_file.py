"""`bench` attacks the file that ships: int8 files through their answers, any file by search."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import sepdeploy as sd
from sepdeploy.data.evalpack import read_pack
from sepdeploy.measure import run_logits

pytestmark = pytest.mark.slow


def judged(got) -> dict[tuple[str, str], dict]:
    assert got.code == 0, got.err
    (result,) = json.loads(got.out)["results"]
    return {
        (m["attack"], m.get("made_on", "twin")): m
        for m in result["measurements"]
        if m["metric"] == "adversarial_accuracy"
    }


@pytest.fixture(scope="module")
def quantized(tmp_path_factory) -> Path:
    """A trained net as int8 files."""
    folder = tmp_path_factory.mktemp("int8")
    model = folder / "tiny.pt"
    wanted = {"data": "digits", "arch": "mlp", "hidden": (32,), "epochs": 5, "eps": 0.05}
    sd.train(out=model, **wanted, steps=3)
    sd.export(model, quantize="static", eval_pack=False)
    return folder


@pytest.mark.parametrize("suffix", ["onnx", "tflite"])
def test_a_rounded_file_is_attacked_through_its_answers(quantized, call, suffix) -> None:
    runtime = {"onnx": "onnxruntime", "tflite": "litert"}[suffix]
    got = call("bench", quantized / f"tiny.{suffix}", "--attack", "pgd-10,square@30",
               "--eps", "0.05", "--samples", "100",
               "--runtime", runtime, "--json", "-")  # fmt: skip
    found = judged(got)
    names = {("pgd-10", "twin"), ("pgd-margin-10", "file"), ("square@30", "file")}
    assert set(found) == names | {("worst", "twin")}
    outcomes = np.array([found[name]["samples"] for name in names])
    assert found["worst", "twin"]["samples"] == outcomes.min(axis=0).tolist()
    assert found["worst", "twin"]["value"] <= min(found[name]["value"] for name in names)
    assert 0.1 < found["worst", "twin"]["value"] < 0.95
    for name in names:
        assert found[name]["checks"]["changed_labels"] == 0
        assert found[name]["checks"]["probabilities"] is False


def test_a_float_file_is_its_model_and_needs_no_attack_of_its_own(exported, call) -> None:
    got = call("bench", exported / "tiny.onnx", "--attack", "pgd-10", "--eps", "0.1",
               "--samples", "50", "--json", "-")  # fmt: skip
    assert set(judged(got)) == {("pgd-10", "twin")}


def test_a_lone_file_is_searched_without_its_model(exported, call, tmp_path) -> None:
    lone = Path(shutil.copy(exported / "tiny.tflite", tmp_path / "lone.tflite"))
    got = call("bench", lone, "--attack", "square@40", "--eps", "0.2", "--data", "digits",
               "--samples", "60", "--runtime", "litert", "--json", "-")  # fmt: skip
    found = judged(got)
    assert set(found) == {("square@40", "file")}
    assert found["square@40", "file"]["checks"]["twin_disagrees"] is None


def test_a_given_set_judges_its_own_model_and_others_only_when_meant(
    exported, call, tmp_path
) -> None:
    made = call("attack", exported / "tiny.pt", "-o", tmp_path / "adv.npz", "--attack", "pgd-10",
                "--eps", "0.1", "--samples", "80")  # fmt: skip
    assert made.code == 0
    own = call(
        "bench", exported / "tiny.onnx", "--adversarial", tmp_path / "adv.npz", "--json", "-"
    )
    pack = read_pack(tmp_path / "adv.npz")
    logits, _ = run_logits(exported / "tiny.onnx", "onnxruntime", pack.adversarial)
    clean, _ = run_logits(exported / "tiny.onnx", "onnxruntime", pack.clean())
    right = (logits[0].argmax(1) == pack.labels) & (clean[0].argmax(1) == pack.labels)
    assert judged(own)["pgd-10", "twin"]["samples"] == right.astype(int).tolist()

    lone = Path(shutil.copy(exported / "tiny.onnx", tmp_path / "lone.onnx"))
    for options in (["--eps", "0.2"], ["--norm", "l2", "--eps", "0.1"]):
        got = call("bench", exported / "tiny.onnx", "--adversarial", tmp_path / "adv.npz", *options)
        assert (got.code, "another one's set" in got.line) == (2, True)
    got = call("bench", lone, "--adversarial", tmp_path / "adv.npz")
    assert (got.code, "another one's set" in got.line) == (2, True)
    meant = call("bench", lone, "--adversarial", tmp_path / "adv.npz", "--transfer", "--json", "-")
    assert "was made for the model" in judged(meant)["pgd-10", "twin"]["transfer"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--transfer"], "--transfer"),
        (["--adversarial", "adv.npz", "--attack", "fgsm"], "brings its attack along"),
        (["--adversarial", "none.npz"], "none.npz"),
        (["--adversarial", "tiny.eval.npz", "--eps", "0.3"], "tiny.eval.npz"),
        (["--precision", "1pp", "--samples", "10"], "--samples"),
        (["--precision", "0"], "no number of points"),
    ],
)
def test_what_cannot_be_meant_is_one_line(exported, call, options, said, monkeypatch) -> None:
    monkeypatch.chdir(exported)
    before = sorted(exported.iterdir())
    got = call("bench", "tiny.onnx", *options)
    assert got.code == 2
    assert said in got.line
    assert sorted(exported.iterdir()) == before
