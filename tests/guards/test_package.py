"""The package list, the public names, the size of the base tier, and a light ``--help``."""

from __future__ import annotations

import re
import subprocess
import sys
import time
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

import sepdeploy

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
HEAVY = ("torch", "numpy", "onnx", "onnxruntime", "rich", "ai_edge_litert", "tflite_runtime")

PUBLIC = {
    "ArtifactCheckFailed", "BadInput", "BenchReport", "Incomparable", "Manifest", "Missing",
    "SepdeployError", "Unstable", "__version__", "bench", "check", "compress", "export",
    "inspect", "load", "open", "save", "train", "verify", "wrap",
}  # fmt: skip


def test_every_package_folder_is_in_the_package_list() -> None:
    setuptools = PROJECT["tool"]["setuptools"]
    listed = set(setuptools["packages"])
    found = set()
    for package, folder in setuptools["package-dir"].items():
        for init in (ROOT / folder).rglob("__init__.py"):
            inner = init.parent.relative_to(ROOT / folder).parts
            found.add(".".join([package, *inner]))
    assert listed == found


def test_public_names_are_exactly_these_and_all_load() -> None:
    assert set(sepdeploy.__all__) == PUBLIC
    for name in PUBLIC - {"__version__"}:
        assert callable(getattr(sepdeploy, name))
        assert getattr(sepdeploy, name).__doc__


def test_an_unknown_public_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="nonsense"):
        _ = sepdeploy.nonsense


def test_the_version_is_the_installed_one() -> None:
    assert sepdeploy.__version__ == PROJECT["project"]["version"]


def base_tier(name: str = "sepdeploy", seen: set[str] | None = None) -> set[str]:
    from packaging.requirements import Requirement

    seen = set() if seen is None else seen
    for text in metadata.requires(name) or []:
        need = Requirement(text)
        if need.marker is not None and not need.marker.evaluate({"extra": ""}):
            continue
        key = need.name.lower().replace("_", "-")
        if key not in seen:
            seen.add(key)
            base_tier(need.name, seen)
    return seen


def test_the_base_tier_resolves_to_at_most_22_packages() -> None:
    packages = base_tier() | {"sepdeploy"}
    assert len(packages) <= 22, sorted(packages)
    assert "torch" not in packages


def _imported(code: str) -> set[str]:
    probe = f"{code}\nimport sys; print(' '.join(m for m in {HEAVY!r} if m in sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", probe], capture_output=True, text=True, check=True, cwd="/"
    )
    return set(done.stdout.splitlines()[-1].split()) if done.stdout.strip() else set()


def test_help_imports_nothing_heavy() -> None:
    assert not _imported("from sepdeploy.cli import run; run(['--help']); print()")
    assert not _imported("from sepdeploy.cli import run; run(['bench', '--help']); print()")


def test_measuring_needs_no_torch() -> None:
    code = (
        "import sepdeploy.measure, sepdeploy.runtimes, sepdeploy.exporters, sepdeploy.devices, "
        "sepdeploy.data, sepdeploy.structures, sepdeploy.reports, sepdeploy.api; print()"
    )
    assert "torch" not in _imported(code)


def test_help_is_within_twice_importing_typer() -> None:
    """By the quickest of interleaved runs: what else the machine does lengthens both."""

    def once(*command: str) -> float:
        start = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True, cwd="/")
        return time.perf_counter() - start

    help_, typer_ = [], []
    for _ in range(30):
        help_.append(once(sys.executable, "-m", "sepdeploy", "--help"))
        typer_.append(once(sys.executable, "-c", "import typer"))
        if len(help_) >= 3 and min(help_) <= 2 * min(typer_):
            return
    ratio = min(help_) / min(typer_)
    raise AssertionError(f"--help takes {ratio:.2f} times as long as importing typer")


@pytest.mark.parametrize(
    ("code", "own"),
    [
        ("import sepdeploy", {"sepdeploy"}),
        (
            "from sepdeploy.cli import run; run(['--help'])",
            {
                "sepdeploy",
                "sepdeploy.cli",
                "sepdeploy.errors",
                "sepdeploy.exits",
                "sepdeploy.signals",
            },
        ),
    ],
)
def test_what_a_first_look_imports(code: str, own: set[str]) -> None:
    """No clock: the parts of ours that are loaded before anything is asked for."""
    probe = f"{code}\nimport sys; print(*[m for m in sys.modules if m.startswith('sepdeploy')])"
    done = subprocess.run(
        [sys.executable, "-c", probe], capture_output=True, text=True, check=True, cwd="/"
    )
    assert set(done.stdout.splitlines()[-1].split()) == own


@pytest.mark.parametrize("command", ["train", "bench", "export", "compress", "attack"])
def test_the_help_of_a_command_needs_no_torch(command: str) -> None:
    assert "torch" not in _imported(f"from sepdeploy.cli import run; run([{command!r}, '--help'])")


def test_every_pin_has_a_hash() -> None:
    """torch's wheel differs by index, and pip installs the others."""
    apart = ("#", "torch==", "pip>=")
    pins = [p for p in (ROOT / "constraints.txt").read_text().splitlines() if p[:1]]
    wanted = {pin for pin in pins if not pin.startswith(apart)}
    hashed = (ROOT / "constraints-hashed.txt").read_text().splitlines()[1:]
    found = [line.partition(" --hash=sha256:") for line in hashed]
    assert {pin for pin, _, _ in found} == wanted
    assert all(re.fullmatch(r"[0-9a-f]{64}", digest) for _, _, digest in found)
