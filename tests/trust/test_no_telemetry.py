"""No command leaves anything of anybody's reports in a fresh home folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

QUICK = {"the simplifier": ""}
SLOW = {
    "bench": "bench tiny.onnx --attack pgd-1 --samples 10",
    "train": "train --data digits --epochs 1 --objective natural -o m.pt",
    "export": "export tiny.pt -o again",
    "quantised": "export tiny.pt -o again --quantize static",
    "verify": "verify tiny.manifest.json",
    "layers": "verify tiny.manifest.json --layers",
    "inspect": "inspect tiny.onnx",
    "attack": "attack tiny.pt --attack pgd-1 --data digits --samples 10 -o set.npz",
    "foreign": "export foreign.onnx",
    "doctor": "doctor",
    "devices": "devices list",
}


@pytest.mark.parametrize(
    "words",
    [
        *(pytest.param(words, id=name) for name, words in QUICK.items()),
        *(pytest.param(words, id=name, marks=pytest.mark.slow) for name, words in SLOW.items()),
    ],
)
def test_a_fresh_home_stays_clean(exported: Path, tmp_path: Path, words: str) -> None:
    work, home = tmp_path / "work", tmp_path / "home"
    shutil.copytree(exported, work)
    shutil.copy(work / "tiny.onnx", work / "foreign.onnx")
    home.mkdir()
    left_out = ("ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME")
    own = {k: v for k, v in os.environ.items() if k not in left_out}
    call = ["-m", "sepdeploy", *words.split()] if words else ["-c", "import sepdeploy, onnxsim"]
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, *call],
        cwd=work,
        env={**own, "HOME": str(home), "PYTHONPATH": root, "TMPDIR": str(home)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    ours = home / ".cache/sepdeploy"
    strange = [p for p in home.rglob("*") if p.is_file() and not p.is_relative_to(ours)]
    assert not strange
