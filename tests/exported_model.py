"""A tiny exported model, made once; tests that tamper work on a copy."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

import sepdeploy as sd
from sepdeploy.cli import run

PROVENANCE = {"data": "digits", "objective": "pgd-at", "eps": 0.1, "norm": "linf", "steps": 3}


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``tiny.pt`` and everything ``export`` wrote for it."""
    import torch

    from sepdeploy import data
    from sepdeploy.models import create

    folder = tmp_path_factory.mktemp("exported")
    torch.manual_seed(0)
    digits = data.load("digits")
    model = create("mlp", digits.input, 10, structure="kron", hidden=(64, 64))
    model.provenance.update(PROVENANCE)
    sd.export(model.eval(), folder / "tiny", attack="pgd-3", samples=40)
    return folder


@pytest.fixture
def copy(exported: Path, tmp_path: Path) -> Path:
    """A private copy of ``exported``."""
    return Path(shutil.copytree(exported, tmp_path / "copy"))


@dataclass
class Outcome:
    """What one command line gave."""

    code: int
    out: str
    err: str

    @property
    def line(self) -> str:
        """The one line of the error; fails when there is a traceback or more than one."""
        lines = [x for x in self.err.splitlines() if x.startswith("error: ")]
        assert len(lines) == 1, self.err
        assert "Traceback" not in self.err
        return lines[0]


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Run one command line in this process."""

    def _call(*words: str | Path) -> Outcome:
        capsys.readouterr()
        code = run([str(w) for w in words])
        found = capsys.readouterr()
        return Outcome(code, found.out, found.err)

    return _call
