"""Mutants of every file the tool reads: always an exit code and one line, never a crash.

A few in every run, 500 with ``-m slow``; SEPDEPLOY_FUZZ=5000 sets another number for the slow one.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
from mutation import mutant

import sepdeploy as sd
from sepdeploy import data
from sepdeploy.models import create

KINDS = {
    "tiny.onnx": "onnx",
    "tiny.tflite": "tflite",
    "tiny.pt": "pt",
    "tiny.manifest.json": "json",
    "tiny.eval.npz": "npz",
}
CODES = {0, 2, 3, 4, 6}
ANSWER_S = 120.0
FLAGS = ("--samples", "4", "--attack", "fgsm", "--eps", "0.1")


@dataclass
class Tool:
    """The tool's process, started again when it has died; each death is a finding."""

    folder: Path
    process: Any = None
    deaths: int = 0
    codes: Counter[tuple[str, int]] = field(default_factory=Counter)
    runner_starts: int = 0
    runner_before: int = 0

    def call(self, *words: str) -> tuple[int, str]:
        """Return exit code and standard error of one command line; -1 for a death."""
        if self.process is None:
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            self.process = subprocess.Popen(
                [sys.executable, str(Path(__file__).with_name("tool_process.py"))],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                env=environment, cwd=self.folder, text=True,
            )  # fmt: skip
            self.runner_before = 0
        self.process.stdin.write(json.dumps(words) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            self.deaths += 1
            status = self.process.wait()
            self.process = None
            return -1, f"the tool itself ended with {status}"
        answer = json.loads(line)
        self.runner_starts += answer["starts"] - self.runner_before
        self.runner_before = answer["starts"]
        self.codes[words[0], answer["code"]] += 1
        return answer["code"], answer["err"]

    def close(self) -> None:
        """End the process."""
        if self.process is not None:
            self.process.stdin.close()
            self.process.wait()
            self.process.stdout.close()


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small export of every kind of file."""
    folder = tmp_path_factory.mktemp("good")
    torch.manual_seed(0)
    digits = data.load("digits")
    model = create("mlp", digits.input, 10, structure="kron", hidden=(16, 16))
    model.provenance.update({"data": "digits", "eps": 0.1, "norm": "linf", "steps": 1})
    sd.export(model.eval(), folder / "tiny", attack="fgsm", samples=8)
    return folder


@pytest.fixture
def tool(tmp_path: Path) -> Iterator[Tool]:
    running = Tool(tmp_path)
    yield running
    running.close()


def commands(name: str, seed: int) -> list[tuple[str, ...]]:
    """Return the command lines that a mutant goes through."""
    bench = ("bench", name, *FLAGS)
    verify = ("verify", "tiny.manifest.json")
    if name == "tiny.manifest.json":
        return [verify if seed % 2 else bench]
    if name in ("tiny.pt", "tiny.eval.npz"):
        inspect = [("inspect", name)] if name == "tiny.pt" else []
        return [*inspect, verify if seed % 2 else ("bench", "tiny.manifest.json", *FLAGS)]
    return [("inspect", name), verify if seed % 2 else bench]


def place(good: Path, folder: Path, name: str, seed: int) -> None:
    """Put the mutant among the good files, under a manifest that vouches for it."""
    for file in KINDS:
        if file != name or not (folder / file).exists():
            shutil.copy(good / file, folder / file)
    changed = mutant((good / name).read_bytes(), KINDS[name], seed)
    (folder / name).write_bytes(changed)
    if name == "tiny.manifest.json":
        return
    manifest = json.loads((good / "tiny.manifest.json").read_text())
    digest = sha256(changed).hexdigest()
    for record in (manifest["model"], manifest["eval_pack"], *manifest["artifacts"]):
        if record["path"] == name:
            record["sha256"] = digest
    (folder / "tiny.manifest.json").write_text(json.dumps(manifest))


def complaint(code: int, err: str) -> str:
    """Return what is wrong with an answer, "" where nothing is."""
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    if code not in CODES:
        return f"exit code {code}: {err[-600:]}"
    if "Traceback" in err:
        return f"a traceback: {err[-600:]}"
    if code in (2, 3, 4) and len(errors) != 1:
        return f"exit code {code} with {len(errors)} lines of error: {err[-600:]}"
    return ""


def fuzz(good: Path, tool: Tool, seeds: range) -> list[str]:
    """Return a line per finding."""
    names = list(KINDS)
    findings = []
    for seed in seeds:
        name = names[seed % len(names)]
        place(good, tool.folder, name, seed // len(names))
        for words in commands(name, seed // len(names)):
            found = complaint(*tool.call(*words))
            if found:
                findings.append(f"seed {seed}, {name}, {' '.join(words[:2])}: {found}")
    return findings


@pytest.mark.slow
def test_the_good_files_pass(good: Path, tool: Tool) -> None:
    """Without it, mutants that all fail for another reason would look like success."""
    for file in KINDS:
        shutil.copy(good / file, tool.folder / file)
    for words in (
        ("inspect", "tiny.onnx"),
        ("verify", "tiny.manifest.json"),
        ("bench", "tiny.tflite", *FLAGS),
        ("bench", "tiny.manifest.json", *FLAGS),
    ):
        code, err = tool.call(*words)
        assert code == 0, err
    assert tool.runner_starts == 1


@pytest.mark.slow
def test_a_few_mutants(good: Path, tool: Tool) -> None:
    findings = fuzz(good, tool, range(10))
    assert not findings, "\n".join(findings)
    assert tool.deaths == 0


@pytest.mark.slow
def test_many_mutants(good: Path, tool: Tool, capsys: pytest.CaptureFixture[str]) -> None:
    count = int(os.environ.get("SEPDEPLOY_FUZZ", "500"))
    findings = fuzz(good, tool, range(10, 10 + count))
    with capsys.disabled():
        print(
            f"\n{count} mutants, {sum(tool.codes.values())} commands, exit codes "
            f"{dict(sorted(tool.codes.items()))}, runner started {tool.runner_starts} times, "
            f"{len(findings)} findings"
        )
    assert not findings, "\n".join(findings)
    assert tool.deaths == 0


@pytest.mark.slow
@pytest.mark.parametrize("seed", [114, 334, 1714, 4620])
def test_mutants_that_once_got_through(good: Path, tool: Tool, seed: int) -> None:
    """Headers that end early, members that are no arrays, a file as a message, endless inputs."""
    findings = fuzz(good, tool, range(seed, seed + 1))
    assert not findings, findings
