"""``sepdeploy train``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from sepdeploy import console
from sepdeploy.api import Recipe
from sepdeploy.commands.flags import taking
from sepdeploy.commands.shell import JSON, give, progress
from sepdeploy.errors import BadInput
from sepdeploy.files.roles import READS_MODEL, Reads
from sepdeploy.settings import settings, unknown_key
from sepdeploy.training.beside import TRAINED
from sepdeploy.training.recipe.named import shipped

SET = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Any key of a recipe; may be repeated."),
]


@taking(Recipe, only_given=True)
def train(
    recipe: Annotated[
        Path | None,
        typer.Argument(help=f"Recipe: a TOML file, or {' | '.join(shipped())}; flags beat it."),
        Reads(),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue an interrupted training.")
    ] = False,
    start: Annotated[
        Path | None,
        typer.Option("--from", help="Trained model.pt whose layers are projected to start with."),
        READS_MODEL,
    ] = None,
    out: Annotated[Path, typer.Option("-o", "--out", help="Model file."), TRAINED] = Path(
        "model.pt"
    ),
    json: JSON = None,
    set: SET = None,
    **flags: Any,
) -> None:
    """Train a robust (separable) model.

    Writes the model file and, beside it, STEM.history.jsonl. Several processes train one model
    with: torchrun --nproc-per-node 2 -m sepdeploy train recipe.toml
    """
    from sepdeploy import api

    overrides = recipe_values(flags, set or ())
    with progress() as watch:
        summary = api.train(
            recipe, out=out, start=start, resume=resume, on_progress=watch, **overrides
        )
    from sepdeploy.training import is_first_process

    if not is_first_process():
        return
    for line in summary.lines():
        console.notice(line)
    give(summary, json)


def recipe_values(flags: Mapping[str, Any], texts: Sequence[str]) -> dict[str, Any]:
    """Return what a command line says about the recipe, by the recipe's keys.

    Args:
        flags: Values of the flags, None where one was not given.
        texts: The texts "key=value" of ``--set``.

    Raises:
        BadInput: A setting that is none, or a key that is given twice.
    """
    given = {name: value for name, value in flags.items() if value is not None}
    for text in texts:
        key, equals, value = text.partition("=")
        name = key.strip().replace("-", "_")
        if not equals or not name:
            raise BadInput(f"--set {text} is not KEY=VALUE", hint="e.g. --set mart_beta=4")
        if name not in settings(Recipe):
            raise unknown_key("--set", name, settings(Recipe))
        if name in given:
            raise BadInput(f"'{name}' is given twice on the command line", hint="leave one out")
        given[name] = value.strip()
    return given
