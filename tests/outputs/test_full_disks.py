"""Disks that fill up: one line, exit 2, nothing half-written, and nothing said about the files."""

from __future__ import annotations

import errno
import gc
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sepdeploy.data.evalpack import EvalPack, write_pack
from sepdeploy.errors import BadInput, NoRoom
from sepdeploy.files import scratch, write_bytes
from sepdeploy.runtimes.runner.main import execute

SMALL = 16 << 10  # bytes of the small disk, all of them taken


def full(*_: object, **__: object) -> Any:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_an_export_is_not_called_wrong_because_the_temporary_folder_is_full(
    copy: Path, call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sepdeploy.runtimes.packing.write_runner", full)
    got = call("verify", copy / "tiny.manifest.json")
    assert got.code == 2
    assert got.line == "error: cannot write temporary files: No space left on device"


def test_the_runner_says_that_a_disk_is_full(exported: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((300, 1, 8, 8), np.float32))
    answer = execute(
        {
            "mode": "run",
            "runtime": "onnxruntime",
            "model": str(exported / "tiny.onnx"),
            "inputs": str(tmp_path / "x.npy"),
            "output": "/dev/full",
        }
    )
    assert (answer["ok"], answer["kind"]) == (False, "no-room"), answer


def test_other_errors_in_a_scratch_folder_stay_what_they_are() -> None:
    with pytest.raises(FileNotFoundError), scratch() as folder:
        (folder / "absent").read_bytes()
    assert not folder.exists()
    with pytest.raises(NoRoom), scratch():
        full()


def test_a_pack_that_does_not_fit_is_one_error_and_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unraisable: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", unraisable.append)
    monkeypatch.setattr(Path, "write_bytes", full)
    pack = EvalPack(
        np.zeros((2, 4), np.float32), np.zeros(2, int), np.arange(2), np.zeros((2, 3), np.float32)
    )
    with pytest.raises(BadInput, match="No space left"):
        write_pack(pack, tmp_path / "a.npz")
    gc.collect()
    assert unraisable == []
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Any:
    """A folder with little space, where this user may make one."""
    folder = tmp_path / "small"
    folder.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(folder)]
    if os.getuid() or subprocess.run(words, capture_output=True, check=False).returncode:
        pytest.skip("no file system can be mounted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        "train {recipe} -o {disk}/m.pt",
        "export {here}/tiny.pt -q --no-eval -o {disk}",
        "attack {here}/tiny.pt --attack pgd-1 --samples 60 -o {disk}/a.npz",
        "bench {here}/tiny.onnx --samples 20 --json {disk}/r.json",
        "inspect {here}/tiny.onnx --json {disk}/r.json",
    ],
)
def test_a_command_on_a_full_disk(copy: Path, small_disk: Path, words: str) -> None:
    recipe = copy / "r.toml"
    recipe.write_text('epochs = 1\nhidden = [64]\nobjective = "natural"\n')
    write_bytes(small_disk / "filled", b"x" * SMALL)
    before = sorted(small_disk.iterdir())
    command = words.format(recipe=recipe, here=copy, disk=small_disk).split()
    done = subprocess.run(
        [sys.executable, "-m", "sepdeploy", *command], capture_output=True, text=True, timeout=300
    )
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode == 2, done.stderr
    assert len(lines) == 1, done.stderr
    assert "No space left" in lines[0]
    assert "Exception ignored" not in done.stderr
    left = [p for p in sorted(small_disk.iterdir()) if not p.name.endswith(".history.jsonl")]
    assert left == before
