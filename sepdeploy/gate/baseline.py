"""The baseline: a reviewed JSON file in the user's repository that results are compared with.

    {"schema": "sepdeploy.baseline/1", "entries": [{"key": {...}, "sha256", "measurements": [...]}]}

Entries are sorted, lists of numbers stand on one line and nothing depends on the clock, so that
a diff of the file shows what moved and nothing else. Raw samples and outcomes per image are kept
wherever a rule judges them: they are what the tests of significance need.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sepdeploy.codec import read, to_json
from sepdeploy.errors import BENCH_AGAIN, BadInput, Incomparable, Unstable
from sepdeploy.files import write_text
from sepdeploy.files.claims import Output, claimed
from sepdeploy.files.roles import Writes
from sepdeploy.gate.evidence import (
    INTERLEAVED_FIELDS,
    VOID,
    is_gated,
    is_interleaved,
    needs_samples,
    rounds_of,
    variant,
    void_flag,
    void_reason,
)
from sepdeploy.gate.report import Entry, check_entries, describe, entries
from sepdeploy.records import BenchReport, Measurement

BASELINE_SCHEMA = "sepdeploy.baseline/1"
DEFAULT_BASELINE = "sepdeploy-baseline.json"
UPDATED = Writes(
    "a baseline", (".json",), lambda value, _: [Path(value or DEFAULT_BASELINE)], waits=True
)


@dataclass(frozen=True)
class Baseline:
    """What results are compared with."""

    schema: str = field(default=BASELINE_SCHEMA, kw_only=True)
    entries: tuple[Entry, ...]


def load_baseline(path: Path, result: str = "RESULT.json") -> Baseline:
    """Read and check a baseline file.

    Args:
        path: The file.
        result: The file of the result that it is wanted for.

    Raises:
        Incomparable: There is no such file.
        BadInput: Not a baseline, from another version, or edited into nonsense.
    """
    if not path.exists():
        raise Incomparable(
            f"there is no baseline {path}",
            hint="write one: "
            + shlex.join(["sepdeploy", "baseline", "update", result, "--baseline", str(path)]),
        )
    baseline = read(Baseline, path)
    check_entries(baseline.entries, str(path))
    for entry in baseline.entries:
        _require_evidence(entry, str(path))
    return Baseline(tuple(sorted(baseline.entries, key=lambda e: e.key)))


def make_baseline(report: BenchReport, old: Baseline | None = None) -> Baseline:
    """Return a baseline with a report's measurements in it.

    Entries of ``old`` for the same device, artifact, runtime, threads and kind are superseded,
    whatever their versions; the others stay.

    Raises:
        BadInput: A number cannot be, has no samples, or occurs twice.
        Incomparable: Nothing was measured.
        Unstable: A measurement is void.
    """
    fresh = [_strip(entry) for entry in entries(report) if _is_measured(entry)]
    if not fresh:
        raise Incomparable(
            "the result holds no measurement to keep", hint="did the bench run to its end?"
        )
    for entry in fresh:
        _require_evidence(entry, "result")
        _refuse_void(entry)
    slots = {entry.key.slot for entry in fresh}
    kept = [e for e in (old.entries if old else ()) if e.key.slot not in slots]
    return Baseline(tuple(sorted([*kept, *fresh], key=lambda e: e.key)))


def update_baseline(report: BenchReport, path: Path, *, replace: bool = False) -> Baseline:
    """Write a report's measurements into a baseline file, atomically.

    Args:
        report: What was measured.
        path: The file; created when missing.
        replace: Drop all that the report does not hold, instead of keeping it.

    Raises:
        BadInput, Incomparable, Unstable: As ``load_baseline`` and ``make_baseline``; the file
            is then as it was.
    """
    with claimed([Output(path, UPDATED, "--baseline")]):  # from reading it until it is written
        old = load_baseline(path) if path.exists() and not replace else None
        baseline = make_baseline(report, old)
        write_text(path, format_baseline(baseline))
    return baseline


def format_baseline(baseline: Baseline) -> str:
    """Return the text of a baseline file."""
    return _lines(to_json(baseline), "") + "\n"


def _is_measured(entry: Entry) -> bool:
    return any(m.value is not None for m in entry.measurements)


def _strip(entry: Entry) -> Entry:
    """Leave out what was not measured, old sides, and samples that no rule ever looks at."""
    measured = [m for m in entry.measurements if m.value is not None]
    members = [m for m in measured if not is_interleaved(m)]
    plain = {(m.metric, variant(m)) for m in members}
    sides = [_new_side(m) for m in measured if is_interleaved(m)]
    members += [m for m in sides if (m.metric, variant(m)) not in plain]
    kept = (m if is_gated(m) else replace(m, samples=()) for m in members)
    return Entry(entry.key, entry.sha256, tuple(kept))


def _new_side(measurement: Measurement) -> Measurement:
    _, new = rounds_of(measurement, measurement.metric)
    details = {k: v for k, v in measurement.details.items() if k not in INTERLEAVED_FIELDS}
    samples = tuple(float(s) for group in new for s in group)
    return replace(measurement, samples=samples, n=len(samples), details=details)


def _refuse_void(entry: Entry) -> None:
    for measurement in entry.measurements:
        reason = void_reason(measurement)
        if is_gated(measurement) and reason:
            raise Unstable(
                f"{describe(entry.key)}: {measurement.metric} is void ({reason})",
                hint=VOID[void_flag(measurement)],
            )


def _require_evidence(entry: Entry, where: str) -> None:
    for measurement in entry.measurements:
        if measurement.value is None:
            raise BadInput(
                f"{where}: {describe(entry.key)}: {measurement.metric} has no value",
                hint=BENCH_AGAIN,
            )
        if needs_samples(measurement) and not measurement.samples:
            raise BadInput(
                f"{where}: {describe(entry.key)}: {measurement.metric} has no samples",
                hint="repeat the bench; without samples nothing can be tested",
            )


def _lines(value: Any, indent: str) -> str:
    """Return JSON with two-space indent and lists of plain values on one line."""
    inner = indent + "  "
    if isinstance(value, Mapping) and value:
        rows = [f"{inner}{json.dumps(k)}: {_lines(v, inner)}" for k, v in value.items()]
        return "{\n" + ",\n".join(rows) + f"\n{indent}}}"
    if isinstance(value, list) and any(isinstance(v, (list, dict)) for v in value):
        rows = [f"{inner}{_lines(v, inner)}" for v in value]
        return "[\n" + ",\n".join(rows) + f"\n{indent}]"
    if isinstance(value, list) and all(v in (0.0, 1.0) for v in value):
        return json.dumps([int(v) for v in value])  # outcomes of images
    return json.dumps(value, allow_nan=False)
