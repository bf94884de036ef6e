"""``sepdeploy attack``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from sepdeploy import console
from sepdeploy.api import JudgingOptions
from sepdeploy.commands.flags import taking
from sepdeploy.commands.shell import ARCH, SEED


@taking(JudgingOptions)
def attack(
    model: Annotated[Path, typer.Argument(help="model.pt")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Adversarial set (.npz).")],
    arch: ARCH = None,
    seed: SEED = 0,
    **options: Any,
) -> None:
    """Make an adversarial set against a model."""
    from sepdeploy import api

    summary = api.attack(model, out, arch=arch, seed=seed, notify=console.notice, **options)
    console.write(summary + "\n")
