"""The jobs of docs/ci.md, taken from the page and run: nothing changed, and something got worse."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/ci.md").read_text(encoding="utf-8")
ACTION = (ROOT / "action.yml").read_text(encoding="utf-8")
INSTALLED = ("pip install", "python -m pip")  # what runs here is installed already
pytestmark = pytest.mark.slow


def section(title: str) -> str:
    return PAGE.split(f"## {title}\n", 1)[1].split("\n## ", 1)[0]


def steps(yaml: str) -> list[str]:
    """Return the shell of a job: its ``run`` or ``script`` lines, and that of our action."""
    found = []
    for step in re.split(r"\n\s+- ", re.sub(r"[ \t]+$", "", yaml, flags=re.MULTILINE)):
        if step.startswith("uses: OWNER/sepdeploy@"):
            (result,) = re.findall(r"result: (\S+)", step)
            found.append(f"RESULT={result}\n" + textwrap.dedent(ACTION.rsplit("run: |\n", 1)[1]))
        elif step.startswith("run: >-"):
            found.append(" ".join(step.removeprefix("run: >-").split()))
        elif step.startswith(("run: ", "sepdeploy ", "pip ")):
            found.append(step.removeprefix("run: ").partition("\n")[0])
    return [step for step in found if not step.startswith(INSTALLED)]


GITHUB, LATENCY = re.findall(r"```yaml\n(.*?)```", section("GitHub"), re.DOTALL)
(GITLAB,) = re.findall(r"```yaml\n(.*?)```", section("GitLab"), re.DOTALL)
JOBS = {"github": steps(GITHUB), "latency": steps(LATENCY), "gitlab": steps(GITLAB)}
(FIRST,) = re.findall(r"## .*?|\n\n(    sepdeploy bench demo.*?)\n\n", PAGE.split("\n## ")[0], re.S)
MAKE_BASELINE = [line.split("#")[0].strip() for line in FIRST.splitlines()][:2]


@dataclass
class Repository:
    """A checkout with a model, the same model of the target branch, and one baseline."""

    folder: Path
    environment: dict[str, str]

    def run(self, lines: list[str]) -> tuple[int, str]:
        """Run a job's lines as a runner does, up to the first that fails."""
        said = ""
        for line in lines:
            done = subprocess.run(
                ["bash", "--noprofile", "--norc", "-e", "-o", "pipefail", "-c", line],
                cwd=self.folder,
                env=self.environment,
                capture_output=True,
                text=True,
                timeout=900,
                check=False,
            )
            said += done.stdout + done.stderr
            if done.returncode:
                return done.returncode, said
        return 0, said


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory, exported: Path) -> Repository:
    folder, programs = tmp_path_factory.mktemp("checkout"), tmp_path_factory.mktemp("bin")
    for place in ("models", "old/models", "demo"):
        (folder / place).mkdir(parents=True)
        shutil.copy(exported / "tiny.onnx", folder / place / "kron.onnx")
    call = f'#!/bin/sh\nexec "{sys.executable}" -m sepdeploy "$@"\n'
    (programs / "sepdeploy").write_text(call)
    (programs / "sepdeploy").chmod(0o755)
    places = {
        "GITHUB_OUTPUT": "output", "GITHUB_STEP_SUMMARY": "summary", "JUNIT": "j.xml",
        "SARIF": "s.sarif", "MARKDOWN": "c.md",
    }  # fmt: skip
    environment = {
        **os.environ,
        "PATH": f"{programs}:{os.environ['PATH']}",
        "PYTHONPATH": f"{ROOT}",
        "PYTHON": sys.executable,
        "BASELINE": "sepdeploy-baseline.json",
        "CONFIG": "",
        "TOLERATE": "",
        **{name: str(folder / path) for name, path in places.items()},
    }
    made = Repository(folder, environment)
    code, said = made.run([line.replace("demo/", "models/") for line in MAKE_BASELINE])
    if "not emulated" in said:
        pytest.skip(f"no emulation: {said.strip()}")
    assert code == 0, said
    return made


@pytest.mark.parametrize("job", JOBS)
def test_nothing_changed_three_times(repository: Repository, job: str) -> None:
    assert len(JOBS[job]) >= 2
    for _ in range(3):
        code, said = repository.run(JOBS[job])
        # An overloaded machine may be told apart from a regression, never mistaken for one.
        assert code == 0 or (job == "latency" and code == 5), said


@pytest.mark.parametrize("job", JOBS)
def test_a_real_regression_fails_the_job(repository: Repository, job: str, tmp_path: Path) -> None:
    import sepdeploy as sd
    from sepdeploy.models import create, save
    from sepdeploy.records import InputSpec

    model = create("mlp", InputSpec((1, 8, 8)), 10, structure="dense", hidden=(1024, 1024))
    save(model.eval(), tmp_path / "kron.pt")
    sd.export(tmp_path / "kron.pt", eval_pack=False)
    worse = Repository(tmp_path / "worse", repository.environment)
    shutil.copytree(repository.folder, worse.folder)
    shutil.copy(tmp_path / "kron.onnx", worse.folder / "models/kron.onnx")
    code, said = worse.run(JOBS[job])
    assert code == 1 or (job == "latency" and code == 5 and "disturbed" in said), said
