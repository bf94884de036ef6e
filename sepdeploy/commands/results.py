"""What is done with results: ``sepdeploy report``, ``compare`` and ``baseline update``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from sepdeploy import console
from sepdeploy.api import ReportOptions
from sepdeploy.commands.flags import taking
from sepdeploy.commands.shell import JSON, give
from sepdeploy.files.roles import Reads
from sepdeploy.gate.options import UpdateOptions
from sepdeploy.settings import filled

RESULTS = Annotated[list[Path], typer.Argument(help="What bench --json wrote."), Reads()]


@taking(ReportOptions)
def report(results: RESULTS, **options: Any) -> None:
    """Write what results say as one offline page.

    Tables and charts of all artifacts and devices, the verdict first; no script, no network.
    """
    from sepdeploy import api
    from sepdeploy.files import write_out
    from sepdeploy.reports.document import render

    wanted = filled(ReportOptions(), options, "report")
    out, format = wanted.page()
    dossier, verdicts = api.report(results, wanted)
    write_out(out, render(format, dossier, verdicts))
    console.notice(f"the report is in {out}")


def compare(results: RESULTS, json: JSON = None) -> int:
    """Show what differs between results.

    Each later result against the first: only numbers of one kind; accuracies of the same images
    are paired, with McNemar's exact p.
    """
    from sepdeploy import api
    from sepdeploy.reports.document.terminal import comparison_table

    comparison = api.compare(results)
    give(comparison, json, lambda: comparison_table(comparison))
    return 0 if comparison.differences else 3


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
