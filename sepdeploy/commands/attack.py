"""``sepdeploy attack``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from sepdeploy import console
from sepdeploy.api import ATTACKED, JudgingOptions, ModelOptions
from sepdeploy.commands.flags import taking
from sepdeploy.commands.shell import JSON, give
from sepdeploy.files.roles import READS_MODEL


@taking(JudgingOptions, ModelOptions)
def attack(
    model: Annotated[Path, typer.Argument(help="model.pt"), READS_MODEL],
    out: Annotated[Path, typer.Option("-o", "--out", help="Adversarial set (.npz)."), ATTACKED],
    json: JSON = None,
    **options: Any,
) -> None:
    """Make an adversarial set against a model."""
    from sepdeploy import api

    summary = api.attack(model, out, notify=console.notice, **options)
    give(summary, json, lambda: str(summary))
