"""What ``report`` is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sepdeploy.files.roles import Reads, Writes
from sepdeploy.settings import Options, setting

FORMATS = {"html": ".html", "md": ".md"}


def page_of(out: Path | str | None, format: str | None) -> tuple[Path, str]:
    """Return the file and the format of a report: each follows from the other."""
    if format is None:
        format = next((f for f, end in FORMATS.items() if str(out or "").endswith(end)), "html")
    return Path(out or f"report{FORMATS[format]}"), format


def _page(value: Any, values: Mapping[str, Any]) -> list[Path]:
    known = values.get("format") if values.get("format") in FORMATS else None
    return [page_of(value, known)[0]]


@dataclass(frozen=True)
class ReportOptions(Options):
    """What a report holds beside results, and where it goes."""

    history: Path | None = setting(
        None, "Training curves: what `train` wrote beside its model.", path=Reads()
    )
    adversarial: Path | None = setting(
        None, "Examples from an adversarial set or an evaluation pack.", path=Reads()
    )
    baseline: Path | None = setting(None, "Begin with the verdict of `check`.", path=Reads())
    format: str | None = setting(
        None, "Default: by the name of the file, else html.", choices=tuple(FORMATS)
    )
    out: Path | None = setting(
        None,
        "The report; default: report.html or report.md.",
        flags=("-o", "--out"),
        path=Writes("a report", tuple(FORMATS.values()), _page, stream=True),
    )

    def page(self) -> tuple[Path, str]:
        """Return the file and the format."""
        return page_of(self.out, self.format)
