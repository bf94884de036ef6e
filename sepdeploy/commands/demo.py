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
    yield from (out / name for name in ("dense.pt", "dense-small.pt", "kron.pt", "bench.json"))


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
    console.notice(f"everything is in {out}/: start with {out}/bench.json")
