"""``sepdeploy verify``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sepdeploy import console
from sepdeploy.commands.shell import ARCH, JSON, SEED, give
from sepdeploy.files.roles import READS_MODEL, READS_MODELS


def verify(
    manifest: Annotated[
        Path | None,
        typer.Argument(help="STEM.manifest.json (with --against also a file); default: all here."),
        READS_MODELS,
    ] = None,
    layers: Annotated[
        bool, typer.Option("--layers", help="Also compare every layer with the model's.")
    ] = False,
    against: Annotated[
        Path | None,
        typer.Option("--against", metavar="OTHER", help="Compare with OTHER, layer by layer."),
        READS_MODEL,
    ] = None,
    arch: ARCH = None,
    seed: SEED = 0,
    json: JSON = None,
) -> int:
    """Check that an export is still what its manifest says.

    Recomputes digests, parity and the re-densification check.

    With --against: compare two files (or the files of two manifests) instead, layer by layer.
    """
    from sepdeploy import api
    from sepdeploy.codec import to_json
    from sepdeploy.reports import terminal
    from sepdeploy.reports.layers import layers_table

    if against is not None:
        return _against(manifest, against, arch, layers=layers, seed=seed, json=json)
    report = api.verify(manifest, arch=arch, seed=seed, notify=console.notice)
    by_layer = None
    if layers:
        by_layer = api.verify_layers(manifest, arch=arch, seed=seed, notify=console.notice)
    document = to_json(report)
    if by_layer is not None:
        document["layers"] = to_json(by_layer)
    give(document, json, lambda: terminal.verify_table(report))
    if by_layer is not None and json != "-":
        console.show(layers_table(by_layer))
    return report.exit_code or (0 if by_layer is None else by_layer.exit_code)


def _against(
    path: Path | None, other: Path, arch: str | None, *, layers: bool, seed: int, json: str | None
) -> int:
    from sepdeploy import api
    from sepdeploy.errors import BadInput
    from sepdeploy.reports.layers import layers_table

    if path is None or layers or arch is not None:
        raise BadInput(
            "--against compares a file with OTHER; it takes neither --layers nor --arch",
            hint="sepdeploy verify NEW.onnx --against OLD.onnx",
        )
    report = api.compare_artifacts(path, other, seed=seed)
    give(report, json, lambda: layers_table(report))
    return report.exit_code
