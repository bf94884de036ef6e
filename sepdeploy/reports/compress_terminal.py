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
    if plan.tried is None:
        return Page((table, *lines))
    rivals = Table(("plan of", "divergence"), (1,))
    for rival in plan.tried.rivals:
        reached = rival.divergence is not None
        rivals.add(rival.structure, f"{rival.divergence:.4f}" if reached else "-")
    lines.append(
        f"chosen on {plan.tried.samples:,} training images; mean KL divergence in nats from the "
        f"network's answers, - where the budget is out of reach; sum at most {plan.tried.gap:.1%} "
        "above the least"
    )
    return Page((table, *lines, rivals))
