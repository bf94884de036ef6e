"""From a recipe to a saved model: the one call that trains."""

from __future__ import annotations

import platform
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sepdeploy import __version__
from sepdeploy.compression import factorize_convolutions
from sepdeploy.data import Dataset, load, split_validation
from sepdeploy.errors import BadInput
from sepdeploy.models import Model, create, save
from sepdeploy.models import load as load_model
from sepdeploy.threat import AttackSpec
from sepdeploy.training.checkpoint import (
    check_same_training,
    checkpoint_path,
    history_path,
    read_checkpoint,
    read_history,
    state_sha256,
    write_history,
)
from sepdeploy.training.dynamic_rank import match_ranks, start_with_decay
from sepdeploy.training.events import Event
from sepdeploy.training.judge import accuracy
from sepdeploy.training.loop import Trainer
from sepdeploy.training.plan_widths import plan_network
from sepdeploy.training.recipe import differences, recipe_from
from sepdeploy.training.recipe_fields import Recipe
from sepdeploy.training.sources import Sources, take_batch, validation_budget
from sepdeploy.training.threads import choose_threads, cpu_threads

CHECKPOINT_EVERY_S = 30.0


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


def fit(
    recipe: Recipe,
    *,
    out: Path,
    resume: bool = False,
    on_progress: Callable[[Event], None] = lambda event: None,
    model: Model | None = None,
    checkpoint_every_s: float = CHECKPOINT_EVERY_S,
) -> TrainResult:
    """Train a model and save the epoch with the best robust validation accuracy.

    Beside ``out`` the training keeps ``STEM.training.pt`` (its state, removed at the end) and
    ``STEM.history.jsonl``. Whenever it is interrupted or killed, ``resume=True`` continues it to
    the same bits on the same machine. The test set is only used once, to report the result.

    Args:
        recipe: What to do.
        out: The model file to write.
        resume: Continue from the state beside ``out``; without one, start (a finished training
            of the same recipe is just loaded).
        on_progress: Called at every step, epoch and decision.
        model: Weights to start from, e.g. a compressed model to fine-tune; trained in place. None
            makes a new model from the recipe's architecture.
        checkpoint_every_s: Longest time without a checkpoint inside an epoch.

    Raises:
        BadInput: Anything wrong with the recipe, the data or the files; a loss that became NaN
            or infinite (the state of the last good step is kept).
    """
    dataset = load(recipe.data, recipe.data_dir or None)
    data_sha256 = dataset.train.sha256()
    state_file = checkpoint_path(out)
    if resume and not state_file.exists() and out.exists():
        return _finished(recipe, out, data_sha256, on_progress)
    _make_folder(out.parent)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        start_sha256 = "" if model is None else state_sha256(model.net.state_dict())
        if model is None:
            model = _new_model(recipe, dataset, on_progress)
        _check_fits(model, dataset)
        identity: dict[str, Any] = {
            "recipe": recipe.to_json(),
            "data_sha256": data_sha256,
            "start_sha256": start_sha256,
            "threads": recipe.threads,
        }
        sources = Sources(*split_validation(dataset.train, recipe.validation, recipe.seed))
        trainer = Trainer(
            recipe,
            model,
            sources,
            out=out,
            identity=identity,
            checkpoint_every_s=checkpoint_every_s,
            on_progress=on_progress,
        )
        if resume and state_file.exists():
            _restore(trainer, state_file)
        elif not recipe.threads:
            identity["threads"] = _probe(trainer)
        write_history(history_path(out), trainer.history)
        threads = identity["threads"]
        _note(on_progress, f"{threads} thread{'s' * (threads > 1)}")
        with cpu_threads(threads):
            trainer.run()
            return _finish(trainer, dataset)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(
            f"cannot make the folder {folder}: {error.strerror}", hint="choose another -o"
        ) from error


def _note(on_progress: Callable[[Event], None], message: str) -> None:
    on_progress(Event("note", message=message))


def _new_model(recipe: Recipe, dataset: Dataset, on_progress: Callable[[Event], None]) -> Model:
    plan = plan_network(recipe, dataset.input, dataset.classes)
    if plan.message:
        _note(on_progress, plan.message)
    torch.manual_seed(recipe.seed)  # planning must not move the weights of the same network
    with cpu_threads(1):  # how sums are split must not decide the first weights
        model = create(
            recipe.arch, dataset.input, dataset.classes, structure=plan.structure, **plan.options
        )
        if recipe.conv_rank and not factorize_convolutions(model.net, recipe.conv_rank):
            raise BadInput(
                f"conv_rank is set and {recipe.arch} has no convolution that it applies to",
                hint="leave conv_rank out, or choose another arch",
            )
        if recipe.rank_tolerance:
            start_with_decay(model.net)
        return model


def _check_fits(model: Model, dataset: Dataset) -> None:
    if model.input.shape != dataset.input.shape:
        raise BadInput(
            f"the model takes {model.input.shape}, "
            f"images of '{dataset.name}' are {dataset.input.shape}",
            hint="choose the data set the model was made for",
        )


def _probe(trainer: Trainer) -> int:
    """Time steps on copies, so that the training itself is not touched."""
    twin = Trainer(
        trainer.recipe,
        deepcopy(trainer.model),
        trainer.sources,
        out=trainer.out,
        identity={},
        checkpoint_every_s=0,
        on_progress=lambda event: None,
    )
    twin.pruner = None
    twin.dynamics = None  # ranks that grow step by step would time something else
    batch = take_batch(trainer.sources.train, trainer.order[: trainer.recipe.batch_size])
    twin.model.train()
    state = torch.get_rng_state()
    try:
        return choose_threads(lambda: (twin.training_step(batch), None)[1])
    finally:
        torch.set_rng_state(state)


def _restore(trainer: Trainer, path: Path) -> None:
    checkpoint = read_checkpoint(path)
    check_same_training(
        path,
        checkpoint,
        trainer.recipe,
        data_sha256=trainer.identity["data_sha256"],
        start_sha256=trainer.identity["start_sha256"],
    )
    try:
        trainer.restore(checkpoint)
    except (RuntimeError, ValueError, KeyError, TypeError) as error:
        raise BadInput(
            f"{path} does not fit this network", hint="remove it to start again"
        ) from error
    trainer.identity["threads"] = checkpoint.threads
    _note(
        trainer.on_progress,
        f"resuming in epoch {trainer.epoch + 1}, step {trainer.step + 1}"
        if not trainer.finished
        else "resuming after the last epoch",
    )


def _finish(trainer: Trainer, dataset: Dataset) -> TrainResult:
    recipe, model, out = trainer.recipe, trainer.model, trainer.out
    match_ranks(model.net, trainer.best)
    model.net.load_state_dict(trainer.best)
    model.eval()
    model.net.requires_grad_(True)
    _note(
        trainer.on_progress,
        f"judging epoch {trainer.best_epoch} on {len(dataset.test)} test images",
    )
    model.provenance = model.provenance | _provenance(trainer, dataset)
    save(model, out)
    checkpoint_path(out).unlink(missing_ok=True)
    found = model.provenance["accuracy"]
    robust = found["test_robust"]
    trainer.on_progress(
        Event(
            "done",
            epoch=trainer.epoch,
            epochs=recipe.epochs,
            clean_accuracy=found["test_clean"],
            robust_accuracy=robust,
            message=f"best epoch {trainer.best_epoch}: test clean {found['test_clean']:.2%}"
            + ("" if robust is None else f", robust {robust:.2%}"),
        )
    )
    return TrainResult(model, out, trainer.history, trainer.best_epoch)


def _provenance(trainer: Trainer, dataset: Dataset) -> dict[str, Any]:
    recipe = trainer.recipe
    best = trainer.history[trainer.best_epoch - 1]
    budget = validation_budget(recipe)
    robust = accuracy(trainer.model, dataset.test, budget) if recipe.robust else None
    return {
        "objective": recipe.objective,
        "inner": recipe.inner or None,
        "attack": str(AttackSpec("pgd", recipe.steps)) if recipe.robust else None,
        "eps": recipe.eps if recipe.robust else None,
        "norm": recipe.norm if recipe.robust else None,
        "steps": recipe.steps if recipe.robust else None,
        "step_size": recipe.attack_step if recipe.robust else None,
        "seed": recipe.seed,
        "sparsity": best.get("sparsity"),
        "epochs": trainer.epoch,
        "best_epoch": trainer.best_epoch,
        "data": recipe.data,
        "data_sha256": trainer.identity["data_sha256"],
        "accuracy": {
            "attack": str(AttackSpec("pgd", budget.steps)) if recipe.robust else None,
            "validation_clean": best["clean_accuracy"],
            "validation_robust": best["robust_accuracy"],
            "test_clean": accuracy(trainer.model, dataset.test),
            "test_robust": robust,
        },
        "threads": trainer.identity["threads"],
        "tool": {
            "sepdeploy": __version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
        "recipe": recipe.to_json() | {"data_dir": ""},
    }


def _finished(
    recipe: Recipe, out: Path, data_sha256: str, on_progress: Callable[[Event], None]
) -> TrainResult:
    """Load the result of a training that has nothing left to resume."""
    model = load_model(out)
    stored = model.provenance.get("recipe")
    if not isinstance(stored, dict) or model.provenance.get("data_sha256") != data_sha256:
        raise BadInput(
            f"{out} exists, but no training of it to resume",
            hint="leave --resume out to train it anew, or choose another -o",
        )
    changed = differences(recipe_from(stored, where=str(out)), recipe)
    if changed:
        raise BadInput(
            f"{out} is the finished result of another recipe; changed: {'; '.join(changed)}",
            hint="leave --resume out to train it anew, or choose another -o",
        )
    _note(on_progress, f"{out} is already trained; nothing to resume")
    history = history_path(out)
    return TrainResult(
        model,
        out,
        read_history(history) if history.exists() else [],
        int(model.provenance["best_epoch"]),
    )
