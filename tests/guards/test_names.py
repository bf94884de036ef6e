"""docs/names.md lists what scripts rely on; it is held against the tables in the code."""

from __future__ import annotations

import re
from pathlib import Path

from sepdeploy.attacks import ATTACKS
from sepdeploy.data import DATASETS
from sepdeploy.metrics import METRICS
from sepdeploy.models.factory import ARCHITECTURES
from sepdeploy.runtimes.runner.table import RUNTIMES
from sepdeploy.settings import ARCHITECTURE_NAMES, DATA_NAMES, RUNTIME_NAMES
from sepdeploy.structures import STRUCTURES

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "names.md").read_text()


def listed(what: str) -> list[str]:
    (line,) = re.findall(rf"^\* {what}: (.*)$", PAGE, re.MULTILINE)
    return re.findall(r"`([^`]+)`", line)


def test_metrics_units_and_kinds_are_those_of_the_table() -> None:
    rows = re.findall(r"^\| `(\w+)` \| ([^|]+) \| ([A-Z_, ]+) \|$", PAGE, re.MULTILINE)
    kinds = {name: ", ".join(sorted(k.value for k in row.kinds)) for name, row in METRICS.items()}
    assert rows == [(name, row.unit, kinds[name]) for name, row in METRICS.items()]


def test_names_are_those_of_the_tables() -> None:
    assert listed("structures") == list(STRUCTURES)
    assert listed("attacks") == list(ATTACKS)
    assert listed("data sets") == list(DATASETS)


def test_every_schema_of_the_page_is_written_by_the_code() -> None:
    folders = ("sepdeploy", "exporters", "runtimes", "devices")
    code = "".join(p.read_text() for folder in folders for p in (ROOT / folder).rglob("*.py"))
    named = re.findall(r"`(sepdeploy\.\w+/\d+)`", PAGE)
    assert len(named) > 10
    assert [schema for schema in named if schema not in code] == []


def test_names_that_help_shows_are_those_of_the_tables() -> None:
    assert tuple(DATASETS) == DATA_NAMES
    assert tuple(RUNTIMES) == RUNTIME_NAMES
    assert sorted(ARCHITECTURE_NAMES) == sorted(ARCHITECTURES)
