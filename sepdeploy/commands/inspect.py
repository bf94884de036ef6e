"""``sepdeploy inspect``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from sepdeploy.api import ModelOptions
from sepdeploy.commands.flags import taking
from sepdeploy.commands.shell import JSON, give
from sepdeploy.files.roles import READS_MODEL


@taking(ModelOptions)
def inspect(
    file: Annotated[Path, typer.Argument(help=".pt, .onnx or .tflite"), READS_MODEL],
    json: JSON = None,
    **options: Any,
) -> None:
    """Show the layers of a .pt, .onnx or .tflite file.

    Their structure, factor shapes, parameters and MACs; then singular values and condition
    numbers from the factors, and a Lipschitz bound of the whole network (docs/spectra.md).
    """
    from sepdeploy import api
    from sepdeploy.reports import terminal

    report = api.inspect(file, **options)
    give(report, json, lambda: terminal.inspect_table(report))
