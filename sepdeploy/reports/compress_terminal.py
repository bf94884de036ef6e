"""A compression plan for the terminal: plain text, at most 80 columns."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sepdeploy.reports.plain import printable, shorten

if TYPE_CHECKING:
    from sepdeploy.workflows.compressing import CompressedLayer, CompressSummary

NAME, FORM = 20, 22  # columns


def render_compression(plan: CompressSummary) -> str:
    """Return the table of a plan: one line per layer, a reason below what stays dense."""
    lines = [_row("layer", "structure", "params", "of", "error")]
    for layer in plan.layers:
        lines += _layer_lines(layer)
    lines.append(_row("total", "", f"{plan.params:,}", f"{plan.params_before:,}", ""))
    lines.append(f"multiply-accumulates {plan.macs:,} of {plan.macs_before:,}")
    if plan.limit is not None:
        lines.append(f"budget: {plan.limit:,} {plan.measure}")
    return "\n".join(lines) + "\n"


def _layer_lines(layer: CompressedLayer) -> list[str]:
    dense = layer.structure == "dense"
    error = "-" if dense else f"{layer.relative_error:.3f}"
    form = layer.structure
    name = shorten(printable(layer.name), NAME)
    row = _row(name, shorten(form, FORM), f"{layer.params:,}", f"{layer.params_dense:,}", error)
    return [row, f"  ({layer.reason})"] if layer.reason else [row]


def _row(name: str, form: str, params: str, dense: str, error: str) -> str:
    return f"{name:<{NAME}} {form:<{FORM}} {params:>12} {dense:>14} {error:>7}".rstrip()
