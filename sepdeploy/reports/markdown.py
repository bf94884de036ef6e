"""A verdict as Markdown, for a comment on a pull request or a job summary."""

from __future__ import annotations

from collections.abc import Sequence

from sepdeploy.errors import printable
from sepdeploy.gate.verdict import Item, Outcome, Verdict
from sepdeploy.gate.wording import number
from sepdeploy.reports import View
from sepdeploy.reports.plain import SHOWN, headline, worst_first
from sepdeploy.reports.tables import Table, markdown

# A bot finds its own comment by this line and edits it instead of adding another one.
MARKER = "<!-- sepdeploy check -->"
MAX_ROWS = 150  # comments hold 65,536 characters
HEADS = ("", "metric", "artifact", "device", "kind", "baseline", "now", "why")
_QUIET = (Outcome.IMPROVED, Outcome.OK, Outcome.REPORTED)


def render_markdown(verdict: Verdict, view: View) -> str:
    """Return a headline, a table of what needs attention, and the rest folded away."""
    items = worst_first(verdict)
    loud = [i for i in items if i.verdict not in _QUIET]
    quiet = [i for i in items if i.verdict in _QUIET]
    lines = [MARKER, f"### sepdeploy check: {headline(verdict)}", ""]
    if loud:
        lines += [*_table(loud), ""]
    if quiet:
        lines += [f"<details><summary>{len(quiet)} more</summary>", ""]
        lines += [*_table(quiet), "", "</details>", ""]
    return "\n".join(lines)


def _table(items: Sequence[Item]) -> list[str]:
    table = Table(HEADS, right=(5, 6))
    for i in items[:MAX_ROWS]:
        names = (_code(i.metric), _code(i.artifact), _code(i.device))
        kind = i.kind.value if i.kind else ""
        numbers = number(i.baseline), number(i.current)
        table.add(SHOWN[i.verdict].sign, *names, kind, *numbers, escape(i.why))
    if len(items) > MAX_ROWS:
        table.add("", f"{len(items) - MAX_ROWS} more", *[""] * 6)
    return markdown(table)


def _code(text: str) -> str:
    """Return a name as code, which neither formats nor mentions anybody."""
    return f"`{printable(text).replace('`', chr(39)).replace('|', chr(92) + '|')}`"


def escape(text: str) -> str:
    """Return text that Markdown and HTML show as it is."""
    escaped = printable(text).replace("&", "&amp;").replace("<", "&lt;").replace("@", "&#64;")
    return "".join(f"\\{c}" if c in "\\`*_[]|~" else c for c in escaped)
