"""Layers of an artifact beside their reference, for the terminal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from sepdeploy.reports.page import Page
from sepdeploy.reports.tables import Line, Table

if TYPE_CHECKING:
    from sepdeploy.workflows.comparing import LayerComparison, LayersReport

HEADS = ("layer", "kind", "max |Δ|", "SQNR dB", "cosine")


def layers_table(report: LayersReport) -> Page:
    """Draw one block per comparison: its layers, then which one is worst."""
    parts = [part for comparison in report.comparisons for part in ("", *_block(comparison))]
    return Page(tuple(parts[1:]))


def _block(comparison: LayerComparison) -> Iterator[str | Line | Table]:
    head = f"{comparison.path} in {comparison.runtime}" if comparison.runtime else comparison.path
    if comparison.reference:
        head += (
            f" against {comparison.reference}, {comparison.samples} images ({comparison.inputs})"
        )
    yield head
    if comparison.rows:
        table = Table(HEADS, (2, 3, 4), indent=2)
        for row in comparison.rows:
            table.add(
                row.layer,
                row.kind,
                "not finite" if row.max_abs is None else f"{row.max_abs:.2e}",
                "equal" if row.sqnr_db is None else f"{row.sqnr_db:.1f}",
                "-" if row.cosine is None else f"{row.cosine:.8f}",
            )
        yield table
        worst = f"worst layer: {comparison.worst}" if comparison.worst else "all layers are equal"
        passed = comparison.passed
        yield worst if passed else Line(f"{worst}; the logits DISAGREE", "bold red")
    yield from comparison.notes
