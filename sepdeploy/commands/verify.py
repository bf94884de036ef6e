"""``sepdeploy verify``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sepdeploy import console
from sepdeploy.commands.shell import JSON_FLAG, SEED


def verify(
    manifest: Annotated[
        Path | None, typer.Argument(help="STEM.manifest.json; default: every one here.")
    ] = None,
    arch: Annotated[
        str | None, typer.Option("--arch", help="package.module:factory of your own network.")
    ] = None,
    seed: SEED = None,
    json: JSON_FLAG = False,
) -> int:
    """Recompute digests, parity and the re-densification check of an export."""
    from sepdeploy import api
    from sepdeploy.records import dump
    from sepdeploy.reports import terminal

    report = api.verify(manifest, arch=arch, seed=seed or 0, notify=console.notice)
    if json:
        console.write(dump(report))
    else:
        console.show(terminal.verify_table(report))
    return report.exit_code
