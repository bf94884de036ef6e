"""``sepdeploy compress``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sepdeploy import console
from sepdeploy.commands.shell import DATA_DIR, JSON_FILE, SEED, write_json

if TYPE_CHECKING:
    from sepdeploy.training import Event


def compress(
    model: Annotated[Path, typer.Argument(help="model.pt, trained.")],
    structure: Annotated[
        str,
        typer.Option("--structure", help="kron, lowrank, lowrank:40, or fc1=kron,conv2=lowrank."),
    ] = "kron",
    target: Annotated[
        str | None, typer.Option("--target", help="Budget: 10x smaller, or a number.")
    ] = None,
    budget: Annotated[str, typer.Option("--budget", help="Of params or macs.")] = "params",
    layers: Annotated[
        str | None, typer.Option("--layers", help="Names or patterns; default all but the head.")
    ] = None,
    finetune: Annotated[
        Path | None, typer.Option("--finetune", help="Recipe (TOML) to train the result with.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue an interrupted fine-tuning.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan, write nothing.")] = (
        False
    ),
    arch: Annotated[
        str | None, typer.Option("--arch", help="package.module:factory of your own network.")
    ] = None,
    data_dir: DATA_DIR = None,
    seed: SEED = None,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="Model file.")] = None,
    json: JSON_FILE = None,
) -> None:
    """Project a trained dense model onto a structure, under a budget."""
    from sepdeploy import api
    from sepdeploy.codec import dump
    from sepdeploy.reports.compress_terminal import render_compression

    progress = console.Progress()

    def draw(event: Event) -> None:
        progress.update(str(event), force=event.lasting)

    def show(plan: Any) -> None:
        if json != "-":
            console.write(render_compression(plan))

    try:
        summary = api.compress(
            model,
            structure=structure,
            target=target,
            budget=budget,
            layers=layers,
            finetune=finetune,
            resume=resume,
            dry_run=dry_run,
            arch=arch,
            data_dir=data_dir,
            seed=seed,
            out=out,
            on_plan=show,
            on_progress=draw,
        )
    finally:
        progress.clear()
    from sepdeploy.training import is_first_process

    if not is_first_process():
        return
    for line in summary.lines():
        console.notice(line)
    write_json(dump(summary), json)
