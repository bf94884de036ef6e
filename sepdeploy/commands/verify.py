"""``sepdeploy verify``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from sepdeploy import console
from sepdeploy.api import VerifyOptions
from sepdeploy.commands.flags import taking
from sepdeploy.commands.shell import JSON, give
from sepdeploy.files.roles import READS_MODELS
from sepdeploy.settings import filled


@taking(VerifyOptions)
def verify(
    manifest: Annotated[
        Path | None,
        typer.Argument(help="STEM.manifest.json (with --against also a file); default: all here."),
        READS_MODELS,
    ] = None,
    json: JSON = None,
    **options: Any,
) -> int:
    """Check that an export is still what its manifest says.

    Recomputes digests, parity and the re-densification check.

    With --against: compare two files (or the files of two manifests) instead, layer by layer.
    """
    from sepdeploy import api
    from sepdeploy.codec import to_json
    from sepdeploy.reports import terminal
    from sepdeploy.reports.layers import layers_table

    wanted = filled(VerifyOptions(), options, "verify")
    if wanted.against is not None:
        return _against(manifest, wanted.against, wanted, json)
    proven = {"arch": wanted.arch, "seed": wanted.seed}
    report = api.verify(manifest, notify=console.notice, **proven)
    by_layer = None
    if wanted.layers:
        by_layer = api.verify_layers(manifest, notify=console.notice, **proven)
    document = to_json(report)
    if by_layer is not None:
        document["layers"] = to_json(by_layer)
    give(document, json, lambda: terminal.verify_table(report))
    if by_layer is not None and json != "-":
        console.show(layers_table(by_layer))
    return report.exit_code or (0 if by_layer is None else by_layer.exit_code)


def _against(path: Path | None, other: Path, wanted: VerifyOptions, json: str | None) -> int:
    from sepdeploy import api
    from sepdeploy.errors import BadInput
    from sepdeploy.reports.layers import layers_table

    if path is None or wanted.layers or wanted.arch is not None:
        raise BadInput(
            "--against compares a file with OTHER; it takes neither --layers nor --arch",
            hint="sepdeploy verify NEW.onnx --against OLD.onnx",
        )
    report = api.compare_artifacts(path, other, seed=wanted.seed, input_shape=wanted.input_shape)
    give(report, json, lambda: layers_table(report))
    return report.exit_code
