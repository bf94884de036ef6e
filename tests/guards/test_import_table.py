"""Who may import whom (ARCHITECTURE.md, "Imports"), read from the source itself."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MAPPED = ("exporters", "runtimes", "devices")
LEAVES = {"errors", "files", "flatbuffer", "records", "threat"}

# part -> parts of sepdeploy it may import (besides itself and the leaves)
ALLOWED: dict[str, set[str]] = {
    "errors": set(),
    "files": set(),
    "flatbuffer": set(),
    "records": set(),
    "threat": set(),
    "structures": set(),
    "data": set(),
    "layers": {"structures"},
    "models": {"structures", "layers"},
    "exporters": {"structures"},
    "runtimes": set(),
    "devices": set(),
    "attacks": set(),
    "training": {"structures", "layers", "models", "data", "attacks", "compression"},
    "compression": {"structures", "layers", "models", "data"},
    "measure": {"structures", "exporters", "runtimes", "devices", "attacks", "data"},
    "gate": {"measure"},  # its statistics module only, see GATE_MEASURE
    "reports": {"gate", "devices", "workflows"},  # workflows: record classes, for type checking
    "workflows": {
        "structures", "layers", "models", "data", "attacks", "training", "compression",
        "exporters", "runtimes", "devices", "measure", "gate", "reports",
    },
    "api": {"workflows", "models", "gate"},
    "console": set(),
    "commands": {"api", "console", "reports", "devices", "records", "gate", "training"},
    "exits": {"console"},
    "cli": {"commands", "console", "exits"},
    "__main__": {"cli"},
    "__init__": {"api", "models", "runtimes"},
}  # fmt: skip

# exporters/trace.py turns layers into graph nodes, so it must know them.
EXTRA_BY_FILE = {"exporters/trace.py": {"layers", "models"}}

THIRD_PARTY: dict[str, tuple[str, ...]] = {
    "torch": (
        "sepdeploy/layers", "sepdeploy/models", "sepdeploy/training", "sepdeploy/compression",
        "sepdeploy/attacks", "exporters/trace.py", "sepdeploy/workflows",
    ),
    "onnxruntime": ("runtimes/ort.py", "runtimes/runner.py"),
    "ai_edge_litert": ("runtimes/litert.py", "runtimes/runner.py"),
    "tflite_runtime": ("runtimes/litert.py", "runtimes/runner.py"),
    "onnxsim": ("exporters",),
    "onnxscript": ("exporters",),
    "rich": ("sepdeploy/console.py", "sepdeploy/reports/terminal"),
    "typer": ("sepdeploy/cli.py", "sepdeploy/commands"),
    "sklearn": ("sepdeploy/data",),
    "PIL": ("sepdeploy/data",),
    "scipy": (),
    "click": (),
    "pydantic": (),
}  # fmt: skip


def sources() -> list[Path]:
    folders = [ROOT / "sepdeploy", *(ROOT / name for name in MAPPED)]
    return sorted(p for folder in folders for p in folder.rglob("*.py"))


def part_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return parts[0] if parts[0] in MAPPED else parts[1]


def imports_of(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            if node.module == "sepdeploy":
                found |= {f"sepdeploy.{alias.name}" for alias in node.names}
            else:
                found.add(node.module)
    return found


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(ROOT)))
def test_a_file_imports_only_what_the_table_allows(path: Path) -> None:
    part, name = part_of(path), str(path.relative_to(ROOT))
    assert part in ALLOWED, f"add {part} to the import table here and in ARCHITECTURE.md"
    allowed = ALLOWED[part] | LEAVES | {part, "__version__"} | EXTRA_BY_FILE.get(name, set())
    for module in imports_of(path):
        top, _, rest = module.partition(".")
        assert top not in MAPPED, f"{name}: import sepdeploy.{top}, not {top}"
        if top == "sepdeploy" and rest:
            assert rest.split(".")[0] in allowed, f"{name} may not import {module}"


@pytest.mark.parametrize("package", THIRD_PARTY)
def test_a_third_party_package_stays_in_its_place(package: str) -> None:
    places = THIRD_PARTY[package]
    for path in sources():
        name = str(path.relative_to(ROOT))
        if any(module.split(".")[0] == package for module in imports_of(path)):
            assert name.startswith(places or ("nowhere",)), f"{name} may not import {package}"


def test_gate_takes_only_the_statistics_of_measure() -> None:
    for path in sources():
        if part_of(path) == "gate":
            taken = {m for m in imports_of(path) if m.startswith("sepdeploy.measure")}
            assert taken <= {"sepdeploy.measure.statistics"}, path


def test_no_twin_packages_are_imported() -> None:
    # In a process of its own: whatever else this test process has imported says nothing.
    names = [f"sepdeploy.{name}" for name in MAPPED]
    code = (
        "import importlib, sys\n"
        f"for name in {names!r}:\n"
        "    module = importlib.import_module(name)\n"
        "    assert module.__name__ == name, module\n"
        "    assert module.__spec__.name == name, module.__spec__\n"
        f"print(*[m for m in sys.modules if m.split('.')[0] in {MAPPED!r}])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT.parent
    )
    assert not done.stdout.split(), f"imported under a second name: {done.stdout}"
