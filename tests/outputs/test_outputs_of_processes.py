"""Commands that end early, and two of them at once: nothing lost, nothing half, nothing left."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sepdeploy import api
from sepdeploy.codec import dump
from sepdeploy.gate.baseline import load_baseline
from sepdeploy.models import create, load, save

pytestmark = pytest.mark.slow
ROUNDS = int(os.environ.get("SEPDEPLOY_ROUNDS", "3"))
COMMANDS = {
    "train": ("train recipe.toml -o made.pt --json made.json", "made.pt"),
    "compress": ("compress dense.pt --structure lowrank:8 -o made.pt", "made.pt"),
    "export": ("export tiny.pt -o made --attack pgd-3 --samples 40", "made/tiny.manifest.json"),
    "attack": ("attack tiny.pt --attack pgd-20 --samples 200 -o made.npz", "made.npz"),
    "bench": ("bench tiny.onnx --samples 20 --json made.json", "made.json"),
    "update": ("baseline update result.json --baseline made.json", "made.json"),
    "check": ("check result.json --baseline base.json --junit made.xml", "made.xml"),
    "inspect": ("inspect tiny.pt --json made.json", "made.json"),
    "demo": ("demo -o made", "made/bench.json"),
}
LONG = {} if ROUNDS > 12 else {"demo": 3}  # so many times fewer rounds in CI
CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129, signal.SIGKILL: -9}


@dataclass
class Forker:
    """The process that starts commands, and the folders they see."""

    process: Any
    folder: Path
    temporary: Path

    def start(self, command: str, said: str = "said") -> int:
        """Start a command line and return its process."""
        words = command.split()
        return self._ask("start", words, str(self.folder), str(self.temporary), self._said(said))

    def wait(self, number: int) -> int:
        """Return how a process ended."""
        return self._ask("wait", number)

    def errors(self, said: str = "said") -> list[str]:
        """Return the lines of errors that it told."""
        text = Path(self._said(said)).read_text()
        assert "Traceback" not in text, text
        assert "Exception ignored" not in text, text
        return [line for line in text.splitlines() if line.startswith("error: ")]

    def left(self) -> list[str]:
        """Return what should not be there: hidden files, temporary ones, programs."""
        hidden = [str(p) for p in self.folder.rglob(".*")]
        programs = []
        for path in Path("/proc").glob("[0-9]*/environ"):
            try:
                if f"TMPDIR={self.temporary}" in path.read_text(errors="replace"):
                    programs.append((path.parent / "cmdline").read_text())
            except OSError:
                continue
        return hidden + [str(p) for p in self.temporary.iterdir()] + programs

    def _said(self, name: str) -> str:
        return str(self.temporary.parent / f"{name}.txt")

    def _ask(self, *question: Any) -> int:
        self.process.stdin.write(json.dumps(question) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())


@pytest.fixture(scope="module")
def forking() -> Iterator[Any]:
    program = [sys.executable, str(Path(__file__).with_name("forking.py"))]
    with subprocess.Popen(
        program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield process
        assert process.stdin is not None
        process.stdin.close()


@pytest.fixture(scope="module")
def results(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an export, a result of each file, a baseline and a recipe."""
    folder = Path(shutil.copytree(exported, tmp_path_factory.mktemp("results") / "own"))
    tiny = load(folder / "tiny.pt")
    save(create("mlp", tiny.input, 10, structure="dense", hidden=(64, 64)), folder / "dense.pt")
    recipe = 'epochs = 2\nhidden = [16]\nobjective = "natural"\nthreads = 1\n'
    (folder / "recipe.toml").write_text(recipe)
    for name, file in (("result", "tiny.onnx"), ("other", "tiny.tflite")):
        report = api.bench([folder / file], samples=20)
        (folder / f"{name}.json").write_text(dump(report))
    api.update_baseline(folder / "result.json", folder / "base.json")
    return folder


@pytest.fixture
def forker(forking: Any, results: Path, tmp_path: Path) -> Forker:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    return Forker(forking, Path(shutil.copytree(results, tmp_path / "place")), temporary)


def content(folder: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("number", list(CODES), ids=lambda n: signal.Signals(n).name)
@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_that_is_ended(forker: Forker, name: str, number: int) -> None:
    command, made = COMMANDS[name]
    begun = time.monotonic()
    assert forker.wait(forker.start(command)) == 0, forker.errors()
    length = time.monotonic() - begun
    assert forker.left() == []
    inputs = {k: v for k, v in content(forker.folder).items() if "made" not in k}
    for _ in range(max(1, ROUNDS // LONG.get(name, 1))):
        process = forker.start(command)
        time.sleep(random.uniform(0.05, length))
        os.kill(process, number)
        code = forker.wait(process)
        assert code in (CODES[number], 0) or (number != 9 and code == -number), forker.errors()
        if number == signal.SIGKILL:
            time.sleep(0.2)  # what died with it is gone
            assert forker.wait(forker.start(command)) == 0, forker.errors()
        elif code > 0:
            assert len(forker.errors()) == 1
        assert forker.left() == []
        assert (forker.folder / made).is_file()
        assert {k: v for k, v in content(forker.folder).items() if k in inputs} == inputs


@pytest.mark.parametrize("name", COMMANDS)
def test_two_commands_that_write_one_file(forker: Forker, name: str) -> None:
    command, made = COMMANDS[name]
    for _ in range(max(1, ROUNDS // LONG.get(name, 1))):
        both = [forker.start(command, said) for said in ("first", "second")]
        codes = [forker.wait(process) for process in both]
        errors = forker.errors("first") + forker.errors("second")
        assert sorted(codes) in ([0, 0], [0, 2])
        if 2 in codes:
            assert len(errors) == 1
            assert "is being written by another sepdeploy" in errors[0]
        assert forker.left() == []
        assert (forker.folder / made).is_file()


def test_no_update_of_a_baseline_is_lost(forker: Forker) -> None:
    for _ in range(5 * ROUNDS):
        (forker.folder / "made.json").unlink(missing_ok=True)
        both = [
            forker.start(f"baseline update {result}.json --baseline made.json", result)
            for result in ("result", "other")
        ]
        assert [forker.wait(process) for process in both] == [0, 0]
        kept = load_baseline(forker.folder / "made.json").entries
        assert {entry.key.artifact for entry in kept} >= {"tiny.onnx", "tiny.tflite"}
        assert forker.left() == []
