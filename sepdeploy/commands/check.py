"""``sepdeploy check``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sepdeploy import console
from sepdeploy.commands.shell import JSON_FLAG


def check(
    result: Annotated[Path, typer.Argument(help="What bench --json wrote.")],
    baseline: Annotated[
        Path | None, typer.Option("--baseline", help="Default: sepdeploy-baseline.json.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", help="Rules (TOML); default: pyproject.toml.")
    ] = None,
    junit: Annotated[Path | None, typer.Option("--junit", help="Write JUnit XML.")] = None,
    sarif: Annotated[Path | None, typer.Option("--sarif", help="Write SARIF 2.1.0.")] = None,
    markdown: Annotated[
        Path | None, typer.Option("--markdown", help="Write Markdown for a comment.")
    ] = None,
    github: Annotated[bool, typer.Option("--github", help="Print GitHub annotations.")] = False,
    json: JSON_FLAG = False,
) -> int:
    """Compare a result with the baseline.

    Exit code 1 on a real regression and only then.
    """
    from sepdeploy import api
    from sepdeploy.files import write_text
    from sepdeploy.gate import DEFAULT_BASELINE
    from sepdeploy.records import dump
    from sepdeploy.reports.annotations import render_annotations
    from sepdeploy.reports.check_terminal import render_terminal
    from sepdeploy.reports.junit import render_junit
    from sepdeploy.reports.markdown import render_markdown
    from sepdeploy.reports.sarif import render_sarif

    verdict = api.check(result, baseline, config=config)
    source = (baseline or Path(DEFAULT_BASELINE)).as_posix()
    if junit is not None:
        write_text(junit, render_junit(verdict))
    if sarif is not None:
        write_text(sarif, render_sarif(verdict, source=source))
    if markdown is not None:
        write_text(markdown, render_markdown(verdict))
    if json:
        console.write(dump(verdict))
    else:
        console.write(render_terminal(verdict, verbose=console.VERBOSITY.level > 0))
    if github:
        console.write(render_annotations(verdict, source=source))
    return verdict.exit_code
