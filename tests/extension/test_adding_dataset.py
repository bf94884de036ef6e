"""A data set is one file and one row of ``data.DATASETS``: here both stand in a test.

Stripes, upright or level, of random phase: trained on, exported, benched and checked by name.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from sepdeploy import data
from sepdeploy.data.dataset import Dataset, Split, make_dataset


def stripes(count: int, first: int) -> Split:
    labels = np.arange(count) % 2
    waves = np.arange(8)[None, :] + np.random.default_rng(first).integers(0, 4, (count, 1))
    level = np.where(waves % 4 < 2, 220, 30).astype(np.uint8)[:, :, None].repeat(8, axis=2)
    images = np.where(labels[:, None, None] == 1, level.transpose(0, 2, 1), level)
    return Split(images[:, None], labels, np.arange(first, first + count))


def load_stripes(name: str, data_dir: Path | None) -> Dataset:
    return make_dataset(name, stripes(256, 0), stripes(64, 256), ("level", "upright"))


@pytest.mark.slow
def test_a_new_data_set_goes_the_whole_way(tmp_path: Path, call, monkeypatch) -> None:
    monkeypatch.setitem(data.DATASETS, "stripes", load_stripes)
    monkeypatch.chdir(tmp_path)  # where no project has rules for its check
    model = tmp_path / "s.pt"
    train = ["--data", "stripes", "--hidden", "32", "--structure", "dense", "--epochs", "12"]
    got = call("train", *train, "-o", model)
    assert got.code == 0, got.err
    got = call("export", model)
    assert got.code == 0, got.err
    pack = data.evalpack.read_pack(tmp_path / "s.eval.npz")
    assert (pack.provenance["data"], len(pack)) == ("stripes", 64)
    bench = ["bench", tmp_path / "s.onnx", tmp_path / "s.tflite", "--json", tmp_path / "b.json"]
    got = call(*bench, "--attack", "pgd-3", "--eps", "0.1")
    assert got.code == 0, got.err
    report = json.loads((tmp_path / "b.json").read_text())
    for result in report["results"]:
        clean = next(m for m in result["measurements"] if m["metric"] == "clean_accuracy")
        assert clean["n"] == 64
        assert clean["value"] > 0.9
        timeless = [m for m in result["measurements"] if m["kind"] != "HOST"]
        result["measurements"] = timeless  # the machine may be too busy for its clock
    (tmp_path / "b.json").write_text(json.dumps(report))
    update = ["baseline", "update", tmp_path / "b.json", "--baseline", tmp_path / "base.json"]
    assert call(*update).code == 0
    check = ["check", tmp_path / "b.json", "--baseline", tmp_path / "base.json"]
    got = call(*check)
    assert got.code == 0, got.out + got.err


def test_an_unknown_data_set_is_told_the_known_ones(call, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(data.DATASETS, "stripes", load_stripes)
    got = call("train", "--data", "stripe", "-o", tmp_path / "m.pt")
    assert got.code == 2
    assert "stripes" in got.err


@pytest.mark.parametrize("split", ["train", "test"])
def test_the_toy_itself_is_balanced(split: str) -> None:
    labels = getattr(load_stripes("stripes", None), split).labels
    assert np.bincount(labels).tolist() == [len(labels) // 2] * 2
