"""What ``check`` and ``baseline update`` are asked for: the values of the command line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sepdeploy.files.roles import Reads
from sepdeploy.gate.baseline import DEFAULT_BASELINE, UPDATED
from sepdeploy.settings import Options, setting

STANDARD = f"Default: {DEFAULT_BASELINE}."


@dataclass(frozen=True)
class CheckOptions(Options):
    """What a result is judged by."""

    baseline: Path | None = setting(
        None, STANDARD, path=Reads(lambda value, _: [Path(value or DEFAULT_BASELINE)])
    )
    config: Path | None = setting(
        None,
        "Rules (TOML); default: pyproject.toml.",
        path=Reads(lambda value, _: [Path(value or "pyproject.toml")]),
    )


@dataclass(frozen=True)
class UpdateOptions(Options):
    """How a baseline takes a result."""

    baseline: Path | None = setting(None, STANDARD, path=UPDATED)
    replace: bool = setting(False, "Drop what the result does not hold.")
