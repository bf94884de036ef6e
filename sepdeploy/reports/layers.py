"""Layers of an artifact beside their reference, for the terminal: plain text, 80 columns."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import TYPE_CHECKING

from sepdeploy.reports.plain import printable, shorten

if TYPE_CHECKING:
    from sepdeploy.workflows.comparing import LayerComparison, LayersReport

WIDTH = 80


def render_layers(report: LayersReport) -> str:
    """Return one block per comparison: its layers, then which one is worst."""
    lines: list[str] = []
    for comparison in report.comparisons:
        lines += ["", *_block(comparison)]
    return "\n".join(lines[1:]) + "\n"


def _block(comparison: LayerComparison) -> Iterator[str]:
    head = f"{comparison.path} in {comparison.runtime}" if comparison.runtime else comparison.path
    if comparison.reference:
        head += (
            f" against {comparison.reference}, {comparison.samples} images ({comparison.inputs})"
        )
    yield from textwrap.wrap(printable(head), WIDTH)
    if comparison.rows:
        yield f"  {'layer':<30}{'kind':<14}{'max |Δ|':>10}{'SQNR dB':>10}{'cosine':>13}"
        for row in comparison.rows:
            yield _row(row.layer, row.kind, row.max_abs, row.sqnr_db, row.cosine)
        worst = f"worst layer: {comparison.worst}" if comparison.worst else "all layers are equal"
        end = "" if comparison.passed else "; the logits DISAGREE"
        yield from textwrap.wrap(printable(worst + end), WIDTH)
    for note in comparison.notes:
        yield from textwrap.wrap(printable(note), WIDTH)


def _row(
    layer: str, kind: str, max_abs: float | None, sqnr_db: float | None, cosine: float | None
) -> str:
    sqnr = "equal" if sqnr_db is None else f"{sqnr_db:.1f}"
    largest = "not finite" if max_abs is None else f"{max_abs:.2e}"
    agreement = "-" if cosine is None else f"{cosine:.8f}"
    name, what = shorten(printable(layer), 29), shorten(printable(kind), 13)
    return f"  {name:<30}{what:<14}{largest:>10}{sqnr:>10}{agreement:>13}"
