"""A verdict for the terminal: plain text, at most 80 columns; colour is added by the console."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping

from sepdeploy.gate.verdict import Item, Outcome, Verdict
from sepdeploy.gate.wording import number
from sepdeploy.reports.plain import headline, printable, shorten

WIDTH = 80
MARKS: Mapping[Outcome, str] = {
    Outcome.REGRESSION: "FAIL",
    Outcome.UNSTABLE: "VOID",
    Outcome.INCOMPARABLE: "N/A",
    Outcome.WARNING: "warn",
    Outcome.IMPROVED: "good",
    Outcome.OK: "ok",
    Outcome.REPORTED: "-",
}
_INDENT = 7  # of the reason below a number


def render_terminal(verdict: Verdict, *, verbose: bool = False) -> str:
    """Return the lines of a verdict, one block per artifact and device.

    Args:
        verdict: What was found.
        verbose: Also list what is only reported, and the reason of every number.
    """
    lines: list[str] = [_row("", "metric", "kind", "baseline", "now")]
    place = None
    shown = [i for i in verdict.items if verbose or i.verdict is not Outcome.REPORTED]
    for item in shown:
        if (item.artifact, item.device) != place:
            place = (item.artifact, item.device)
            lines += ["", shorten(printable(f"{item.artifact} on {item.device}"), WIDTH)]
        lines += _item_lines(item, verbose=verbose)
    hidden = len(verdict.items) - len(shown)
    if hidden:
        lines += ["", f"{hidden} more measured but not judged (-v lists them)"]
    lines += ["", *textwrap.wrap(headline(verdict), WIDTH)]
    return "\n".join(lines) + "\n"


def _row(mark: str, metric: str, kind: str, baseline: str, current: str) -> str:
    return f"  {mark:<4} {metric:<20} {kind:<17} {baseline:>14} {current:>14}".rstrip()


def _item_lines(item: Item, *, verbose: bool) -> Iterator[str]:
    kind = item.kind.value if item.kind else ""
    baseline = number(item.baseline) if item.baseline is not None else ""
    metric, current = shorten(printable(item.metric), 20), shorten(number(item.current), 14)
    yield _row(MARKS[item.verdict], metric, kind, shorten(baseline, 14), current)
    if verbose or item.verdict not in (Outcome.OK, Outcome.REPORTED):
        yield from textwrap.wrap(
            printable(item.why),
            WIDTH,
            initial_indent=" " * _INDENT,
            subsequent_indent=" " * _INDENT,
        )
