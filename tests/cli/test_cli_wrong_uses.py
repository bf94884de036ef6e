"""Three hundred wrong uses: each is one line and a next step, the right code, no file changed."""

from __future__ import annotations

import json
import os
import re
import shlex
from pathlib import Path

import pytest
import torch

import sepdeploy as sd

LINES = (Path(__file__).parent / "wrong_uses.txt").read_text().splitlines()
ROWS = [line.split(" | ") for line in LINES if line and line[0] != "#"]
RESULT = {
    "device": {"id": "host"},
    "artifact": {"path": "a.onnx", "sha256": "0" * 64, "format": "onnx",
                 "flavour": "standard", "quantization": "none"},
    "runtime": {"name": "onnxruntime", "version": "1"},
    "measurements": [{"metric": "params", "value": 3, "unit": "parameters", "kind": "STATIC"}],
}  # fmt: skip
TEXTS = {
    "bench.json": json.dumps(
        {"schema": "sepdeploy.bench/1", "tool": {}, "host": {}, "results": [RESULT]}
    ),
    "recipe.toml": "epochs = 1\n",
    "rules.toml": "[tool.sepdeploy.check]\nnonsense = 1\n",
    "unknown.toml": "nonsense = 1\n",
    "junk.json": "{",
    "halved.manifest.json": '{"schema": "sepdeploy.manifest/1"',
    **dict.fromkeys(
        ["text.txt", "text.pt", "text.onnx", "text.tflite", "text.npz", "text.toml"],
        "This is a text.\n",
    ),
    **dict.fromkeys(["empty.pt", "empty.onnx", "empty.tflite", "emptied.manifest.json"], ""),
}


@pytest.fixture(scope="module")
def folder(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export beside files that are none."""
    from sepdeploy import data
    from sepdeploy.gate import load_report, update_baseline
    from sepdeploy.models import create

    found = tmp_path_factory.mktemp("uses")
    for path in exported.iterdir():
        (found / path.name).write_bytes(path.read_bytes())
    for name, text in TEXTS.items():
        (found / name).write_text(text)
    for suffix in ("pt", "onnx", "tflite"):
        content = (found / f"tiny.{suffix}").read_bytes()
        (found / f"cut.{suffix}").write_bytes(content[: len(content) // 2])
        os.mkfifo(found / f"queue-{suffix}.{suffix}")
    os.mkfifo(found / "pipe")
    (found / "named.onnx").write_bytes((found / "tiny.tflite").read_bytes())
    (found / "named.tflite").write_bytes((found / "tiny.onnx").read_bytes())
    (found / "named.pt").write_bytes((found / "tiny.onnx").read_bytes())
    (found / "folder").mkdir()
    (found / "folder/kept").touch()
    update_baseline(load_report(found / "bench.json"), found / "base.json")
    torch.manual_seed(0)
    sd.save(create("mlp", data.load("digits").input, 10, hidden=(32,)).eval(), found / "dense.pt")
    return found


def state(folder: Path) -> dict[str, tuple[int, int]]:
    """What lies in a folder; a folder's own time tells of locks that came and went."""
    found = {p: p.lstat() for p in folder.rglob("*")}
    return {str(p): (s.st_size, 0 if p.is_dir() else s.st_mtime_ns) for p, s in found.items()}


def test_the_table_is_long_enough() -> None:
    assert len(ROWS) >= 300
    assert len({words for _, words, _ in ROWS}) == len(ROWS)


@pytest.mark.parametrize(
    ("code", "words", "said"),
    [
        pytest.param(*row, id=row[1], marks=[pytest.mark.slow] if index % 5 else [])
        for index, row in enumerate(ROWS)
    ],
)
def test_a_wrong_use(
    folder: Path, call, code: str, words: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.delenv("SEPDEPLOY_DATA", raising=False)
    before = state(folder)
    got = call(*shlex.split(words))
    assert got.code == int(code), got.err
    assert re.search(said, f"{got.line} {got.err}", re.IGNORECASE), got.err
    assert len(re.findall(r"^  next: .{4}", got.err, re.MULTILINE)) == 1, got.err
    assert state(folder) == before
