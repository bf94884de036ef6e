"""Training for people: data in, ``model.pt`` out, and a summary of what came of it."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sepdeploy.files.claims import claimed, outputs_of
from sepdeploy.training import Event, fit, history_path, joined, load_recipe
from sepdeploy.training.beside import TRAINED
from sepdeploy.workflows.warm_start import warm_start

TRAIN_SCHEMA = "sepdeploy.train/1"


@dataclass(frozen=True)
class TrainSummary:
    """What a training gave; accuracies are fractions in [0, 1].

    ``history`` is the path of the JSON lines, one object per epoch.
    """

    model: str
    history: str
    params: int
    params_dense: int
    best_epoch: int
    epochs: int
    provenance: dict[str, Any] = field(default_factory=dict)
    arch: str = ""
    schema: str = TRAIN_SCHEMA

    def lines(self) -> list[str]:
        """Return the summary as a few lines of text."""
        ratio = self.params_dense / self.params if self.params else 1.0
        smaller = f", {ratio:.1f}x fewer than dense layers of these widths" if ratio > 1 else ""
        return [
            f"{self.model}: {self.params:,} parameters{smaller}; "
            f"best epoch {self.best_epoch} of {self.epochs} on the held-out split",
            f"history: {self.history}",
            f"next: {export_command(self.model, self.arch)}",
        ]


def train_model(
    recipe_path: Path | None,
    out: Path,
    *,
    start: Path | None = None,
    resume: bool,
    on_progress: Callable[[Event], None],
    overrides: Mapping[str, Any],
) -> TrainSummary:
    """Train by recipe and flags; see ``sepdeploy.api.train``."""
    with joined() as team, ExitStack() as stack:
        with team.agreed():
            if start is None:
                recipe, given = load_recipe(recipe_path, overrides), None
            else:
                told = on_progress if team.first else _silent
                recipe, given = warm_start(start, recipe_path, overrides, told)
            if team.first:
                read = () if start is None else (start,)
                stack.enter_context(claimed(outputs_of(TRAINED, out), read))
        result = fit(recipe, out=out, resume=resume, on_progress=on_progress, model=given)
    model = result.model
    return TrainSummary(
        model=str(out),
        history=str(history_path(out)),
        params=model.params,
        params_dense=model.params_dense,
        best_epoch=result.best_epoch,
        epochs=int(model.provenance["epochs"]),
        provenance=dict(model.provenance),
        arch=model.arch or "",
    )


def _silent(event: Event) -> None:
    """Another process reports."""


def export_command(model: str, arch: str) -> str:
    """Return the words that export a model file; only they can name its owner's code."""
    words = ["sepdeploy", "export", model]
    return shlex.join([*words, "--arch", arch] if ":" in arch else words)
