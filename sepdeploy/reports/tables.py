"""What a table is, wherever it is drawn: headed columns, rows, and notes below rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Row:
    """Cells, and a note that stands below them; ``ruled``: a line stands above them."""

    cells: tuple[str, ...]
    note: str = ""
    ruled: bool = False


@dataclass
class Table:
    """Rows under headings.

    Args:
        heads: Of the columns.
        right: Indices of the right-aligned columns.
        widths: Of the columns, in characters, where they do not follow from the cells.
        indent: Of the rows, in characters.
        note_indent: Of the notes.
        headed: Whether the headings are shown.
        rows: Filled by ``add``.
    """

    heads: tuple[str, ...]
    right: Sequence[int] = ()
    widths: tuple[int, ...] = ()
    indent: int = 0
    note_indent: int = 2
    headed: bool = True
    rows: list[Row] = field(default_factory=list)

    def add(self, *cells: str, note: str = "", ruled: bool = False) -> None:
        """Append a row."""
        self.rows.append(Row(cells, note, ruled))


def markdown(table: Table) -> list[str]:
    """Return the lines of a table in Markdown; its cells are escaped already."""
    rules = ["---:" if index in table.right else "---" for index in range(len(table.heads))]
    rows = [table.heads, *(row.cells for row in table.rows)]
    lines = ["".join(f"| {cell} " if cell else "| " for cell in cells) + "|" for cells in rows]
    return [lines[0], f"|{'|'.join(rules)}|", *lines[1:]]
