"""``sepdeploy check``."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from sepdeploy import console
from sepdeploy.commands.flags import taking
from sepdeploy.commands.shell import JSON, give
from sepdeploy.files.roles import Reads, Writes
from sepdeploy.gate import DEFAULT_BASELINE
from sepdeploy.gate.options import CheckOptions
from sepdeploy.reports import REPORTS, View, render
from sepdeploy.settings import settings


def with_report_flags(function: Callable[..., int]) -> Callable[..., int]:
    """Put a flag per row of ``REPORTS`` in the place of a command's ``**options``."""
    signature = inspect.signature(function, eval_str=True)
    own = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
    flags = []
    for name, report in REPORTS.items():
        kind: Any = bool if report.printed else Path | None
        flag: Any = Annotated[kind, typer.Option(f"--{name}", help=report.help)]
        if not report.printed:
            flag = Annotated[flag, Writes(f"the {name} report", report.suffixes, stream=True)]
        default = False if report.printed else None
        flags.append(own[-1].replace(name=name, default=default, annotation=flag))
    function.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[p.replace(kind=p.KEYWORD_ONLY) for p in (*own[:-1], *flags, own[-1])]
    )
    return function


@taking(CheckOptions)
@with_report_flags
def check(
    result: Annotated[Path, typer.Argument(help="What bench --json wrote."), Reads()],
    json: JSON = None,
    **options: Any,
) -> int:
    """Compare a result with the baseline.

    Exit code 1 on a real regression and only then.
    """
    from sepdeploy import api
    from sepdeploy.files import write_out
    from sepdeploy.reports.check_terminal import verdict_table

    given = {name: options.pop(name) for name in settings(CheckOptions)}
    verdict = api.check(result, **given)
    source = (given["baseline"] or Path(DEFAULT_BASELINE)).as_posix()
    view = View(source, verbose=console.VERBOSITY.level > 0)
    give(verdict, json, lambda: verdict_table(verdict, view))
    for name, target in options.items():
        text = render(name, verdict, view) if target else ""
        if isinstance(target, Path):
            write_out(target, text)
        else:
            console.write(text)
    return verdict.exit_code
