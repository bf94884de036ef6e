"""``sepdeploy export``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from sepdeploy import console
from sepdeploy.api import EvaluationOptions, ExportOptions, ModelOptions
from sepdeploy.commands.flags import taking
from sepdeploy.commands.shell import JSON, give
from sepdeploy.files.roles import Reads, Values, Writes
from sepdeploy.settings import filled, settings


def _written(out: Path | None, values: Values) -> Iterator[Path]:
    """Give the files of an export; over the model itself the export decides."""
    model = values["model"]
    chosen = {name: values[name] for name in settings(ExportOptions)}
    ends = [output.suffix for output in filled(ExportOptions(), chosen, "export").outputs()]
    for end in (*ends, ".eval.npz", ".manifest.json"):
        path = (out or model.parent) / f"{model.stem}{end}"
        if path != model:
            yield path


@taking(ExportOptions, EvaluationOptions, ModelOptions)
def export(
    model: Annotated[
        Path, typer.Argument(help="model.pt, or any .onnx for -f tflite, --quantize"), Reads()
    ],
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", help="Folder; default beside the model."),
        Writes("an export", files=_written, folder=True),
    ] = None,
    json: JSON = None,
    **options: Any,
) -> None:
    """Write .onnx and .tflite, proven equal to the model.

    Beside them a manifest and an evaluation pack.
    """
    from sepdeploy import api
    from sepdeploy.reports import terminal

    manifest = api.export(model, out_dir=out, notify=console.notice, **options)
    give(manifest, json, lambda: terminal.manifest_table(manifest))
