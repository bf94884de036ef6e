"""Layers of an artifact beside their reference, for the terminal: plain text, 80 columns."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from sepdeploy.reports.plain import printable
from sepdeploy.reports.tables import Table
from sepdeploy.reports.terminal_cells import plain_text

if TYPE_CHECKING:
    from sepdeploy.workflows.comparing import LayerComparison, LayersReport

HEADS = ("layer", "kind", "max |Δ|", "SQNR dB", "cosine")


def render_layers(report: LayersReport) -> str:
    """Return one block per comparison: its layers, then which one is worst."""
    return "\n".join(plain_text(_block(comparison)) for comparison in report.comparisons)


def _block(comparison: LayerComparison) -> Iterator[str | Table]:
    head = f"{comparison.path} in {comparison.runtime}" if comparison.runtime else comparison.path
    if comparison.reference:
        head += (
            f" against {comparison.reference}, {comparison.samples} images ({comparison.inputs})"
        )
    yield printable(head)
    if comparison.rows:
        table = Table(HEADS, (2, 3, 4), (29, 13, 10, 9, 12), indent=2)
        for row in comparison.rows:
            table.add(
                printable(row.layer),
                printable(row.kind),
                "not finite" if row.max_abs is None else f"{row.max_abs:.2e}",
                "equal" if row.sqnr_db is None else f"{row.sqnr_db:.1f}",
                "-" if row.cosine is None else f"{row.cosine:.8f}",
            )
        yield table
        worst = f"worst layer: {comparison.worst}" if comparison.worst else "all layers are equal"
        yield printable(worst + ("" if comparison.passed else "; the logits DISAGREE"))
    yield from map(printable, comparison.notes)
