"""A verdict for the terminal."""

from __future__ import annotations

import itertools
from collections import Counter

from sepdeploy.gate.verdict import Item, Outcome, Verdict
from sepdeploy.gate.wording import number
from sepdeploy.reports import View
from sepdeploy.reports.page import Page
from sepdeploy.reports.plain import SHOWN, headline
from sepdeploy.reports.tables import Line, Table

HEADS = ("", "metric", "kind", "baseline", "now")
COLOURS = {Outcome.REGRESSION: "bold red", Outcome.OK: "bold green"}


def verdict_table(verdict: Verdict, view: View) -> Page:
    """Draw a verdict, one block per artifact and device; a reason of several rows stands once."""
    verbose = view.verbose
    shown = [i for i in verdict.items if verbose or i.verdict is not Outcome.REPORTED]
    reasons = Counter((i.verdict, i.why) for i in shown if _reasoned(i, verbose=verbose))
    table = Table(HEADS, right=(3, 4), hides=(2,), indent=2, note_indent=8)
    for (artifact, device), items in itertools.groupby(shown, lambda i: (i.artifact, i.device)):
        table.head(f"{artifact} on {device}")
        for item in items:
            once = reasons[item.verdict, item.why] == 1
            table.add(
                SHOWN[item.verdict].mark,
                item.metric,
                item.kind.value if item.kind else "",
                number(item.baseline) if item.baseline is not None else "",
                number(item.current),
                note=item.why if once else "",
            )
    lines = [
        f"{SHOWN[outcome].mark}, {count} rows: {why}"
        for (outcome, why), count in reasons.items()
        if count > 1
    ]
    if hidden := len(verdict.items) - len(shown):
        lines.append(f"{hidden} more measured but not judged (-v lists them)")
    last = Line(headline(verdict), COLOURS.get(verdict.verdict, "yellow"))
    return Page((table, *lines, "", last))


def _reasoned(item: Item, *, verbose: bool) -> bool:
    return bool(item.why) and (verbose or item.verdict not in (Outcome.OK, Outcome.REPORTED))
