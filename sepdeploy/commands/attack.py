"""``sepdeploy attack``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from sepdeploy.api import ATTACKED, JudgingOptions, ModelOptions
from sepdeploy.commands.flags import taking
from sepdeploy.commands.shell import JSON, give, progress
from sepdeploy.files.roles import READS_MODEL


@taking(JudgingOptions, ModelOptions)
def attack(
    model: Annotated[Path, typer.Argument(help="model.pt"), READS_MODEL],
    out: Annotated[Path, typer.Option("-o", "--out", help="Adversarial set (.npz)."), ATTACKED],
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue an interrupted attack.")
    ] = False,
    json: JSON = None,
    **options: Any,
) -> None:
    """Make an adversarial set against a model.

    Several processes share the images with: torchrun --nproc-per-node 2 -m sepdeploy attack ...
    """
    from sepdeploy import api
    from sepdeploy.training import Event

    with progress() as watch:
        summary = api.attack(
            model,
            out,
            resume=resume,
            notify=lambda text: watch(Event("note", message=text)),
            on_progress=watch,
            **options,
        )
    from sepdeploy.training import is_first_process

    if is_first_process():
        give(summary, json, lambda: str(summary))
