"""Who may import whom (ARCHITECTURE.md, "Imports"), read from the source itself."""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
from collections.abc import Iterable, Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import sepdeploy

ROOT = Path(__file__).resolve().parents[2]
MAPPED = ("exporters", "runtimes", "devices")
LEAVES = {
    "cache", "codec", "errors", "files", "flatbuffer", "jobs", "metrics",
    "programs", "records", "settings", "signals", "threat",
}  # fmt: skip

# part -> parts of sepdeploy it may import (besides itself and the leaves)
ALLOWED: dict[str, set[str]] = {
    "cache": set(),
    "codec": set(),
    "programs": set(),
    "errors": set(),
    "files": set(),
    "jobs": set(),
    "flatbuffer": set(),
    "records": set(),
    "metrics": set(),
    "settings": set(),
    "signals": set(),
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
    "compression": {"structures", "layers", "models"},
    "measure": {"structures", "exporters", "runtimes", "devices"},
    "gate": {"measure"},  # its statistics module only
    "reports": {"structures", "gate", "devices", "workflows"},  # workflows: for type checking only
    "exports": {"models", "data", "attacks", "exporters", "runtimes", "measure"},
    "workflows": {
        "structures", "models", "data", "attacks", "training", "compression", "exporters",
        "runtimes", "devices", "measure", "exports",
    },
    "api": {"workflows", "exports", "models", "gate", "training"},
    "console": set(),
    "commands": {"api", "console", "reports", "devices", "gate", "training"},
    "exits": {"console"},
    "cli": {"commands", "exits"},
    "__main__": {"cli"},
    "__init__": {"api", "models", "runtimes"},
}  # fmt: skip

# exporters/capture/trace.py turns layers into graph nodes, so it must know them.
EXTRA_BY_FILE = {
    "exporters/capture/trace.py": {"layers", "models"},
    "runtimes/runner/asking.py": {"attacks"},  # the search in numpy, which travels with it
}

THIRD_PARTY: dict[str, tuple[str, ...]] = {
    "torch": (
        "sepdeploy/layers", "sepdeploy/models", "sepdeploy/training", "sepdeploy/compression",
        "sepdeploy/attacks", "exporters/capture/trace.py", "exporters/capture/torch_exporter.py",
        "sepdeploy/exports",
    ),
    "onnxruntime": ("runtimes/runner/ort.py",),
    "ai_edge_litert": (),  # these two by the name in their row alone
    "tflite_runtime": (),
    "onnxsim": ("exporters",),
    "onnxscript": ("exporters",),
    "rich": ("sepdeploy/console.py", "sepdeploy/reports/page.py"),
    "typer": ("sepdeploy/cli.py", "sepdeploy/commands"),
    "sklearn": ("sepdeploy/data",),
    "jinja2": ("sepdeploy/reports/document/html.py",),
    "markupsafe": ("sepdeploy/reports/document/html.py",),
    "vl_convert": ("sepdeploy/reports/document/charts.py",),
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


@functools.cache
def imports_of(path: Path) -> frozenset[str]:
    return frozenset(names_in(path, ast.walk(ast.parse(path.read_text()))))


def imports_on_loading(path: Path) -> set[str]:
    """Modules that a file imports when it is imported: not in functions, not for type checkers."""
    return names_in(path, run_on_loading(ast.parse(path.read_text())))


def run_on_loading(tree: ast.AST) -> Iterator[ast.AST]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            continue
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        yield node
        yield from run_on_loading(node)


def names_in(path: Path, nodes: Iterable[ast.AST]) -> set[str]:
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            if node.module == "sepdeploy":
                found |= {f"sepdeploy.{alias.name}" for alias in node.names}
            else:
                found.add(node.module)
    return found


def parts_imported(path: Path) -> set[str]:
    """Parts of sepdeploy that a file imports, also those that it loads by their names."""
    modules = set(imports_of(path))
    if path == ROOT / "sepdeploy/__init__.py":
        modules |= set(sepdeploy._PUBLIC.values())
    return {m.split(".")[1] for m in modules if m.startswith("sepdeploy.")}


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(ROOT)))
def test_a_file_imports_only_what_the_table_allows(path: Path) -> None:
    part, name = part_of(path), str(path.relative_to(ROOT))
    assert part in ALLOWED, f"add {part} to the import table here and in ARCHITECTURE.md"
    allowed = ALLOWED[part] | LEAVES | {part, "__version__"} | EXTRA_BY_FILE.get(name, set())
    for module in imports_of(path):
        top = module.partition(".")[0]
        assert top not in MAPPED, f"{name}: import sepdeploy.{top}, not {top}"
    refused = parts_imported(path) - allowed
    assert not refused, f"{name} may not import {sorted(refused)}"


def test_every_allowance_is_used() -> None:
    unused = {part: set(allowed) for part, allowed in ALLOWED.items()}
    extra = {name: set(allowed) for name, allowed in EXTRA_BY_FILE.items()}
    for path in sources():
        imported = parts_imported(path)
        unused[part_of(path)] -= imported
        extra.get(str(path.relative_to(ROOT)), set()).difference_update(imported)
    left = {place: parts for place, parts in (unused | extra).items() if parts}
    assert not left, f"nothing needs this any more: {left}"


def test_the_table_has_no_cycle() -> None:
    TopologicalSorter(ALLOWED).prepare()  # raises CycleError


@pytest.mark.parametrize("package", THIRD_PARTY)
def test_a_third_party_package_stays_in_its_place(package: str) -> None:
    places = THIRD_PARTY[package]
    for path in sources():
        name = str(path.relative_to(ROOT))
        if any(module.split(".")[0] == package for module in imports_of(path)):
            assert name.startswith(places or ("nowhere",)), f"{name} may not import {package}"


@pytest.mark.parametrize("package", THIRD_PARTY)
def test_every_place_of_a_third_party_package_needs_it(package: str) -> None:
    users = {
        str(path.relative_to(ROOT))
        for path in sources()
        if any(module.split(".")[0] == package for module in imports_of(path))
    }
    for place in THIRD_PARTY[package]:
        assert any(user.startswith(place) for user in users), f"{place} needs no {package}"


@pytest.mark.parametrize(
    ("part", "module"),
    [("exports", "torch"), ("reports", "sepdeploy.workflows")],
)
def test_what_a_part_may_not_import_on_loading(part: str, module: str) -> None:
    """torch is imported where it is needed; reports know workflows for type checking only."""
    own = [path for path in sources() if part_of(path) == part]
    assert any(m.startswith(module) for path in own for m in imports_of(path))
    for path in own:
        loaded = {m for m in imports_on_loading(path) if f"{m}.".startswith(f"{module}.")}
        assert not loaded, f"{path.relative_to(ROOT)} imports {sorted(loaded)} at its top"


def test_an_import_on_loading_is_told_from_a_later_one(tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text(
        "import a\nif TYPE_CHECKING:\n    import b\nif x:\n    import c.d\n"
        "def f():\n    import e\nclass C:\n    import g\n    def h(self):\n        import i\n"
        "try:\n    from j import k\nexcept ImportError:\n    import l\n"
    )
    assert imports_on_loading(path) == {"a", "c.d", "g", "j", "l"}
    assert imports_of(path) == {*"abegijl", "c.d"}


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
