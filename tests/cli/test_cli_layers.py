"""``verify --layers`` and ``verify --against`` on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import sepdeploy as sd
from sepdeploy.models import load


@pytest.mark.slow
def test_layers_stand_below_the_checks(exported: Path, call) -> None:
    got = call("verify", exported / "tiny.manifest.json", "--layers")
    assert got.code == 0, got.err
    for name in ("fc1", "head", "logits", "worst layer", "digest", "(data)"):
        assert name in got.out


@pytest.mark.slow
def test_layers_as_json(exported: Path, call) -> None:
    got = call("verify", exported / "tiny.manifest.json", "--layers", "--json")
    found = json.loads(got.out)
    assert found["schema"] == "sepdeploy.verify/1"
    assert found["layers"]["schema"] == "sepdeploy.layers/1"
    for comparison in found["layers"]["comparisons"]:
        assert comparison["passed"]
        rows = comparison["rows"]
        assert rows[-1]["layer"] == "logits"
        assert all(r["max_rel"] < 1e-5 for r in rows)
        assert comparison["worst"] in {"", *(r["layer"] for r in rows)}


@pytest.mark.slow
def test_without_the_model_the_onnx_file_stands_in(copy: Path, call) -> None:
    (copy / "tiny.pt").unlink()
    got = call("verify", copy / "tiny.manifest.json", "--layers")
    assert got.code == 0, got.err
    assert "stands in" in got.out.replace("\n", " ")


@pytest.mark.slow
def test_two_files_of_one_model_agree(exported: Path, call) -> None:
    got = call("verify", exported / "tiny.onnx", "--against", exported / "tiny.tflite")
    assert got.code == 0, got.err
    assert "tiny.tflite" in got.out
    assert "DISAGREE" not in got.out


@pytest.fixture
def other(exported: Path, tmp_path: Path) -> Path:
    """The same network with other weights in its first layer."""
    model = load(exported / "tiny.pt")
    with torch.no_grad():
        next(iter(model.structured_layers().values())).factors()[0].mul_(1.5)
    sd.export(model, tmp_path / "other", eval_pack=False)
    return tmp_path


@pytest.mark.slow
def test_files_of_two_models_disagree(exported: Path, other: Path, call) -> None:
    got = call(
        "verify", exported / "tiny.manifest.json", "--against", other / "other.manifest.json",
        "--json",
    )  # fmt: skip
    assert got.code == 6
    found = json.loads(got.out)
    assert len(found["comparisons"]) == 2
    for comparison in found["comparisons"]:
        assert Path(comparison["path"]).suffix == Path(comparison["reference"]).suffix
        assert not comparison["passed"]
        assert comparison["worst"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["verify", "--against", "{folder}/tiny.onnx"], "--against"),
        (["verify", "{folder}/tiny.onnx", "--against", "{folder}/no.onnx"], "no.onnx"),
        (["verify", "{folder}/tiny.onnx", "--against", "{folder}/tiny.eval.npz"], "eval.npz"),
        (["verify", "{folder}/tiny.onnx", "--layers", "--against", "{folder}/x"], "--layers"),
    ],
)
def test_wrong_use_is_one_line(exported: Path, call, words: list[str], said: str) -> None:
    got = call(*[w.format(folder=exported) for w in words])
    assert got.code == 2
    assert said in got.line
