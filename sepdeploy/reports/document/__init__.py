"""The report of `sepdeploy report`: what it says (``sections``), drawn as HTML and as Markdown."""

from __future__ import annotations

import pkgutil
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sepdeploy.gate.verdict import Verdict
    from sepdeploy.workflows.reporting.dossier import Dossier

FORMATS = {"html": f"{__name__}.html:render_html", "md": f"{__name__}.markdown:render_markdown"}


def render(format: str, dossier: Dossier, verdicts: Mapping[str, Verdict]) -> str:
    """Return a report in one of ``FORMATS``.

    Args:
        format: Its name.
        dossier: What was gathered.
        verdicts: Of the results that were judged, by the names of their files.

    Raises:
        Missing: What draws it is not installed.
    """
    text: str = pkgutil.resolve_name(FORMATS[format])(dossier, verdicts)
    return text
