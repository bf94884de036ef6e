"""A report as Markdown, for a pull request: the same sections without charts and pictures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from sepdeploy.gate.verdict import Verdict
from sepdeploy.reports.document.sections import Cell, Grid, Section, sections
from sepdeploy.reports.markdown import escape
from sepdeploy.reports.tables import Table, markdown

if TYPE_CHECKING:
    from sepdeploy.workflows.reporting.dossier import Dossier

# A bot finds its own comment by this line and edits it instead of adding another one.
MARKER = "<!-- sepdeploy report -->"
MAX_ROWS = 60  # a table; comments hold 65,536 characters
SHORT = ("verdict", "results", "differences")  # open; the rest is folded away
LEFT_OUT = ("examples", "environment")


def render_markdown(dossier: Dossier, verdicts: Mapping[str, Verdict]) -> str:
    """Return verdict, results and differences, and the rest folded away."""
    lines = [MARKER, "### sepdeploy report", ""]
    for section in sections(dossier, verdicts):
        if section.id in LEFT_OUT:
            continue
        body = list(_body(section))
        if section.id in SHORT:
            lines += [f"#### {escape(section.title)}", "", *body]
        else:
            head = f"<details><summary>{escape(section.title)}</summary>"
            lines += [head, "", *body, "</details>", ""]
    return "\n".join(lines)


def _body(section: Section) -> list[str]:
    bold = "**" if section.verdict else ""
    lines = [line for text in section.texts for line in (f"{bold}{escape(text)}{bold}", "")]
    lines += [f"* {escape(point)}" for point in section.points]
    lines += [""] if section.points else []
    for grid in section.tables:
        lines += [escape(grid.label), "", *_table(grid), ""]
    return lines


def _table(grid: Grid) -> list[str]:
    table = Table(tuple(grid.heads), right=grid.right)
    for row in grid.rows[:MAX_ROWS]:
        table.add(*(_cell(cell) for cell in row))
    if len(grid.rows) > MAX_ROWS:
        table.add(f"{len(grid.rows) - MAX_ROWS} more", *[""] * (len(grid.heads) - 1))
    return markdown(table)


def _cell(cell: Cell) -> str:
    if isinstance(cell, str):
        return escape(cell)
    parts = [
        f"{n.text}{f' ({n.spread})' if n.spread else ''} {n.kind}{f' {n.mark}' if n.mark else ''}"
        for n in cell
    ]
    return "<br>".join(escape(part) for part in parts) or "–"
