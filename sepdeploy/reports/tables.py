"""What a page is, wherever it is drawn: lines, and tables of headed columns, rows and notes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

Cell = str | tuple[str, ...]  # one line, or several that stand below each other


@dataclass(frozen=True)
class Row:
    """Cells, and a note that stands below them.

    ``ruled``: a line stands above them. ``title``: a heading instead of cells.
    """

    cells: tuple[Cell, ...]
    note: str = ""
    ruled: bool = False
    title: str = ""


@dataclass
class Table:
    """Rows under headings.

    Args:
        heads: Of the columns.
        right: Indices of the right-aligned columns, which are never wrapped.
        hides: Indices of columns in the order in which they go where a window is too narrow;
            those that are not named follow, from the last to the second.
        indent: Of the rows, in characters.
        note_indent: Of the notes.
        rows: Filled by ``add`` and ``head``.
    """

    heads: tuple[Cell, ...]
    right: Sequence[int] = ()
    hides: Sequence[int] = ()
    indent: int = 0
    note_indent: int = 2
    rows: list[Row] = field(default_factory=list)

    def add(self, *cells: Cell, note: str = "", ruled: bool = False) -> None:
        """Append a row."""
        self.rows.append(Row(cells, note, ruled))

    def head(self, title: str) -> None:
        """Begin a group of rows under a heading."""
        self.rows.append(Row(("",) * len(self.heads), title=title))


@dataclass(frozen=True)
class Line:
    """A line of text; what does not fit a window goes on below, indented by ``hang``."""

    text: str
    style: str = ""
    hang: int = 0


def markdown(table: Table) -> list[str]:
    """Return the lines of a table in Markdown; its cells are escaped already."""
    rules = ["---:" if index in table.right else "---" for index in range(len(table.heads))]
    rows = [table.heads, *(row.cells for row in table.rows)]
    lines = ["".join(f"| {cell} " if cell else "| " for cell in cells) + "|" for cells in rows]
    return [lines[0], f"|{'|'.join(rules)}|", *lines[1:]]
