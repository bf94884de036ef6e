"""``sepdeploy compress``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from sepdeploy import console
from sepdeploy.api import CompressOptions
from sepdeploy.commands.flags import taking
from sepdeploy.commands.shell import JSON, give, progress
from sepdeploy.files.roles import READS_MODEL, Values, Writes
from sepdeploy.training.beside import TRAINED


def _written(out: Path | None, values: Values) -> Iterator[Path]:
    if values["dry_run"]:
        return
    path = out or CompressOptions(structure=values["structure"]).default_out(values["model"])
    yield from TRAINED.files(path, values) if values["finetune"] else (path,)


@taking(CompressOptions)
def compress(
    model: Annotated[Path, typer.Argument(help="model.pt, trained."), READS_MODEL],
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", help="Model file."),
        Writes(TRAINED.what, TRAINED.suffixes, _written),
    ] = None,
    json: JSON = None,
    **options: Any,
) -> None:
    """Project a trained dense model onto a structure, under a budget."""
    from sepdeploy import api
    from sepdeploy.reports.compress_terminal import compression_table

    def show(plan: Any) -> None:
        if json != "-":
            console.show(compression_table(plan))

    with progress() as watch:
        summary = api.compress(model, out=out, on_plan=show, on_progress=watch, **options)
    from sepdeploy.training import is_first_process

    if not is_first_process():
        return
    for line in summary.lines():
        console.notice(line)
    give(summary, json)
