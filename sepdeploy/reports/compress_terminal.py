"""A compression plan for the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sepdeploy.reports.page import Page
from sepdeploy.reports.tables import Table

if TYPE_CHECKING:
    from sepdeploy.workflows.compressing import CompressSummary


def compression_table(plan: CompressSummary) -> Page:
    """Return the table of a plan: one line per layer, a reason below what stays dense."""
    heads = ("layer", "structure", "params", "of", "error")
    table = Table(heads, (2, 3, 4))
    for layer in plan.layers:
        error = "-" if layer.structure == "dense" else f"{layer.relative_error:.3f}"
        sizes = f"{layer.params:,}", f"{layer.params_dense:,}"
        note = f"({layer.reason})" if layer.reason else ""
        table.add(layer.name, layer.structure, *sizes, error, note=note)
    table.add("total", "", f"{plan.params:,}", f"{plan.params_before:,}", "")
    lines = [f"multiply-accumulates {plan.macs:,} of {plan.macs_before:,}"]
    if plan.limit is not None:
        lines.append(f"budget: {plan.limit:,} {plan.measure}")
    return Page((table, *lines))
