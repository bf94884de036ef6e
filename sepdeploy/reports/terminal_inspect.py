"""The tables of ``sepdeploy inspect``: what layers hold, how they stretch, frequencies."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from sepdeploy.metrics import count, ratio
from sepdeploy.records import LayerRecord
from sepdeploy.reports.frequency import frequency_tables
from sepdeploy.reports.page import Page
from sepdeploy.reports.tables import Line, Table
from sepdeploy.structures import shown_factors

if TYPE_CHECKING:
    from sepdeploy.workflows.inspecting import (
        Affine,
        Decompositions,
        FileFacts,
        InspectReport,
        Stretch,
    )


def inspect_table(report: InspectReport) -> Page:
    """Draw the layers of a file, then their singular values."""
    if report.file is not None:
        return _file_page(report, report.file)
    table = Table(("layer", "structure", "factors", "params", "MACs", "smaller"), right=(3, 4, 5))
    layers = [layer for layer in report.layers if isinstance(layer, LayerRecord)]
    for layer in layers:
        table.add(
            layer.name,
            layer.structure,
            shown_factors(layer.structure, layer.factors),
            count(layer.params),
            count(layer.macs),
            ratio(layer.params_dense / layer.params if layer.params else None),
        )
    total = report.total
    table.add(
        "total",
        "",
        "",
        count(total.params),
        count(total.macs),
        ratio(total.params_dense / total.params if total.params else None),
        ruled=True,
    )
    shape = report.input.shape if report.input is not None else ()
    head = f"{report.path}  ({report.format}, input {'×'.join(map(str, shape))})"
    parts: list[str | Line | Table] = [head, table]
    if any(layer.sigma_max or layer.condition_number for layer in layers):
        parts += [_spectra(report, layers), *_explained(report, layers)]
    parts += report.notes
    if report.decompositions:
        parts += _ways(report.decompositions)
    if report.frequency is not None:
        parts += frequency_tables(report.frequency)
    return Page(tuple(parts))


def _ways(found: tuple[Decompositions, ...]) -> list[str | Line | Table]:
    """Draw how well each way to factor a convolution fits; the best one has a star."""
    views = list(dict.fromkeys(view for layer in found for view in layer.errors))
    table = Table(("convolution", "kernel", *views), right=tuple(range(2, 2 + len(views))))
    for layer in found:
        least = min((e for e in layer.errors.values() if e is not None), default=None)
        cells = [layer.errors.get(view) for view in views]
        shown = ["-" if e is None else f"{e:.3f}" + "*" * (e == least) for e in cells]
        table.add(layer.layer, _shape(layer.kernel), *shown)
    return [table, "relative error of the kernel at a quarter of its weights; * the least"]


def _file_page(report: InspectReport, file: FileFacts) -> Page:
    """Draw what a file that others wrote says about itself."""
    told = ", ".join(f"{name} {value}" for name, value in file.made_by.items() if value)
    parts: list[str | Line | Table] = [f"{report.path}  ({report.format}, {told})"]
    ports = Table(("", "name", "type", "shape"))
    for side, ends in (("input", file.inputs), ("output", file.outputs)):
        for end in ends:
            ports.add(side, end.name, _typed(end.dtype, end.affine), _shape(end.shape))
    table = Table(("layer", "operator", "weights", "type", "params", "MACs"), right=(4, 5))
    for layer in report.layers:
        assert not isinstance(layer, LayerRecord)
        shapes = ", ".join(map(_shape, layer.factors))
        table.add(
            layer.name,
            layer.operator,
            shapes,
            _typed(layer.dtype, layer.affine),
            count(layer.params),
            _known(layer.macs),
        )
    total = report.total
    table.add("total", "", "", "", count(total.params), _known(total.macs), ruled=True)
    counts = ", ".join(f"{n} {name}" for name, n in file.operators.items())
    parts += [ports, table, f"operators: {counts}", *report.notes]
    if report.frequency is not None:
        parts += frequency_tables(report.frequency)
    return Page(tuple(parts))


def _known(value: int | None) -> str:
    return "not known" if value is None else count(value)


def _shape(shape: tuple[int | str, ...] | None) -> str:
    if shape is None:
        return "not known"
    return "×".join(map(str, shape)) or "one number"


def _typed(dtype: str, affine: Affine | None) -> str:
    """Return a type, and how its numbers are scaled."""
    named = dtype or "not known"
    if affine is None:
        return named
    if affine.slices > 1:
        return f"{named}, {affine.slices} scales"
    return f"{named}, scale {affine.scale:.4g}, zero {affine.zero_point}"


def is_bound(layer: LayerRecord) -> bool:
    """Whether σ max of a layer is an upper bound: a kernel above 1×1, factored or not."""
    kernels = () if "structure" in layer.spec else layer.factors  # a linear layer has none
    return any(math.prod(shape[2:]) > 1 for shape in kernels)


def _spectra(report: InspectReport, layers: list[LayerRecord]) -> Table:
    so_far = {} if report.stretch is None else report.stretch.so_far
    table = Table(("layer", "σ max", "σ min", "cond.", "Lipschitz so far"), right=(1, 2, 3, 4))
    for layer in layers:
        largest = _number(layer.sigma_max)
        table.add(
            layer.name,
            f"≤ {largest}" if is_bound(layer) and layer.sigma_max is not None else largest,
            _number(layer.sigma_min),
            _condition(layer),
            _number(so_far.get(layer.name)),
        )
    return table


def _condition(layer: LayerRecord) -> str:
    if layer.condition_number is None and layer.sigma_min == 0:
        return "∞"
    return _number(layer.condition_number)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def _explained(report: InspectReport, layers: list[LayerRecord]) -> list[str]:
    lines = []
    if any(is_bound(layer) and layer.sigma_max is not None for layer in layers):
        lines.append("≤: a bound from the kernel, for images of any size (docs/spectra.md)")
    if any(layer.sigma_min is None and not is_bound(layer) for layer in layers):
        lines.append("-: not computed (a large dense layer, or a sum of Kronecker terms)")
    if report.stretch is not None:
        lines.append(_lipschitz(report.stretch))
    elif report.format != "pt":
        lines.append("Of the network that was exported; inspect its .pt for a Lipschitz bound.")
    return lines


def _lipschitz(stretch: Stretch) -> str:
    if stretch.bound is None:
        return f"No Lipschitz bound: {stretch.reason}."
    norms = " and batch normalisations" if stretch.others else ""
    return (
        f"Lipschitz ≤ {stretch.bound:.3g}: Euclidean norms, pixels in [0, 1] to logits; product of "
        f"1/std = {stretch.input:.3g} and the σ max of all layers{norms}. An upper bound."
    )
