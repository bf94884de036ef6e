"""``sepdeploy attack``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sepdeploy import console
from sepdeploy.commands.shell import DATA, DATA_DIR, EPS, NORM, SEED


def attack(
    model: Annotated[Path, typer.Argument(help="model.pt")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Adversarial set (.npz).")],
    name: Annotated[
        str | None, typer.Option("--attack", help="pgd-40, fgsm; default from the model.")
    ] = None,
    arch: Annotated[
        str | None, typer.Option("--arch", help="package.module:factory of your own network.")
    ] = None,
    eps: EPS = None,
    norm: NORM = None,
    samples: Annotated[int, typer.Option("--samples", min=1, help="Images attacked.")] = 1000,
    data: DATA = None,
    data_dir: DATA_DIR = None,
    seed: SEED = None,
) -> None:
    """Make an adversarial set against a model."""
    from sepdeploy import api

    summary = api.attack(
        model,
        out,
        attack=name,
        arch=arch,
        eps=eps,
        norm=norm,
        samples=samples,
        data=data,
        data_dir=data_dir,
        seed=seed or 0,
        notify=console.notice,
    )
    console.write(summary + "\n")
