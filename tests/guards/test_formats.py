"""Only the table of formats knows what a format is called: elsewhere nothing asks by name."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TABLE = ROOT / "exporters/formats.py"
NAMES = {"onnx", "tflite", ".onnx", ".tflite"}
MOST = 8
LOOKING = ("endswith", "removesuffix")
# ONNX calls its own operators by a domain of the same name.
DOMAINS = ("ai.onnx",)


def branches(tree: ast.AST) -> Iterator[int]:
    """Lines of comparisons and look-ups that ask for a format by its name or suffix."""
    for node in ast.walk(tree):
        asked: list[ast.AST] = []
        if isinstance(node, ast.Compare):
            asked = [node.left, *node.comparators]
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") in LOOKING:
            asked = list(node.args)
        constants = {
            part.value
            for value in asked
            for part in ast.walk(value)
            if isinstance(part, ast.Constant) and isinstance(part.value, str)
        }
        if constants & NAMES and not constants & set(DOMAINS):
            yield node.lineno


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("path.suffix == '.onnx'", 1),
        ("name in ('onnx', 'tflite')", 1),
        ("name.endswith('.tflite')", 1),
        ("(name, flavour) == ('tflite', 'custom')", 1),
        ("domain in ('', 'ai.onnx', 'onnx')", 0),
        ("format_of(path) is ONNX", 0),
    ],
)
def test_a_branch_is_told(code: str, found: int) -> None:
    assert len(list(branches(ast.parse(code)))) == found


def test_few_ask_for_a_format_by_name() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}"
        for folder in ("sepdeploy", "exporters", "runtimes", "devices")
        for path in sorted((ROOT / folder).rglob("*.py"))
        if path != TABLE
        for line in branches(ast.parse(path.read_text()))
    ]
    assert len(found) <= MOST, "\n".join(found)
