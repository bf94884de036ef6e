"""``sepdeploy export``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from sepdeploy import console
from sepdeploy.api import EvaluationOptions, ExportOptions
from sepdeploy.commands.flags import taking
from sepdeploy.commands.shell import ARCH, JSON, SEED, give


@taking(ExportOptions, EvaluationOptions)
def export(
    model: Annotated[Path, typer.Argument(help="model.pt, or any .onnx for -f tflite, --quantize")],
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="Folder; default beside the model.")
    ] = None,
    arch: ARCH = None,
    seed: SEED = 0,
    json: JSON = None,
    **options: Any,
) -> None:
    """Write .onnx and .tflite, proven equal to the model.

    Beside them a manifest and an evaluation pack.
    """
    from sepdeploy import api
    from sepdeploy.reports import terminal

    manifest = api.export(
        model, out_dir=out, arch=arch, seed=seed, notify=console.notice, **options
    )
    give(manifest, json, lambda: terminal.manifest_table(manifest))
