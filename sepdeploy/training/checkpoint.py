"""What a training writes down so that it can go on after anything: ``STEM.training.pt``.

The file holds all state: weights, optimiser, position in the schedule, order of the images, state
of the random number generator, thread count, sums of the running epoch, history, best weights so
far. It is replaced atomically and read without running code. ``STEM.history.jsonl`` repeats the
history, one JSON object per line and epoch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sepdeploy.errors import PATH, BadInput
from sepdeploy.files import write_text
from sepdeploy.models import read_tensor_file, write_tensor_file
from sepdeploy.training.recipe.fields import Recipe
from sepdeploy.training.recipe.reading import differences, recipe_from

FORMAT = "sepdeploy.training"
VERSION = 3

State = dict[str, Tensor]


@dataclass(frozen=True)
class Identity:
    """What never changes in a training.

    Attributes:
        data_sha256: Digest of the training images and labels.
        start_sha256: Digest of the given weights it started from, "" for fresh ones.
        threads: CPU threads, chosen once; 0 = not yet.
    """

    data_sha256: str
    start_sha256: str
    threads: int


@dataclass(frozen=True)
class Held:
    """What a step changes.

    Attributes:
        model: State dict of the network.
        optimizer: State dict of the optimiser.
        rng: State of torch's CPU generator (dropout and the like).
        average: State of the averaged weights, empty where none are kept.
        pruning: State of masks and scores, empty where nothing is pruned.
    """

    model: State
    optimizer: dict[str, Any]
    rng: Tensor
    average: dict[str, Any]
    pruning: dict[str, Any]


@dataclass(frozen=True)
class Checkpoint(Held, Identity):
    """State between two optimiser steps.

    Attributes:
        recipe: The recipe's values.
        epoch: Completed epochs.
        step: Completed steps of the next epoch.
        order: Image order of that epoch (positions in the training part).
        loss_sum: Loss of that epoch so far, summed over steps.
        penalty_sum: Regularisers of that epoch so far, summed over steps.
        history: One table per completed epoch.
        best_epoch: Epoch of ``best``, 0 = none yet.
        best: State dict with the best validation result.
        guard: State of the guard, empty where nothing is watched.
    """

    recipe: dict[str, Any]
    epoch: int
    step: int
    order: Tensor
    loss_sum: float
    penalty_sum: float
    history: list[dict[str, Any]]
    best_epoch: int
    best: State
    guard: dict[str, Any]


def write_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Replace the checkpoint file.

    Raises:
        BadInput: The folder cannot be written or is full.
    """
    values = {f.name: getattr(checkpoint, f.name) for f in fields(Checkpoint)}
    write_tensor_file({"format": FORMAT, "version": VERSION, **values}, path)


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint.

    Raises:
        BadInput: Not a training checkpoint, damaged, or of another version.
    """
    data = read_tensor_file(path)
    if data.get("format") != FORMAT or data.get("version") != VERSION:
        raise BadInput(
            f"{path} is not a training checkpoint of this version",
            hint="remove it to start again, or resume with the version that wrote it",
        )
    kinds = {"str": str, "int": int, "float": float, "Tensor": Tensor}
    for f in fields(Checkpoint):
        kind = kinds.get(str(f.type), list if str(f.type).startswith("list") else dict)
        if not isinstance(data.get(f.name), kind):
            raise BadInput(
                f"{path}: '{f.name}' is missing or damaged", hint="remove it to start again"
            )
    return Checkpoint(**{f.name: data[f.name] for f in fields(Checkpoint)})


def check_same_training(
    path: Path, checkpoint: Checkpoint, recipe: Recipe, identity: Identity
) -> None:
    """Refuse to continue a training under other conditions than it was begun with.

    Raises:
        BadInput: Another recipe, other data or other starting weights, naming what differs.
    """
    changed = differences(recipe_from(checkpoint.recipe, where=str(path)), recipe)
    if checkpoint.data_sha256 != identity.data_sha256:
        changed.append("the images or labels of the data set")
    if checkpoint.start_sha256 != identity.start_sha256:
        changed.append("the weights it starts from")
    if changed:
        raise BadInput(
            f"{path} belongs to another training; changed: {'; '.join(changed)}",
            hint="resume with the old values, or leave --resume out to start again",
        )


def write_history(path: Path, history: Sequence[Mapping[str, Any]]) -> None:
    """Bring the history file in step with a checkpoint.

    Raises:
        BadInput: The folder cannot be written or is full.
    """
    write_text(path, "".join(json.dumps(entry) + "\n" for entry in history))


def read_history(path: Path) -> list[dict[str, Any]]:
    """Read a history file; an incomplete last line is left out.

    Raises:
        BadInput: Unreadable, or a line that is not JSON.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    except OSError as error:
        raise BadInput(f"cannot read {path}: {error.strerror}", hint=PATH) from error
    try:
        return [json.loads(line) for line in lines if line.endswith("\n")]
    except ValueError as error:
        raise BadInput(
            f"{path} is not a history file: {error}", hint="move it away: training writes a new one"
        ) from error


def copy_state(state: Mapping[str, Tensor]) -> State:
    """Return a state dict on the CPU that later training steps do not change."""
    return {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in state.items()
    }


def state_sha256(state: Mapping[str, Tensor]) -> str:
    """Return a digest of a state dict's names, types, shapes and values."""
    digest = hashlib.sha256()
    for name, tensor in state.items():
        flat = tensor.detach().cpu().contiguous().flatten()
        digest.update(repr((name, str(tensor.dtype), tuple(tensor.shape))).encode())
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()
