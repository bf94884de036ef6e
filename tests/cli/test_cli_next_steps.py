"""What a command prints as the next step runs as it is printed."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from test_cli_wrong_uses import TEXTS

MINE = """
from torch import nn

def make(classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, classes))
"""
TRAINED = ["train", "--epochs", "1", "--objective", "natural"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "runs",
    [
        [[*TRAINED, "--hidden", "16", "-o", "a net.pt"]],
        [[*TRAINED, "--arch", "next_step_network:make", "-o", "my.pt"]],
        [
            [*TRAINED, "--arch", "next_step_network:make", "-o", "my.pt"],
            ["compress", "my.pt", "--arch", "next_step_network:make", "--structure", "lowrank:4"],
        ],
    ],
    ids=["a name with a space", "an architecture of one's own", "compressed"],
)
def test_the_printed_next_step_runs(
    runs: list[list[str]], tmp_path: Path, call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "next_step_network.py").write_text(MINE)
    for words in runs:
        got = call(*words)
        assert got.code == 0, got.err
    (step,) = re.findall(r"^next: sepdeploy (.*)$", got.err, re.MULTILINE)
    after = call(*shlex.split(step), "-f", "onnx", "--no-eval")
    assert after.code == 0, after.err


# Wrong uses whose next step is complete, so that what it says must work.
MENDED = {
    "inspect tiny.onnx --json 'a b.onnx'": "",
    "inspect tiny.onnx --arch mlp": "",
    "inspect --nonsense": "",
    "devices show rpi44": "",
    "devices nonsense": "",
    "baseline update": "",
    "verify tiny.onnx": "",
    "check bench.json": "check bench.json",
    "check bench.json --baseline 'my base.json'": "check bench.json --baseline 'my base.json'",
    "check bench.json --baseline base.json --junit b.json": "",
    "check bench.json --baseline base.json --sarif b.xml": "",
    "attack tiny.pt -o sub/a.onnx --attack fgsm --samples 4": "",
    "attack tiny.pt -o a.npz --attack fgsm --eps 8 --samples 4": "",
    "export tiny.pt -o 'o ut.onnx' --no-eval": "",
    "export tiny.pt -f tflite --no-simplify --no-eval": "",
    "export tiny.pt --flavour custom --quantize dynamic --no-eval": "",
    "export tiny.pt -o out --no-eval --attack pgd-3 -f onnx": "",
    "bench tiny.onnx --host pi@x": "",
    "bench tiny.onnx --save-anchor": "",
    "bench tiny.onnx --sustained 5": "",
    "bench tiny.tflite --runtime onnxruntime": "",
    "bench tiny.onnx --eps 8 --attack fgsm --samples 4": "",
    "bench tiny.onnx --device hots": "",
    "compress dense.pt --structure lowrank:2 --json c.pt": "",
    "compress dense.pt --structure lowrank:2 --resume": "",
    "train -o m.onnx --epochs 1 --objective natural --hidden 8": "",
    "doctor torch": "",
}
# What a next step asks for: other words for a flag, one flag less, or another command.
STEPS = (
    r"(?P<flag>-\S.*)",
    r"did you mean (?P<eps>\S+)\?.*",
    r"use (?P<flag>--\S+ \S+)( or .*)?",
    r"(give .*, or )?leave (?P<drop>-\S+) out",
    r"drop (?P<drop>-\S+) \S+",
    r"leave (?P<drop>one of them) out",
    r"(.*: )?sepdeploy (?P<command>.*)",
)


def without(words: list[str], flag: str) -> list[str]:
    """Leave out a flag with its value, if it has one."""
    names = {flag, flag.replace("--", "--no-", 1)}
    at = next(i for i, w in enumerate(words) if w in names)
    valued = at + 1 < len(words) and not words[at + 1].startswith("-")
    return words[:at] + words[at + 1 + valued :]


def mended(words: list[str], step: str) -> list[str]:
    """Return the command line that a next step makes of a wrong one."""
    found = next(m for m in (re.fullmatch(p, step) for p in STEPS) if m).groupdict()
    if command := found.get("command"):
        return shlex.split(command)
    if drop := found.get("drop"):
        return without(words, "--no-eval" if drop == "one of them" else drop)
    own = shlex.split(found.get("flag") or f"--eps {found['eps']}")
    return [*without(words, own[0]), *own]


@pytest.fixture(scope="module")
def workplace(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from sepdeploy import data
    from sepdeploy.gate import load_report, update_baseline
    from sepdeploy.models import create, save

    found = tmp_path_factory.mktemp("steps")
    for path in exported.iterdir():
        (found / path.name).write_bytes(path.read_bytes())
    (found / "bench.json").write_text(TEXTS["bench.json"])
    (found / "sub").mkdir()
    update_baseline(load_report(found / "bench.json"), found / "base.json")
    save(create("mlp", data.load("digits").input, 10, hidden=(8,)).eval(), found / "dense.pt")
    return found


@pytest.mark.slow
@pytest.mark.parametrize("line", MENDED)
def test_the_next_step_of_an_error_runs(
    workplace: Path, line: str, call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(workplace)
    words = shlex.split(line)
    got = call(*words)
    assert got.code, got.out
    (step,) = re.findall(r"^  next: (.*)$", got.err, re.MULTILINE)
    after = call(*mended(words, step))
    assert after.code == 0, (step, after.err)
    if MENDED[line]:
        again = call(*shlex.split(MENDED[line]))
        assert again.code == 0, again.err


def test_only_code_of_ones_own_is_named_again() -> None:
    from sepdeploy.workflows.training import export_command

    assert export_command("m.pt", "mlp") == "sepdeploy export m.pt"
    assert (
        export_command("a b.pt", "next_step_network:make")
        == "sepdeploy export 'a b.pt' --arch next_step_network:make"
    )
