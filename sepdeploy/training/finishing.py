"""The end of a training: the best epoch is judged once on the test images and saved."""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sepdeploy import __version__
from sepdeploy.data import Dataset
from sepdeploy.errors import BadInput
from sepdeploy.models import Model, save
from sepdeploy.models import load as load_model
from sepdeploy.models.factory import is_foreign
from sepdeploy.training.beside import checkpoint_path, history_path
from sepdeploy.training.checkpoint import Identity, read_history
from sepdeploy.training.events import Event, judged_by
from sepdeploy.training.judge import accuracies
from sepdeploy.training.loop import Trainer
from sepdeploy.training.machine.acceleration import bring_back
from sepdeploy.training.ranks.dynamic import match_ranks
from sepdeploy.training.recipe.fields import Recipe
from sepdeploy.training.recipe.reading import differences, recipe_from
from sepdeploy.training.sources import validation_attack


@dataclass(frozen=True)
class TrainResult:
    """A finished training.

    Attributes:
        model: The best epoch's model, in evaluation mode, as saved.
        path: The model file.
        history: One table per epoch, as in ``STEM.history.jsonl``.
        best_epoch: From 1.
    """

    model: Model
    path: Path
    history: list[dict[str, Any]]
    best_epoch: int


def finish(trainer: Trainer, dataset: Dataset) -> TrainResult:
    """Judge the best epoch on the test images and save it; the state file goes.

    Raises:
        BadInput: The model cannot be written.
    """
    recipe, model, out = trainer.recipe, trainer.model, trainer.out
    match_ranks(model.net, trainer.best)
    model.net.load_state_dict(trainer.best)
    model.eval()  # judged as it is saved: in float32, not compiled
    model.net.requires_grad_(True)
    message = f"judging epoch {trainer.best_epoch} on {len(dataset.test)} test images"
    trainer.on_progress(Event("note", message=message))
    model.provenance = model.provenance | _provenance(trainer, dataset)
    bring_back(model)
    if trainer.team.first:
        save(model, out)
        checkpoint_path(out).unlink(missing_ok=True)
    found = model.provenance["accuracy"]
    robust = found["test_robust"]
    behind = judged_by(validation_attack(recipe), found["n"], found["no_gradient"])
    trainer.on_progress(
        Event(
            "done",
            epoch=trainer.epoch,
            epochs=recipe.epochs,
            clean_accuracy=found["test_clean"],
            robust_accuracy=robust,
            message=f"best epoch {trainer.best_epoch}: test clean {found['test_clean']:.2%}"
            + ("" if robust is None else f", robust {robust:.2%} ({behind})"),
        )
    )
    return TrainResult(model, out, trainer.history, trainer.best_epoch)


def _provenance(trainer: Trainer, dataset: Dataset) -> dict[str, Any]:
    recipe = trainer.recipe
    best = trainer.history[trainer.best_epoch - 1]
    judged = validation_attack(recipe)
    model, team, device = trainer.model, trainer.team, trainer.stepper.device
    found = accuracies(model, dataset.test, judged, team=team)
    return {
        "objective": recipe.objective,
        "inner": recipe.inner or None,
        "attack": f"pgd-{recipe.steps}" if recipe.robust else None,
        "eps": recipe.eps if recipe.robust else None,
        "norm": recipe.norm if recipe.robust else None,
        "steps": recipe.steps if recipe.robust else None,
        "step_size": recipe.attack_step if recipe.robust else None,
        "seed": recipe.seed,
        "sparsity": best.get("sparsity"),
        "epochs": trainer.epoch,
        "best_epoch": trainer.best_epoch,
        "data": recipe.data,
        "data_dir": str(Path(recipe.data_dir).resolve()) if recipe.data_dir else None,
        "data_sha256": trainer.identity.data_sha256,
        "start_sha256": trainer.identity.start_sha256,
        "accuracy": {
            "attack": judged.name if recipe.robust else None,
            "validation_clean": best["clean_accuracy"],
            "validation_robust": best["robust_accuracy"],
            "test_clean": found.clean,
            "test_robust": found.robust,
            "n": len(dataset.test),
            "no_gradient": found.no_gradient,
        },
        "threads": trainer.identity.threads,
        "processes": team.world,
        "device": "cpu" if device.type == "cpu" else torch.cuda.get_device_name(device),
        "tool": {
            "sepdeploy": __version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
        "recipe": recipe.to_json() | {"data_dir": ""},
    }


def already_finished(
    recipe: Recipe, out: Path, identity: Identity, on_progress: Callable[[Event], None]
) -> TrainResult | None:
    """Load the result of a training that has nothing left to resume; None where there is none.

    Raises:
        BadInput: The model file is the result of another recipe, other data or other starting
            weights.
    """
    if checkpoint_path(out).exists() or not out.exists():
        return None
    # the recipe comes from the user, so it may name the code that makes the network
    model = load_model(out, recipe.arch if is_foreign(recipe.arch) else None)
    stored = model.provenance.get("recipe")
    if not isinstance(stored, dict) or model.provenance.get("data_sha256") != identity.data_sha256:
        raise BadInput(
            f"{out} exists, but no training of it to resume",
            hint="leave --resume out to train it anew, or choose another -o",
        )
    changed = differences(recipe_from(stored, where=str(out)), recipe)
    if model.provenance.get("start_sha256", "") != identity.start_sha256:
        changed.append("the weights it starts from")
    if changed:
        raise BadInput(
            f"{out} is the finished result of another training; changed: {'; '.join(changed)}",
            hint="leave --resume out to train it anew, or choose another -o",
        )
    on_progress(Event("note", message=f"{out} is already trained; nothing to resume"))
    history = history_path(out)
    return TrainResult(
        model,
        out,
        read_history(history) if history.exists() else [],
        int(model.provenance["best_epoch"]),
    )
