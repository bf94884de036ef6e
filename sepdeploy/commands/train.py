"""``sepdeploy train``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sepdeploy import console
from sepdeploy.commands.recipe_flags import SET, recipe_values, with_recipe_flags
from sepdeploy.commands.shell import JSON_FILE, write_json

if TYPE_CHECKING:
    from sepdeploy.training import Event


@with_recipe_flags
def train(
    recipe: Annotated[Path | None, typer.Argument(help="Recipe (TOML); flags beat it.")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue an interrupted training.")
    ] = False,
    out: Annotated[Path, typer.Option("-o", "--out", help="Model file.")] = Path("model.pt"),
    json: JSON_FILE = None,
    set: SET = None,
    **flags: Any,
) -> None:
    """Train a robust (separable) model.

    Writes the model file and, beside it, STEM.history.jsonl. Several processes train one model
    with: torchrun --nproc-per-node 2 -m sepdeploy train recipe.toml
    """
    from sepdeploy import api
    from sepdeploy.codec import dump

    overrides = recipe_values(flags, set or ())
    progress = console.Progress()

    def draw(event: Event) -> None:
        progress.update(str(event), force=event.lasting)

    try:
        summary = api.train(recipe, out=out, resume=resume, on_progress=draw, **overrides)
    finally:
        progress.clear()
    from sepdeploy.training import is_first_process

    if not is_first_process():
        return
    for line in summary.lines():
        console.notice(line)
    write_json(dump(summary), json)
