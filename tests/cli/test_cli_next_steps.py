"""What a command prints as the next step runs as it is printed."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

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


def test_only_code_of_ones_own_is_named_again() -> None:
    from sepdeploy.workflows.training import export_command

    assert export_command("m.pt", "mlp") == "sepdeploy export m.pt"
    assert (
        export_command("a b.pt", "next_step_network:make")
        == "sepdeploy export 'a b.pt' --arch next_step_network:make"
    )
