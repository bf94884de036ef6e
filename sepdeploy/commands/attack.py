"""``sepdeploy attack``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from sepdeploy import console
from sepdeploy.api import ATTACKED, JudgingOptions
from sepdeploy.commands.flags import taking
from sepdeploy.commands.shell import ARCH, JSON, SEED, give
from sepdeploy.files.roles import READS_MODEL


@taking(JudgingOptions)
def attack(
    model: Annotated[Path, typer.Argument(help="model.pt"), READS_MODEL],
    out: Annotated[Path, typer.Option("-o", "--out", help="Adversarial set (.npz)."), ATTACKED],
    arch: ARCH = None,
    seed: SEED = 0,
    json: JSON = None,
    **options: Any,
) -> None:
    """Make an adversarial set against a model."""
    from sepdeploy import api

    summary = api.attack(model, out, arch=arch, seed=seed, notify=console.notice, **options)
    give(summary, json, lambda: str(summary))
