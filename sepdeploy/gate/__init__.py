"""The regression gate: baseline file, rules, verdict.

``check`` is a pure function of result, baseline and rules; everything that users see is rendered
from its ``Verdict`` by ``sepdeploy.reports``. Nothing in here needs torch or a runtime.
"""

from __future__ import annotations

from sepdeploy.gate.baseline import (
    BASELINE_SCHEMA,
    DEFAULT_BASELINE,
    Baseline,
    format_baseline,
    load_baseline,
    make_baseline,
    update_baseline,
)
from sepdeploy.gate.budgets import Budget, parse_budget
from sepdeploy.gate.compare import check
from sepdeploy.gate.config import Rules, load_rules, parse_rules
from sepdeploy.gate.report import load_report
from sepdeploy.gate.verdict import CHECK_SCHEMA, Item, Outcome, Verdict

__all__ = [
    "BASELINE_SCHEMA",
    "CHECK_SCHEMA",
    "DEFAULT_BASELINE",
    "Baseline",
    "Budget",
    "Item",
    "Outcome",
    "Rules",
    "Verdict",
    "check",
    "format_baseline",
    "load_baseline",
    "load_report",
    "load_rules",
    "make_baseline",
    "parse_budget",
    "parse_rules",
    "update_baseline",
]
