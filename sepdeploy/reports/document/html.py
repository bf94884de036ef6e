"""A report as one HTML file: no script, nothing fetched, every foreign word escaped."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from sepdeploy import __version__
from sepdeploy.errors import printable
from sepdeploy.gate.verdict import Verdict
from sepdeploy.reports.document.charts import require_extra
from sepdeploy.reports.document.sections import Section, sections

if TYPE_CHECKING:
    from sepdeploy.workflows.reporting.dossier import Dossier

HERE = "sepdeploy.reports.document"


@dataclass(frozen=True)
class HtmlPage:
    """What the template shows."""

    title: str
    lead: str
    sections: list[dict[str, Any]]
    foot: str


def render_html(dossier: Dossier, verdicts: Mapping[str, Verdict]) -> str:
    """Return the page.

    Args:
        dossier: What was gathered.
        verdicts: Of the results that were judged, by the names of their files.

    Raises:
        Missing: What draws it is not installed.
    """
    require_extra()
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, finalize=_clean, trim_blocks=True
    )
    folder = files(HERE)
    template = environment.from_string(folder.joinpath("page.html.jinja").read_text("utf-8"))
    names = [name for name, _ in dossier.results]
    page = HtmlPage(
        "sepdeploy report",
        f"Of {', '.join(names)}.",
        [_ready(s) for s in sections(dossier, verdicts)],
        f"Written by sepdeploy {__version__}. One file, no script: nothing is fetched or sent.",
    )
    style = Markup(folder.joinpath("style.css").read_text("utf-8"))
    return template.render(page=page, style=style) + "\n"


def _ready(section: Section) -> dict[str, Any]:
    from markupsafe import Markup

    figures = [{"svg": Markup(f.chart()), "caption": f.caption} for f in section.figures]
    return vars(section) | {"figures": figures}


def _clean(value: object) -> object:
    """Take out of foreign text what moves a cursor or turns the direction of writing."""
    if type(value) is not str:  # marked-up text is ours
        return value
    return "\n".join(printable(line) for line in value.split("\n"))
