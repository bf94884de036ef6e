"""``sepdeploy bench``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sepdeploy import console
from sepdeploy.api import BenchOptions
from sepdeploy.commands.flags import taking
from sepdeploy.commands.shell import JSON, give
from sepdeploy.files.roles import READS_MODELS

if TYPE_CHECKING:
    from sepdeploy.records import BenchReport


@taking(BenchOptions)
def bench(
    artifacts: Annotated[
        list[Path] | None,
        typer.Argument(help="Files; default: every manifest of this folder."),
        READS_MODELS,
    ] = None,
    json: JSON = None,
    **options: Any,
) -> None:
    """Measure size, speed and accuracy of exported files."""
    from sepdeploy import api
    from sepdeploy.reports import terminal

    def show(report: BenchReport) -> None:
        give(report, json, lambda: terminal.bench_table(report))

    api.bench(artifacts or (), notify=console.notice, on_report=show, **options)
