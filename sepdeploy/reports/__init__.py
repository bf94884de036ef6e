"""What is drawn and written of a verdict; a new report is a file of this folder and a row."""

from __future__ import annotations

import pkgutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sepdeploy.gate.verdict import Verdict


@dataclass(frozen=True)
class View:
    """How a report is wanted.

    Args:
        source: The file of the repository that findings are shown at, relative to its root: the
            baseline, since artifacts are rarely committed.
        verbose: Also what is only reported, and the reason of every number.
    """

    source: str = "sepdeploy-baseline.json"
    verbose: bool = False


@dataclass(frozen=True)
class Report:
    """One row.

    Args:
        renderer: "module:function" of (verdict, view), imported when used.
        help: Of its flag.
        suffixes: Ends of names that say what the file is; the others say something else.
        printed: On standard output, else into the file that its flag names.
    """

    renderer: str
    help: str
    printed: bool = False
    suffixes: tuple[str, ...] = ()


REPORTS: dict[str, Report] = {
    "junit": Report(f"{__name__}.junit:render_junit", "Write JUnit XML.", suffixes=(".xml",)),
    "sarif": Report(
        f"{__name__}.sarif:render_sarif", "Write SARIF 2.1.0.", suffixes=(".sarif", ".json")
    ),
    "markdown": Report(
        f"{__name__}.markdown:render_markdown", "Write Markdown for a comment.", suffixes=(".md",)
    ),
    "github": Report(
        f"{__name__}.annotations:render_annotations", "Print GitHub annotations.", printed=True
    ),
}


def render(name: str, verdict: Verdict, view: View = View()) -> str:
    """Return a verdict as one of ``REPORTS``."""
    text: str = pkgutil.resolve_name(REPORTS[name].renderer)(verdict, view)
    return text
