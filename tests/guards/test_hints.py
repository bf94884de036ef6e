"""Every error says its own next step, or one of the table that errors share."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import typer

from sepdeploy import errors
from sepdeploy.cli import GROUPS, build

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


def texts_of(source: str) -> Iterator[str]:
    """Give the texts of a module, an X for what an f-string fills in, and no docstring of code."""
    tree = ast.parse(source)
    parts = {id(v) for n in ast.walk(tree) if isinstance(n, ast.JoinedStr) for v in n.values}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(v.value) if isinstance(v, ast.Constant) else "X" for v in node.values)
        elif (
            isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in parts
        ):
            yield node.value


def wrong_words(text: str, known: dict[str, set[str]]) -> list[str]:
    """Return the commands of a text that do not exist, or that lack an option named with them."""
    groups, wrong = {name.split()[0] for name in known if " " in name}, []
    for found in re.finditer(r"\bsepdeploy ([a-z]+)(?: ([a-z]+))?([^;,()`\n]*)", text):
        name, second, rest = found[1], found[2] or "", found[3]
        if name in groups:
            name = f"{name} {second}".strip()
        elif name not in known:
            continue  # a sentence
        flags = set(re.findall(r"(?<!\S)--?[a-z][a-z-]*", rest))
        if (name not in known and name not in groups) or not flags <= known.get(name, set()) | {
            "--help"
        }:
            wrong.append(found[0])
    return wrong


def test_commands_that_are_named_exist_with_their_options() -> None:
    app = typer.main.get_command(build())
    rows = dict(app.commands.items())  # type: ignore[attr-defined]
    for group in GROUPS:
        rows |= {f"{group} {name}": c for name, c in rows.pop(group).commands.items()}
    known = {
        n: {o for p in c.params for o in (*p.opts, *p.secondary_opts)} for n, c in rows.items()
    }
    pages = {p: p.read_text() for p in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]}
    texts = [(p, t) for p, source in SOURCES.items() for t in texts_of(source)] + list(
        pages.items()
    )
    found = [f"{p.relative_to(ROOT)}: {w}" for p, text in texts for w in wrong_words(text, known)]
    assert found == []


def test_the_table_of_hints_is_used_and_fits_a_line() -> None:
    code = "\n".join(text for path, text in SOURCES.items() if path.name != "errors.py")
    assert {name for name in TABLE if name not in code} == set()
    assert all(20 < len(text) <= 100 for text in TABLE.values())
    assert len(set(TABLE.values())) == len(TABLE)
