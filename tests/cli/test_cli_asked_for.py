"""What was asked for and was not done is never exit 0; what can be known first is said first."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from sepdeploy.models import load, save
from sepdeploy.models.tensor_file import read_tensor_file

EARLY = {  # wrong use, and a word of the line that says so
    ("--attack", "pdg-40"): "unknown attack 'pdg-40'",
    ("--attack", "pgd-5,fgms", "--eps", "0.1"): "unknown attack 'fgms'",
    ("--attack", "pgd-5", "--eps", "8"): "more than the whole range of a pixel",
    ("--attack", "pgd-5", "--eps", "-0.1"): "eps -0.1 is not a finite number",
    ("--attack", "pgd-5", "--eps", "nan"): "eps 'nan' is not a number",
    ("--data", "mnis"): "unknown data set 'mnis'",
}


@pytest.mark.parametrize("words", EARLY, ids=" ".join)
def test_names_and_radii_are_looked_at_before_anything_runs(words, copy: Path, call) -> None:
    before = sorted(p.name for p in copy.iterdir())
    lone = Path(shutil.copy(copy / "tiny.onnx", copy.parent / "lone.onnx"))  # without any data
    commands = [
        ("bench", copy / "tiny.onnx"), ("bench", lone), ("export", copy / "tiny.pt"),
        ("attack", copy / "tiny.pt", "-o", copy / "a.npz"),
    ]  # fmt: skip
    for command in commands:
        found = call(*command, *words)
        assert found.code == 2, command
        assert EARLY[words] in found.line, command
        assert "measuring" not in found.err
    if words[-1] in ("8", "-0.1", "nan"):
        assert "did you mean 8/255?" in found.err
        got = call("train", "--data", "digits", "--eps", words[-1], "-o", copy / "x.pt")
        assert (got.code, "did you mean 8/255?" in got.err) == (2, True)
    assert sorted(p.name for p in copy.iterdir()) == before


@pytest.mark.slow
def test_an_attack_that_cannot_be_made_is_exit_4_behind_the_rest(copy: Path, call) -> None:
    lone = shutil.copy(copy / "tiny.onnx", copy.parent / "lone.onnx")
    found = call("bench", lone, "--attack", "pgd-5", "--eps", "0.1", "--json", copy / "r.json")
    assert found.code == 4
    assert "pgd-5: no images to attack" in found.line
    assert "lone.onnx" in found.out  # the rest is shown and kept
    assert json.loads((copy / "r.json").read_text())["results"]
    (copy / "tiny.pt").unlink()
    found = call("bench", copy / "tiny.onnx", "--attack", "pgd-3", "--eps", "0.2", "-q")
    assert found.code == 4
    assert "pgd-3 with eps 0.2 is not in the evaluation pack" in found.line
    assert "tiny.onnx" in found.out


def test_a_kind_that_cannot_be_had_is_said_first(copy: Path, call) -> None:
    found = call("bench", copy / "tiny.onnx", "--require", "measured")
    assert (found.code, "measuring tiny" in found.err) == (4, False)
    assert "this machine alone gives static and host" in found.line


@pytest.fixture
def elsewhere(copy: Path) -> Path:
    """A model whose training had its data in a folder of its own, given by --data-dir."""
    folder = copy.parent / "pictures" / "mnist"
    model = load(copy / "tiny.pt")
    model.provenance |= {"data": "npz", "data_dir": str(folder)}
    save(model, copy / "far.pt")
    return copy / "far.pt"


@pytest.mark.slow
def test_an_export_says_that_its_folder_of_data_is_gone(elsewhere: Path, call) -> None:
    found = call("export", elsewhere, "-f", "onnx")
    assert found.code == 0
    assert f"its folder {elsewhere.parent.parent / 'pictures'}" in found.err
    assert not elsewhere.with_name("far.eval.npz").exists()
    found = call("export", elsewhere, "-f", "onnx", "--attack", "pgd-2")
    assert found.code == 4
    assert "the evaluation pack that was asked for cannot be made" in found.line


@pytest.mark.slow
def test_training_remembers_where_its_data_lay(tmp_path: Path, call, monkeypatch) -> None:
    import gzip

    import numpy as np

    folder = tmp_path / "given"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for part, n in (("train", 60), ("t10k", 20)):
        for what, code, array in (
            ("images-idx3", 3, rng.integers(0, 256, (n, 28, 28))),
            ("labels-idx1", 1, np.arange(n) % 10),
        ):
            head = bytes([0, 0, 8, code]) + b"".join(s.to_bytes(4, "big") for s in array.shape)
            data = head + array.astype(np.uint8).tobytes()
            (folder / f"{part}-{what}-ubyte.gz").write_bytes(gzip.compress(data))
    monkeypatch.delenv("SEPDEPLOY_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    words = ("--hidden", "8", "--epochs", "1", "--steps", "1", "--set", "threads=1", "-q")
    assert call("train", "--data", "mnist", "--data-dir", "given", *words, "-o", "m.pt").code == 0
    assert read_tensor_file(tmp_path / "m.pt")["provenance"]["data_dir"] == str(folder)
    assert call("export", "m.pt", "-f", "onnx", "-q").code == 0
    assert (tmp_path / "m.eval.npz").exists()
    monkeypatch.chdir(folder)  # from wherever
    found = call("bench", tmp_path / "m.onnx", "--attack", "pgd-2", "-q")
    assert found.code == 0
    assert "pgd-2, linf eps 0.1" in found.out


@pytest.mark.slow
def test_files_of_one_name_are_told_apart_and_gated(copy: Path, call, monkeypatch) -> None:
    monkeypatch.chdir(copy)
    for folder in ("a", "b"):
        (copy / folder).mkdir()
        shutil.copy("tiny.onnx", copy / folder)
    found = call("bench", "a/tiny.onnx", "b/tiny.onnx", "--against", "tiny.onnx",
                 "--json", "r.json", "-q")  # fmt: skip
    assert found.code == 0
    for name in ("a/tiny.onnx", "b/tiny.onnx", "against tiny.onnx"):
        assert name in found.out
    result = json.loads(Path("r.json").read_text())
    for file in result["results"]:  # what a clock says on a busy machine may be unstable
        file["measurements"] = [m for m in file["measurements"] if m["kind"] == "STATIC"]
    Path("r.json").write_text(json.dumps(result))
    assert call("baseline", "update", "r.json").code == 0
    assert call("check", "r.json").code == 0


@pytest.mark.slow
def test_a_dense_file_of_a_low_rank_network_is_not_called_dense(tmp_path: Path, call) -> None:
    from sepdeploy.compression import factorize_convolutions
    from sepdeploy.models import create
    from sepdeploy.records import InputSpec

    torch.manual_seed(0)
    model = create("lenet", InputSpec((1, 28, 28)), 10)
    assert factorize_convolutions(model.net, 2)
    save(model.eval(), tmp_path / "low.pt")
    assert call("export", tmp_path / "low.pt", "-f", "onnx", "-q").code == 0
    found = call("bench", tmp_path / "low.onnx", "-q")
    assert "dense itself" not in found.out


@pytest.mark.slow
def test_strict_refuses_times_that_load_spoiled(copy: Path, call, monkeypatch) -> None:
    monkeypatch.setattr("sepdeploy.measure.latency.host_load", lambda: 47.0)
    found = call("bench", copy / "tiny.onnx", "-q")
    assert found.code == 0
    assert "load 47.0 on" in " ".join(found.out.split())
    found = call("bench", copy / "tiny.onnx", "--strict", "-q")
    assert (found.code, "load 47.0 on" in found.line) == (5, True)
    assert "tiny.onnx" in found.out
