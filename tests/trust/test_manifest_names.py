"""A manifest names plain files of its own folder and nothing else."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest


def change(manifest: Path, place: str, name: str) -> None:
    data = json.loads(manifest.read_text())
    (data["artifacts"][0] if place == "artifact" else data[place])["path"] = name
    manifest.write_text(json.dumps(data))


@pytest.mark.parametrize("place", ["model", "artifact", "eval_pack"])
@pytest.mark.parametrize("name", ["../away/F", "{tmp}/away/F", "sub/F", "..", "", "./F"])
def test_no_path_leads_out_of_the_folder(
    copy: Path, tmp_path: Path, call, place: str, name: str
) -> None:
    file = {"model": "tiny.pt", "artifact": "tiny.onnx", "eval_pack": "tiny.eval.npz"}[place]
    for folder in (tmp_path / "away", copy / "sub"):
        folder.mkdir()
        shutil.copy(copy / file, folder)
    change(copy / "tiny.manifest.json", place, name.format(tmp=tmp_path).replace("F", file))
    got = call("verify", copy / "tiny.manifest.json")
    assert got.code == 2
    assert "tiny.manifest.json" in got.line


@pytest.mark.parametrize("file", ["tiny.pt", "tiny.onnx", "tiny.tflite", "tiny.eval.npz"])
@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_no_link_is_followed(copy: Path, tmp_path: Path, call, file: str, link) -> None:
    (copy / file).rename(tmp_path / file)
    link(tmp_path / file, copy / file)
    got = call("verify", copy / "tiny.manifest.json")
    assert got.code == 2
    assert file in got.line
    assert "link" in got.line


@pytest.mark.slow
def test_an_export_into_another_folder_says_what_to_copy(copy: Path, tmp_path: Path, call) -> None:
    got = call("export", copy / "tiny.pt", "-o", tmp_path / "out", "--no-eval")
    assert got.code == 0, got.err
    assert "copy" in got.err
    manifest = tmp_path / "out/tiny.manifest.json"
    assert json.loads(manifest.read_text())["model"]["path"] == "tiny.pt"
    assert call("verify", manifest).code == 0
    shutil.copy(copy / "tiny.pt", tmp_path / "out")
    assert call("verify", manifest).code == 0
