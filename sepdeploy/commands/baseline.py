"""``sepdeploy baseline update``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sepdeploy import console
from sepdeploy.commands.shell import JSON, give
from sepdeploy.files.roles import Reads
from sepdeploy.gate.baseline import UPDATED


def update_baseline(
    result: Annotated[Path, typer.Argument(help="What bench --json wrote."), Reads()],
    baseline: Annotated[
        Path | None,
        typer.Option("--baseline", help="Default: sepdeploy-baseline.json."),
        UPDATED,
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Drop what the result does not hold.")
    ] = False,
    json: JSON = None,
) -> None:
    """Write or refresh the baseline from a result; review the diff before you commit it."""
    from sepdeploy import api

    path, entries = api.update_baseline(result, baseline, replace=replace)
    console.notice(f"{path}: {entries} results; review the diff and commit it")
    document = {"schema": "sepdeploy.update/1", "path": str(path), "entries": entries}
    give(document, json)
