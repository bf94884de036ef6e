"""``sepdeploy demo``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from sepdeploy import console
from sepdeploy.api import Seeded
from sepdeploy.commands.flags import taking
from sepdeploy.commands.shell import JSON, give, progress
from sepdeploy.files.roles import Values, Writes


def _written(out: Path, values: Values) -> Iterator[Path]:
    names = ("dense.pt", "dense-small.pt", "kron.pt", "bench.json", "report.html")
    yield from (out / name for name in names)


@taking(Seeded)
def demo(
    out: Annotated[
        Path,
        typer.Option("-o", "--out", help="Folder of the results."),
        Writes("the demonstration", files=_written, folder=True),
    ] = Path("demo"),
    json: JSON = None,
    **options: Any,
) -> None:
    """Train, export, verify and bench three nets on the digits.

    A robust Kronecker net beside a dense one of its widths and a dense one of its size, in about
    a minute, without a network.
    """
    from sepdeploy import api
    from sepdeploy.reports import terminal

    with progress(lasting=False) as watch:
        report = api.demo(out, notify=console.notice, on_progress=watch, **options)
    give(report, json, lambda: terminal.bench_table(report))
    console.notice(f"everything is in {out}/: start with {_page(out)}")


def _page(out: Path) -> Path:
    """Write the report where its extra is installed; return what to look at next."""
    from sepdeploy import api
    from sepdeploy.files import write_text
    from sepdeploy.reports.document import render
    from sepdeploy.reports.document.charts import has_extra

    result = out / "bench.json"
    if not has_extra():
        return result
    history, examples = out / "kron.history.jsonl", out / "kron.eval.npz"
    page = out / "report.html"
    shown = api.report([result], history=history, adversarial=examples)
    write_text(page, render("html", *shown))
    return page
