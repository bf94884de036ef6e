"""Every error says its own next step, or one of the table that errors share."""

from __future__ import annotations

import ast
from pathlib import Path

from sepdeploy import errors

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("sepdeploy", "exporters", "runtimes", "devices")
ERRORS = {n for n, e in vars(errors).items() if isinstance(e, type) and issubclass(e, Exception)}
TABLE = {n: text for n, text in vars(errors).items() if n.isupper() and isinstance(text, str)}
SOURCES = {p: p.read_text() for room in ROOMS for p in (ROOT / room).rglob("*.py")}


def name_of(node: ast.expr) -> str:
    return node.id if isinstance(node, ast.Name) else getattr(node, "attr", "")


def test_every_error_has_a_next_step() -> None:
    without = [
        f"{path.relative_to(ROOT)}:{node.lineno}: give {name_of(node.func)} a hint=, its own or "
        "one of sepdeploy/errors.py"
        for path, text in SOURCES.items()
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Call)
        and name_of(node.func) in ERRORS
        and not any(k.arg in ("hint", None) for k in node.keywords)
    ]
    assert without == []


def test_the_table_of_hints_is_used_and_fits_a_line() -> None:
    code = "\n".join(text for path, text in SOURCES.items() if path.name != "errors.py")
    assert {name for name in TABLE if name not in code} == set()
    assert all(20 < len(text) <= 100 for text in TABLE.values())
    assert len(set(TABLE.values())) == len(TABLE)
