"""A compression plan for the terminal: plain text, at most 80 columns."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sepdeploy.reports.plain import printable
from sepdeploy.reports.tables import Table
from sepdeploy.reports.terminal_cells import plain_text

if TYPE_CHECKING:
    from sepdeploy.workflows.compressing import CompressSummary


def render_compression(plan: CompressSummary) -> str:
    """Return the table of a plan: one line per layer, a reason below what stays dense."""
    heads = ("layer", "structure", "params", "of", "error")
    table = Table(heads, (2, 3, 4), (20, 22, 12, 14, 7))
    for layer in plan.layers:
        error = "-" if layer.structure == "dense" else f"{layer.relative_error:.3f}"
        sizes = f"{layer.params:,}", f"{layer.params_dense:,}"
        note = f"({layer.reason})" if layer.reason else ""
        table.add(printable(layer.name), layer.structure, *sizes, error, note=note)
    table.add("total", "", f"{plan.params:,}", f"{plan.params_before:,}", "")
    lines = [f"multiply-accumulates {plan.macs:,} of {plan.macs_before:,}"]
    if plan.limit is not None:
        lines.append(f"budget: {plan.limit:,} {plan.measure}")
    return plain_text([table, *lines])
