"""What keeps the house readable: lengths of files, files of a folder, parameters, no circles."""

from __future__ import annotations

import ast
from collections import Counter
from graphlib import TopologicalSorter
from pathlib import Path

from test_import_table import MAPPED, ROOT, run_on_loading, sources

LONGEST_FILE = 400
FILES_OF_A_FOLDER = 15  # besides __init__.py and __main__.py, whose names Python gives
MANY_PARAMETERS = 8
FUNCTIONS_WITH_MORE = 8


def parameters(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    given = node.args
    names = [a.arg for a in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
    return len([name for name in names if name not in ("self", "cls")])


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    parts = ("sepdeploy", *parts) if parts[0] in MAPPED else parts
    return ".".join(parts).removesuffix(".__init__")


def test_no_file_is_too_long() -> None:
    lengths = {str(p.relative_to(ROOT)): len(p.read_text().splitlines()) for p in sources()}
    assert {name: n for name, n in lengths.items() if n > LONGEST_FILE} == {}


def test_no_folder_holds_too_many_files() -> None:
    found = Counter(path.parent for path in sources() if not path.name.startswith("__"))
    crowded = {str(f.relative_to(ROOT)): n for f, n in found.items() if n > FILES_OF_A_FOLDER}
    assert crowded == {}


def test_few_functions_take_many_parameters() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{node.name} {parameters(node)}"
        for path in sources()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        and parameters(node) > MANY_PARAMETERS
    ]
    assert len(found) <= FUNCTIONS_WITH_MORE, found


def test_no_modules_import_each_other_in_a_circle() -> None:
    modules = {module_of(path): path for path in sources()}
    graph: dict[str, set[str]] = {}
    for name, path in modules.items():
        graph[name] = set()
        for node in run_on_loading(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                graph[name] |= {alias.name for alias in node.names} & set(modules)
            elif isinstance(node, ast.ImportFrom) and node.module:
                inner = {f"{node.module}.{a.name}" for a in node.names}
                own = inner & set(modules)
                graph[name] |= own or ({node.module} & set(modules))
    TopologicalSorter(graph).prepare()  # raises CycleError
