"""``sepdeploy inspect``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from sepdeploy import console
from sepdeploy.api import InspectOptions
from sepdeploy.commands.flags import taking
from sepdeploy.commands.shell import JSON, give
from sepdeploy.files.roles import READS_MODEL
from sepdeploy.settings import filled


@taking(InspectOptions)
def inspect(
    file: Annotated[Path, typer.Argument(help=".pt, .onnx or .tflite"), READS_MODEL],
    json: JSON = None,
    **options: Any,
) -> None:
    """Show the layers of a .pt, .onnx or .tflite file.

    Their structure, factor shapes, parameters and MACs; then singular values and condition
    numbers from the factors, and a Lipschitz bound of the whole network (docs/spectra.md).

    With --decompositions: how well each way to factor a convolution fits its kernel.

    With --frequency: where the energy of an attack's perturbations lies, accuracy after low-pass
    and high-pass filters, and which waves mislead the network (docs/frequency.md).
    """
    from sepdeploy import api
    from sepdeploy.files import write_out
    from sepdeploy.reports import terminal
    from sepdeploy.reports.heat_map import drawing

    plot = filled(InspectOptions(), options, "inspect").plot
    del options["plot"]
    report = api.inspect(file, notify=console.notice, **options)
    give(report, json, lambda: terminal.inspect_table(report))
    if plot is not None and report.frequency is not None:
        write_out(plot, drawing(report.frequency))
