"""How results look: tables that fit the window of a terminal, and plain rows in a pipe.

Names in a page come from files: nothing in them is markup, and what cannot be printed is replaced.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.cells import cell_len, chop_cells
from rich.console import Console, ConsoleOptions
from rich.text import Text

from sepdeploy.errors import printable
from sepdeploy.reports.tables import Cell, Line, Row, Table

GAP = "  "
NARROWEST = 10  # columns; a text is not wrapped into less
STYLES = {
    "FAIL": "bold red", "FAILED": "bold red", "VOID": "yellow", "N/A": "yellow", "warn": "yellow",
    "missing": "yellow", "skipped": "yellow", "good": "green", "ok": "green",
}  # fmt: skip


@dataclass(frozen=True)
class Page:
    """What a command shows; ``str`` of it is what a pipe gets: one line a row, nothing cut."""

    parts: tuple[str | Line | Table, ...]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        """Draw it for a window, or for a pipe."""
        yield from self.lines(options.max_width if console.is_terminal else None)

    def __str__(self) -> str:
        return "".join(f"{line.plain.rstrip()}\n" for line in self.lines(None))

    def lines(self, width: int | None) -> Iterator[Text]:
        """Give every line; without a width nothing is wrapped, ruled or hidden."""
        below_table = False
        for part in self.parts:
            if below_table and part != "":
                yield Text()
            below_table = isinstance(part, Table)
            if isinstance(part, Table):
                yield from _table(part, width)
            else:
                yield from _wrapped(part if isinstance(part, Line) else Line(part), width)


def _wrapped(line: Line, width: int | None) -> Iterator[Text]:
    text = printable(line.text)
    for index, piece in enumerate(_pieces(text, width, line.hang)):
        yield Text(" " * line.hang * (index > 0) + piece, style=line.style, no_wrap=True)


def _pieces(text: str, width: int | None, hang: int = 0) -> list[str]:
    """Return a text in lines of a width, broken between words where that is possible."""
    if width is None or cell_len(text) <= width:
        return [text]
    found, line, room = [], "", width
    for word in text.split(" "):
        longer = f"{line} {word}" if line else word
        if cell_len(longer) <= room:
            line = longer
            continue
        found += [line] if line else []
        room = width - hang
        *whole, line = chop_cells(word, room) or [""]
        found += whole
    return [*found, line]


def _table(table: Table, width: int | None) -> Iterator[Text]:
    rows = [Row(table.heads), *table.rows]
    kept, widths = _fitted(table, rows, width)
    for row in rows:
        is_head = row is rows[0]
        if row.title:
            yield Text()
            yield from _wrapped(Line(row.title), width)
            continue
        if row.ruled and width is not None:
            yield _rule(table, widths)
        cells = [_cell(row.cells[i], None if width is None else widths[i]) for i in kept]
        for height in range(max(map(len, cells), default=0)):
            line = Text(" " * table.indent, no_wrap=True)
            for at, lines in zip(kept, cells, strict=True):
                text = lines[height] if height < len(lines) else ""
                style = "bold" if is_head else STYLES.get(text, "")
                space = " " * (widths[at] - cell_len(text))
                line.append(space if at in table.right else "")
                line.append(text, style)
                line.append(("" if at in table.right else space) + GAP)
            line.rstrip()
            yield line
        if is_head and width is not None:
            yield _rule(table, widths)
        if row.note:
            yield from _note(row.note, table.note_indent, width)
    if hidden := [_joined(head) for i, head in enumerate(table.heads) if i not in kept]:
        yield from _wrapped(Line(f"too narrow for: {', '.join(hidden)}", "dim"), width)


def _note(note: str, indent: int, width: int | None) -> Iterator[Text]:
    for piece in _pieces(printable(note), None if width is None else width - indent):
        yield Text(" " * indent + piece, no_wrap=True)


def _rule(table: Table, widths: dict[int, int]) -> Text:
    total = sum(widths.values()) + len(GAP) * (len(widths) - 1)
    return Text(" " * table.indent + "─" * total, no_wrap=True)


def _joined(cell: Cell) -> str:
    return printable(cell if isinstance(cell, str) else " ".join(cell))


def _cell(cell: Cell, width: int | None) -> list[str]:
    if width is None:
        return [_joined(cell)]
    lines = (cell,) if isinstance(cell, str) else cell
    return [piece for line in lines for piece in _pieces(printable(line), width)]


def _fitted(
    table: Table, rows: Sequence[Row], width: int | None
) -> tuple[list[int], dict[int, int]]:
    """Return the columns that are shown, and how wide each is."""
    kept = list(range(len(table.heads)))
    whole = None if width is None else 1 << 20
    natural = {
        i: max(cell_len(line) for row in rows for line in _cell(row.cells[i], whole)) for i in kept
    }
    if width is None:
        return kept, natural
    words = {
        i: max(map(cell_len, " ".join(_joined(row.cells[i]) for row in rows).split()), default=0)
        for i in kept
    }
    leaving = [i for i in [*table.hides, *reversed(kept[1:])] if i != 0]
    while True:
        room = width - table.indent - len(GAP) * (len(kept) - 1)
        widths = {i: natural[i] for i in kept}
        texts = [i for i in kept if i not in table.right]
        for floors in (words, dict.fromkeys(kept, 0)):  # names are broken last
            while sum(widths.values()) > room:
                open_ = [i for i in texts if widths[i] > max(NARROWEST, floors[i])]
                if not open_:
                    break
                widths[max(open_, key=widths.__getitem__)] -= 1
        if sum(widths.values()) <= room or len(kept) == 1:
            return kept, widths
        kept.remove(next(i for i in leaving if i in kept))
