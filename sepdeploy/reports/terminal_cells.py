"""How numbers and tables look on the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.table import Table


def plain_table(*columns: str, right: Sequence[int] = (), title: str = "") -> Table:
    """Return an empty table in the house style.

    Args:
        columns: Headings.
        right: Indices of the right-aligned columns.
        title: Line above it.
    """
    table = Table(
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1),
        title=title or None,
        title_justify="left",
    )
    for index, column in enumerate(columns):
        table.add_column(
            column,
            justify="right" if index in right else "left",
            no_wrap=index in right,
            overflow="fold",
        )
    return table
