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


def count(value: float | None) -> str:
    """Return a whole number with thin grouping: 1,862,666."""
    return "-" if value is None else f"{int(value):,}"


def size(value: float | None) -> str:
    """Return bytes as a short human number."""
    if value is None:
        return "-"
    for unit in ("B", "KiB", "MiB"):
        if abs(value) < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.2f} GiB"


def micros(milliseconds: float | None) -> str:
    """Return a latency in µs with two decimals below 10 and one below 100."""
    if milliseconds is None:
        return "-"
    value = milliseconds * 1000
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:,.0f}"


def percent(value: float | None) -> str:
    """Return a fraction as a percentage with one decimal."""
    return "-" if value is None else f"{100 * value:.1f}"


def ratio(value: float | None) -> str:
    """Return a factor like 3.4x."""
    if value is None:
        return "-"
    return f"{value:.0f}x" if value >= 100 else f"{value:.1f}x" if value >= 10 else f"{value:.2f}x"
