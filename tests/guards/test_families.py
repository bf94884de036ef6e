"""A structure family answers for itself: nobody else asks for its name or its class."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from sepdeploy.exporters.families import FAMILIES
from sepdeploy.layers import CONVOLUTION_LAYERS, LAYERS
from sepdeploy.structures import CONVOLUTIONS, STRUCTURES

ROOT = Path(__file__).resolve().parents[2]
OWN = ("sepdeploy/structures/", "sepdeploy/layers/", "exporters/families/")
MOST_BRANCHES = 12  # that may name a family elsewhere
PLAIN = "dense"  # what a layer is that has no structure

NAMES = {*STRUCTURES, *CONVOLUTIONS} - {PLAIN}
CLASSES = {
    row.__name__
    for table in (STRUCTURES, CONVOLUTIONS, LAYERS, CONVOLUTION_LAYERS)
    for name, row in table.items()
    if name != PLAIN
} | {family.op_type for family in FAMILIES.values()}


def conditions(tree: ast.AST) -> Iterator[ast.AST]:
    """Whatever decides which way to go: comparisons, isinstance, keys of matches."""
    for node in ast.walk(tree):
        called = node.func if isinstance(node, ast.Call) else None
        named = isinstance(called, ast.Name) and called.id in ("isinstance", "issubclass")
        starts = isinstance(called, ast.Attribute) and called.attr in ("startswith", "endswith")
        if isinstance(node, (ast.Compare, ast.match_case)) or named or starts:
            yield node


def names_a_family(condition: ast.AST) -> bool:
    for node in ast.walk(condition):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            if node.value in NAMES or node.value in CLASSES:
                return True
        elif (isinstance(node, ast.Name) and node.id in CLASSES) or (
            isinstance(node, ast.Attribute) and node.attr in CLASSES
        ):
            return True
    return False


def branches(source: str) -> list[int]:
    """The lines of a text that decide by a family's name or class."""
    tree = ast.parse(source)
    return sorted(
        {c.lineno for c in conditions(tree) if names_a_family(c) and hasattr(c, "lineno")}
    )


def test_nobody_else_branches_on_a_family() -> None:
    found = []
    for folder in ("sepdeploy", "exporters", "runtimes", "devices"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            name = str(path.relative_to(ROOT))
            if not name.startswith(OWN):
                found += [f"{name}:{line}" for line in branches(path.read_text())]
    assert len(found) <= MOST_BRANCHES, found


def test_a_branch_is_seen() -> None:
    text = (
        "if isinstance(x, KronLinear):\n    pass\ny = a == 'lowrank'\nz = x in ('tucker', 'q')\n"
        "w = text.startswith('kron')\nv = KronLinear(4)\nu = 'kron'\n"
    )
    assert branches(text) == [1, 3, 4, 5]


def test_the_tables_have_the_same_families() -> None:
    assert {*LAYERS, PLAIN} == {*FAMILIES, PLAIN} == STRUCTURES.keys()
    assert CONVOLUTION_LAYERS.keys() == CONVOLUTIONS.keys()
    for tables in (STRUCTURES, FAMILIES):
        assert all(row.structure == name for name, row in tables.items())
