"""A verdict for the terminal: plain text, at most 80 columns."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from sepdeploy.gate.verdict import Item, Outcome, Verdict
from sepdeploy.gate.wording import number
from sepdeploy.reports import View
from sepdeploy.reports.plain import SHOWN, headline, printable, shorten
from sepdeploy.reports.tables import Table
from sepdeploy.reports.terminal_cells import WIDTH, plain_text


def render_terminal(verdict: Verdict, view: View) -> str:
    """Return the lines of a verdict, one block per artifact and device."""
    return plain_text(_parts(verdict, verbose=view.verbose))


def _parts(verdict: Verdict, *, verbose: bool) -> Iterator[str | Table]:
    yield _table(headed=True)
    shown = [i for i in verdict.items if verbose or i.verdict is not Outcome.REPORTED]
    for (artifact, device), items in itertools.groupby(shown, lambda i: (i.artifact, i.device)):
        table = _table(headed=False)
        for item in items:
            _add(table, item, verbose=verbose)
        yield from ("", shorten(printable(f"{artifact} on {device}"), WIDTH), table)
    hidden = len(verdict.items) - len(shown)
    if hidden:
        yield from ("", f"{hidden} more measured but not judged (-v lists them)")
    yield from ("", headline(verdict))


def _table(*, headed: bool) -> Table:
    heads = ("", "metric", "kind", "baseline", "now")
    return Table(heads, (3, 4), (4, 20, 17, 14, 14), indent=2, note_indent=7, headed=headed)


def _add(table: Table, item: Item, *, verbose: bool) -> None:
    quiet = not verbose and item.verdict in (Outcome.OK, Outcome.REPORTED)
    table.add(
        SHOWN[item.verdict].mark,
        printable(item.metric),
        item.kind.value if item.kind else "",
        number(item.baseline) if item.baseline is not None else "",
        number(item.current),
        note="" if quiet else printable(item.why),
    )
