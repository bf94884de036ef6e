"""Absolute budgets: "latency_ms <= 20", held against kinds of measurement that can support them.

An absolute number of milliseconds means something on the device itself only, so a budget on a
latency needs kind MEASURED; an emulator or a shared host would pass or fail it by accident.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from sepdeploy.errors import BadInput, require_name
from sepdeploy.gate.evidence import is_latency, void_reason
from sepdeploy.gate.report import Entry
from sepdeploy.gate.verdict import Finding, Item, Outcome
from sepdeploy.gate.wording import number
from sepdeploy.measure.statistics import binomial_tail
from sepdeploy.metrics import METRICS, row
from sepdeploy.records import Measurement

SIGNIFICANCE = 0.01  # that a median is on the wrong side of a latency budget


@dataclass(frozen=True)
class Budget:
    """A limit on one metric of the artifacts and devices that match two patterns."""

    metric: str
    sign: str  # "<=" or ">="
    limit: float
    artifact: str = "*"
    device: str = "*"

    def __str__(self) -> str:
        return f"{self.metric} {self.sign} {number(self.limit)}"

    def is_kept_by(self, value: float) -> bool:
        """Tell whether a value is within the budget."""
        return value <= self.limit if self.sign == "<=" else value >= self.limit


def parse_budget(value: Any, *, where: str = "budgets") -> Budget:
    """Read "METRIC <= NUMBER" or {rule = "...", artifact = "PATTERN", device = "PATTERN"}.

    Raises:
        BadInput: Another form, or a metric that no report holds.
    """
    table = {"rule": value} if isinstance(value, str) else value
    if not isinstance(table, Mapping) or not all(isinstance(v, str) for v in table.values()):
        raise BadInput(f"{where}: {value!r} is not a budget", hint='e.g. "file_bytes <= 500_000"')
    for key in table:
        require_name("key", key, ("rule", "artifact", "device"), where=where)
    text = table.get("rule", "")
    match = re.fullmatch(r"\s*(\w+)\s*(<=|>=)\s*(\d[\d_]*(?:\.\d+)?(?:e[+-]?\d+)?)\s*", text)
    if match is None:
        raise BadInput(
            f"{where}: {text!r} is not a budget",
            hint='write METRIC <= NUMBER or METRIC >= NUMBER, e.g. "file_bytes <= 500_000"',
        )
    require_name("metric", match[1], METRICS, where=where)
    patterns = {name: pattern for name, pattern in table.items() if name != "rule"}
    return Budget(match[1], match[2], float(match[3]), **patterns)


def judge_budget(budget: Budget, entries: Iterable[Entry]) -> list[Item]:
    """Return one item per measurement that the budget is about, or one saying why there is none."""
    chosen = [
        e
        for e in entries
        if fnmatchcase(e.key.artifact, budget.artifact) and fnmatchcase(e.key.device, budget.device)
    ]
    if not chosen:
        why = f"nothing matches artifact {budget.artifact}, device {budget.device}"
        return [_absent(budget, why).about(budget.metric, budget.artifact, budget.device, None)]
    items: list[Item] = []
    for artifact in dict.fromkeys(e.key.artifact for e in chosen):
        items += _judge_artifact(budget, [e for e in chosen if e.key.artifact == artifact])
    return items


def _judge_artifact(budget: Budget, entries: list[Entry]) -> list[Item]:
    kinds = row(budget.metric).budget
    found = [
        (e.key, m)
        for e in entries
        for m in e.measurements
        if m.metric == budget.metric and m.value is not None
    ]
    supported = [(key, m) for key, m in found if m.kind in kinds]
    if supported:
        return [
            _judge(budget, m).about(budget.metric, key.artifact, key.device, m.kind)
            for key, m in supported
        ]
    present = ", ".join(sorted({m.kind for _, m in found}))
    why = f"needs kind {' or '.join(sorted(kinds))}, found {present} only"
    key = entries[0].key
    absent = _absent(budget, why if present else "nothing was measured")
    return [absent.about(budget.metric, key.artifact, key.device, None)]


def _absent(budget: Budget, why: str) -> Finding:
    joined = f"budget {budget} {why}" if why.startswith("needs") else f"budget {budget}: {why}"
    return Finding(Outcome.INCOMPARABLE, joined, limit=budget.limit)


def _judge(budget: Budget, measurement: Measurement) -> Finding:
    value = measurement.value
    assert value is not None
    why = f"budget {budget}"
    reason = void_reason(measurement)
    if reason:
        outcome, why = Outcome.UNSTABLE, f"{why}: {reason}"
    elif budget.is_kept_by(value):
        outcome = Outcome.OK
    elif is_latency(measurement) and not _is_surely_over(budget, measurement):
        outcome, why = Outcome.WARNING, f"{why}: over it, but not beyond the noise"
    else:
        outcome = Outcome.REGRESSION
    return Finding(outcome, why, current=value, limit=budget.limit)


def _is_surely_over(budget: Budget, measurement: Measurement) -> bool:
    """Apply the sign test: are most samples on the wrong side of the limit?"""
    if not measurement.samples:
        return True
    wrong = sum(not budget.is_kept_by(s) for s in measurement.samples)
    return binomial_tail(wrong, len(measurement.samples)) < SIGNIFICANCE
