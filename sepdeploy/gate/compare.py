"""``check``: a result against a baseline under rules, as one pure function."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence

from sepdeploy.gate.baseline import Baseline
from sepdeploy.gate.budgets import judge_budget
from sepdeploy.gate.config import Rules
from sepdeploy.gate.evidence import (
    INTERLEAVED,
    INTERLEAVED_KINDS,
    is_gated,
    is_interleaved,
    variant,
)
from sepdeploy.gate.latency import judge_interleaved
from sepdeploy.gate.reasons import elsewhere, lost, other_job, reported, unknown, unmatched
from sepdeploy.gate.report import Entry, Key, entries
from sepdeploy.gate.rules import JUDGES
from sepdeploy.gate.verdict import Finding, Item, Verdict, conclude
from sepdeploy.metrics import METRICS, row
from sepdeploy.records import BenchReport, Measurement

# An item and where it holds: runtime, its version, and the variant of the metric.
Judged = tuple[Item, str]

DEFAULT_RULES = Rules()
NOISE_FLOOR = "noise_floor"


def check(report: BenchReport, baseline: Baseline | None, rules: Rules = DEFAULT_RULES) -> Verdict:
    """Return the verdict over a result; it depends on the three arguments alone.

    Interleaved rounds and budgets need no baseline and are judged without one.

    Args:
        report: What was measured now.
        baseline: What it is compared with.
        rules: When a difference counts.

    Raises:
        BadInput: The result holds numbers that cannot be.
    """
    current = _visible(entries(report), rules)
    judged: list[Judged] = []
    if baseline is not None:
        known = _visible(baseline.entries, rules)
        alone = _judged_by_turns(current) - {e.key.device for e in known}
        for entry in current:
            if entry.key.device in alone:
                judged += _by_turns_alone(entry)
            else:
                judged += _against_baseline(entry, known, rules, [*current, *known])
        judged += _vanished(current, known)
    for entry in current:
        judged += _interleaved(entry, rules, current)
    items = _merge(judged)
    for budget in rules.budgets:
        items += dict.fromkeys(judge_budget(budget, current))
    return conclude(sorted(items, key=_position))


def _merge(judged: Iterable[Judged]) -> list[Item]:
    """Say once what holds in several runtimes, which have no field of their own, and name them."""
    places: dict[Item, list[str]] = {}
    for found, place in judged:
        places.setdefault(found, []).append(place)
    return [
        dataclasses.replace(found, why=f"{found.why} [{'; '.join(dict.fromkeys(where))}]")
        for found, where in places.items()
    ]


def _position(found: Item) -> tuple[str, str, int, str]:
    names = list(METRICS)
    rank = names.index(found.metric) if found.metric in METRICS else len(names)
    return found.artifact, found.device, rank, found.metric


def _visible(found: Iterable[Entry], rules: Rules) -> list[Entry]:
    """Leave out what the rules ignore."""
    visible = []
    for entry in found:
        key = entry.key
        names = {"artifact": key.artifact, "device": key.device, "runtime": key.runtime}
        kept = tuple(
            m
            for m in entry.measurements
            if not rules.is_ignored(metric=m.metric, kind=key.kind.value, **names)
        )
        if kept:
            visible.append(dataclasses.replace(entry, measurements=kept))
    return visible


def _against_baseline(
    entry: Entry, known: Sequence[Entry], rules: Rules, everything: Sequence[Entry]
) -> Iterator[Judged]:
    old = next((e for e in known if e.key == entry.key), None)
    if old is not None:
        yield from _pair(old, entry, rules, _floor(entry.key, everything, "value"))
        return
    outcome, why = unmatched(entry.key, known, rules)
    for measurement in entry.measurements:
        if is_gated(measurement) and measurement.value is not None:
            yield _item(entry.key, measurement, Finding(outcome, why, None, measurement.value))


def _judged_by_turns(found: Iterable[Entry]) -> set[str]:
    """Return the devices on which an older file was timed by turns."""
    return {
        entry.key.device
        for entry in found
        for m in entry.measurements
        if is_interleaved(m) and m.kind in INTERLEAVED_KINDS
    }


def _by_turns_alone(entry: Entry) -> Iterator[Judged]:
    """Show what a baseline made by other jobs, of other devices, cannot judge."""
    for measurement in entry.measurements:
        if is_gated(measurement) and not is_interleaved(measurement):
            finding = elsewhere(measurement, entry.key.device)
            yield _item(entry.key, measurement, finding)


def _pair(old: Entry, new: Entry, rules: Rules, floor: float) -> Iterator[Judged]:
    """Judge two entries of one key, measurement by measurement."""
    before = {(m.metric, variant(m)): m for m in old.measurements}
    after = {(m.metric, variant(m)): m for m in new.measurements}
    for name, measurement in after.items():
        if not is_interleaved(measurement) and measurement.metric != NOISE_FLOOR:
            finding = _judge(before.get(name), measurement, old, rules, floor)
            if finding is not None:
                yield _item(new.key, measurement, finding)
    for (metric, parts), measurement in before.items():
        is_judged = (metric, parts) in after or (metric, (*parts, INTERLEAVED)) in after
        if is_gated(measurement) and not is_judged:
            yield _item(new.key, measurement, lost(measurement))


def _judge(
    was: Measurement | None, now: Measurement, old: Entry, rules: Rules, floor: float
) -> Finding | None:
    if not is_gated(now):
        return reported(was, now)
    if now.value is None:
        return None if was is None else lost(was, now)
    if was is None:
        return unknown(now, old, rules)
    return JUDGES[row(now.metric).rule](was, now, rules, floor)


def _vanished(current: Sequence[Entry], known: Sequence[Entry]) -> Iterator[Judged]:
    """Name what the baseline has and the result has not.

    Other devices belong to other jobs; a vanished artifact or kind of the result's own devices
    must not pass unseen.
    """
    devices = {e.key.device for e in current}
    slots = {e.key.slot for e in current}
    for entry in known:
        if entry.key.slot in slots:
            continue
        for measurement in filter(is_gated, entry.measurements):
            if entry.key.device in devices:
                yield _item(entry.key, measurement, lost(measurement))
            else:
                yield _item(entry.key, measurement, other_job(measurement, entry.key.device))


def _interleaved(entry: Entry, rules: Rules, everything: Sequence[Entry]) -> Iterator[Judged]:
    for measurement in entry.measurements:
        if is_interleaved(measurement) and measurement.kind in INTERLEAVED_KINDS:
            floor = _floor(entry.key, everything, INTERLEAVED)
            yield _item(entry.key, measurement, judge_interleaved(measurement, rules, floor))


def _floor(key: Key, everything: Iterable[Entry], name: str) -> float:
    """Return the largest calibrated noise floor of a device, by the same kind of clock."""
    floors = [
        m.value if name == "value" else m.details.get(name)
        for e in everything
        if (e.key.device, e.key.kind) == (key.device, key.kind)
        for m in e.measurements
        if m.metric == NOISE_FLOOR
    ]
    return max((float(f) for f in floors if isinstance(f, (int, float))), default=0.0)


def _item(key: Key, measurement: Measurement, finding: Finding) -> Judged:
    parts = [f"{key.runtime} {key.runtime_version}", *variant(measurement)]
    place = ", ".join(p for p in parts if p != INTERLEAVED)
    return finding.about(measurement.metric, key.artifact, key.device, key.kind), place
