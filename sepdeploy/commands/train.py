"""``sepdeploy train``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sepdeploy import console
from sepdeploy.commands.shell import DATA, DATA_DIR, EPS, JSON_FILE, NORM, SEED, write_json

if TYPE_CHECKING:
    from sepdeploy.training import Event


def train(
    recipe: Annotated[Path | None, typer.Argument(help="Recipe (TOML); flags beat it.")] = None,
    arch: Annotated[
        str | None, typer.Option("--arch", help="mlp, lenet, vgg16, resnet18, vit_tiny, ...")
    ] = None,
    data: DATA = None,
    data_dir: DATA_DIR = None,
    hidden: Annotated[
        str | None, typer.Option("--hidden", help="Hidden widths: 1024,1024.")
    ] = None,
    structure: Annotated[
        str | None,
        typer.Option("--structure", help="dense, kron, kron:28x28-64x64, lowrank:40; or a,b,c."),
    ] = None,
    target: Annotated[
        str | None, typer.Option("--target", help="Parameter budget, e.g. 10x smaller.")
    ] = None,
    objective: Annotated[
        str | None, typer.Option("--objective", help="natural, pgd-at, trades, mart, fr or sar.")
    ] = None,
    eps: EPS = None,
    norm: NORM = None,
    steps: Annotated[int | None, typer.Option("--steps", help="Attack steps in training.")] = None,
    epochs: Annotated[int | None, typer.Option("--epochs", help="Passes over the data.")] = None,
    batch_size: Annotated[int | None, typer.Option("--batch-size", help="Images a step.")] = None,
    lr: Annotated[float | None, typer.Option("--lr", help="Learning rate.")] = None,
    seed: SEED = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue an interrupted training.")
    ] = False,
    out: Annotated[Path, typer.Option("-o", "--out", help="Model file.")] = Path("model.pt"),
    json: JSON_FILE = None,
) -> None:
    """Train a robust (separable) model.

    Writes the model file and, beside it, STEM.history.jsonl.
    """
    from sepdeploy import api
    from sepdeploy.records import dump

    flags = {
        "arch": arch,
        "data": data,
        "data_dir": None if data_dir is None else str(data_dir),
        "hidden": hidden,
        "structure": structure,
        "target": target,
        "objective": objective,
        "eps": eps,
        "norm": norm,
        "steps": steps,
        "epochs": epochs,
        "batch_size": batch_size,
        "lr": lr,
        "seed": seed,
    }
    overrides = {name: value for name, value in flags.items() if value is not None}
    progress = console.Progress()

    def draw(event: Event) -> None:
        progress.update(str(event), force=event.lasting)

    try:
        summary = api.train(recipe, out=out, resume=resume, on_progress=draw, **overrides)
    finally:
        progress.clear()
    for line in summary.lines():
        console.notice(line)
    write_json(dump(summary), json)
