"""``sepdeploy baseline update``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from sepdeploy import console
from sepdeploy.commands.flags import taking
from sepdeploy.commands.shell import JSON, give
from sepdeploy.files.roles import Reads
from sepdeploy.gate.options import UpdateOptions


@taking(UpdateOptions)
def update_baseline(
    result: Annotated[Path, typer.Argument(help="What bench --json wrote."), Reads()],
    json: JSON = None,
    **options: Any,
) -> None:
    """Write or refresh the baseline from a result; review the diff before you commit it."""
    from sepdeploy import api

    path, entries = api.update_baseline(result, **options)
    console.notice(f"{path}: {entries} results; review the diff and commit it")
    document = {"schema": "sepdeploy.update/1", "path": str(path), "entries": entries}
    give(document, json)
