"""How tables look on the terminal."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator

from rich import box
from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.table import Table as RichTable
from rich.text import Text

from sepdeploy.reports.plain import shorten
from sepdeploy.reports.tables import Table

WIDTH = 80


def house(table: Table) -> RichTable:
    """Return a table in the house style, its columns as wide as their cells."""
    drawn = RichTable(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    for index, head in enumerate(table.heads):
        is_right = index in table.right
        drawn.add_column(
            head, justify="right" if is_right else "left", no_wrap=is_right, overflow="fold"
        )
    for row in table.rows:
        if row.ruled:
            drawn.add_section()
        drawn.add_row(*row.cells)
    return drawn


def plain_text(parts: Iterable[str | Table]) -> str:
    """Return lines and tables of fixed widths as plain text of at most 80 columns."""
    console = Console(file=io.StringIO(), width=WIDTH, color_system=None, highlight=False)
    with console.capture() as capture:
        for part in parts:
            for drawn in _fixed(part) if isinstance(part, Table) else (Text(part),):
                console.print(drawn)
    return "".join(f"{line.rstrip()}\n" for line in capture.get().splitlines())


def _fixed(table: Table) -> Iterator[RenderableType]:
    """Give the lines of a table, each note below its row."""
    if table.headed:
        yield _line(table, table.heads)
    for row in table.rows:
        yield _line(table, row.cells)
        if row.note:
            yield Padding(Text(row.note), (0, 0, 0, table.note_indent))


def _line(table: Table, cells: tuple[str, ...]) -> RenderableType:
    drawn = RichTable.grid(padding=(0, 1, 0, 0))
    for index, width in enumerate(table.widths):
        is_right = index in table.right
        drawn.add_column(width=width, justify="right" if is_right else "left", no_wrap=True)
    pairs = zip(cells, table.widths, strict=True)
    drawn.add_row(*(Text(shorten(cell, width)) for cell, width in pairs))
    return Padding(drawn, (0, 0, 0, table.indent))
