"""Differences between results, for the terminal."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

from sepdeploy.gate.wording import probability
from sepdeploy.reports.document.facts import quantity, shown_value
from sepdeploy.reports.page import Page
from sepdeploy.reports.tables import Line, Table

if TYPE_CHECKING:
    from sepdeploy.workflows.reporting.differences import Comparison, Difference

HEADS = ("metric", "kind", "before", "now", "change", "95 % interval", "p")


def comparison_table(comparison: Comparison) -> Page:
    """Draw one block per pair of files, and below it how its intervals came about."""
    table = Table(HEADS, right=(2, 3, 4, 5, 6), hides=(1, 6), indent=2, note_indent=4)
    notes: dict[str, None] = {}
    for head, group in groupby(comparison.differences, key=_head):
        table.head(head)
        for d in group:
            ends = "" if d.ci is None else " to ".join(quantity(v, d.metric) for v in d.ci)
            p = "" if d.p is None else probability(d.p).removeprefix("p = ")
            change = "-" if d.change is None else quantity(d.change, d.metric)
            values = shown_value(d.metric, d.old), shown_value(d.metric, d.new)
            pairs = "" if d.lost is None else f"{d.lost} lost, {d.gained} gained"
            note = "; ".join(x for x in (d.under, pairs) if x)
            table.add(d.metric, d.kind.value, *values, change, ends or d.how, p, note=note)
            if d.ci is not None:
                notes[f"{d.metric}: {d.how}"] = None
    lead = f"against {comparison.reference}; accuracies in points, all else as a factor"
    lines = [Line(n, hang=2) for n in (*notes, *comparison.notes)]
    return Page((lead, *([table] if comparison.differences else []), *lines))


def _head(d: Difference) -> str:
    name = d.new_artifact
    if d.old_artifact != name:
        name += f" (was {d.old_artifact})"
    return f"{d.result}: {name} on {d.device} in {d.runtime}"
