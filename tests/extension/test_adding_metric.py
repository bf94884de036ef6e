"""A new metric is a row of ``METRICS`` and the function that takes it; nothing else knows it."""

from __future__ import annotations

import json
import pkgutil
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from sepdeploy.metrics import HERE, METRICS, Column, Metric, measured
from sepdeploy.records import Kind

ROOT = Path(__file__).parents[2]
STATIC = frozenset({Kind.STATIC})
TAKER = """
from sepdeploy.metrics import measured
from sepdeploy.records import Kind

ANSWER = 42

def take(path, runtime, threads, shapes):
    return (measured("answer", ANSWER, Kind.STATIC, details={"threads": threads}),)
"""


@pytest.fixture
def answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Register a constant; the function changes it."""
    (tmp_path / "toy_answer.py").write_text(TAKER)
    monkeypatch.syspath_prepend(tmp_path)
    row = Metric(
        "things", STATIC, "count", STATIC, STATIC, worse="The answer has grown.",
        column=Column("answer", lambda v: f"~{v}", (HERE,)), taken_by="toy_answer:take",
    )  # fmt: skip
    monkeypatch.setitem(METRICS, "answer", row)

    def change(value: int) -> None:
        monkeypatch.setattr("toy_answer.ANSWER", value)

    return change


@pytest.mark.slow
def test_a_metric_goes_from_measuring_to_a_verdict(
    copy: Path, call: Callable, answer: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(copy)
    bench = ("bench", "tiny.onnx", "--samples", 10, "--eps", 0, "-q", "--json")
    assert call(*bench, "old.json").code == 0
    (result,) = json.loads((copy / "old.json").read_text())["results"]
    (stored,) = [m for m in result["measurements"] if m["metric"] == "answer"]
    assert (stored["value"], stored["unit"], stored["kind"]) == (42, "things", "STATIC")

    assert call("baseline", "update", "old.json").code == 0
    assert call("check", "old.json").code == 0

    answer(43)
    table = call(*bench, "new.json").out
    assert re.search(r"answer", table)
    assert "~43" in table
    found = call("check", "new.json", "--sarif", "found.sarif")
    assert found.code == 1
    assert re.search(r"FAIL +answer +STATIC +42 +43", found.out)
    (rule,) = json.loads((copy / "found.sarif").read_text())["runs"][0]["tool"]["driver"]["rules"]
    assert rule["shortDescription"]["text"] == "The answer has grown."

    (copy / "rules.toml").write_text('allow = { answer = "5%" }\nbudgets = ["answer <= 42.5"]\n')
    found = call("check", "new.json", "--config", "rules.toml")
    assert found.code == 1
    assert "budget answer <= 42.5" in found.out
    assert re.search(r"ok +answer", found.out)


def test_a_measurement_needs_a_row_and_one_of_its_kinds() -> None:
    with pytest.raises(KeyError):
        measured("answer", 42, Kind.STATIC)
    with pytest.raises(ValueError, match="latency_ms is never EMULATED"):
        measured("latency_ms", 1.0, Kind.EMULATED)


def test_measurements_are_made_in_one_place() -> None:
    made = [
        path.name
        for folder in ("sepdeploy", "devices", "exporters", "runtimes")
        for path in (ROOT / folder).rglob("*.py")
        if re.search(r"(?<!class )\bMeasurement\(", path.read_text())
    ]
    assert made == ["metrics.py"]


@pytest.mark.parametrize("name", METRICS)
def test_rows_agree_with_themselves(name: str) -> None:
    row = METRICS[name]
    assert row.unit
    assert row.gated <= row.kinds
    assert row.budget <= row.kinds
    assert bool(row.rule) == bool(row.gated) == bool(row.worse)
    assert set(row.variants) - {"batch", "kernels"} <= set(row.same)
    if row.taken_by:
        assert callable(pkgutil.resolve_name(row.taken_by))
