"""From a recipe to a saved model: the one call that trains."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path

import torch

from sepdeploy.compression import factorize_convolutions
from sepdeploy.data import Dataset, load, split_validation
from sepdeploy.errors import BadInput
from sepdeploy.models import Model, create
from sepdeploy.records import InputSpec
from sepdeploy.training.beside import checkpoint_path
from sepdeploy.training.checkpoint import (
    Checkpoint,
    Identity,
    check_same_training,
    read_checkpoint,
    state_sha256,
)
from sepdeploy.training.descent.steps import Moment, Stepper
from sepdeploy.training.events import Event
from sepdeploy.training.finishing import TrainResult, already_finished, finish
from sepdeploy.training.loop import Assignment, Trainer
from sepdeploy.training.machine.acceleration import choose_device
from sepdeploy.training.machine.batches import take_parts
from sepdeploy.training.machine.team import Team, joined
from sepdeploy.training.machine.threads import choose_threads, cpu_threads
from sepdeploy.training.plan_widths import Widths, plan_network
from sepdeploy.training.ranks.dynamic import start_with_decay
from sepdeploy.training.ranks.windows import check_windows
from sepdeploy.training.recipe.fields import Recipe
from sepdeploy.training.recipe.reading import FREE_ON_RESUME
from sepdeploy.training.recipe.rules import check_divisible
from sepdeploy.training.sources import Sources

CHECKPOINT_EVERY_S = 30.0
FROM_SCRATCH = (
    "ranks that adapt from scratch end far below those that start from a trained dense net "
    "(MNIST, eps 0.1, 17 times smaller: 63.8 and 86.7 % robust): train a dense one, then "
    "the same command with --from dense.pt"
)


def fit(
    recipe: Recipe,
    *,
    out: Path,
    resume: bool = False,
    on_progress: Callable[[Event], None] | None = None,
    model: Model | None = None,
    checkpoint_every_s: float = CHECKPOINT_EVERY_S,
) -> TrainResult:
    """Train a model and save the epoch with the best robust validation accuracy.

    Beside ``out`` the training keeps ``STEM.training.pt`` (its state, removed at the end) and
    ``STEM.history.jsonl``. Whenever it is interrupted or killed, ``resume=True`` continues it, to
    the same bits on the same machine's CPU. The test set is only used once, to report the result.

    Started by ``torchrun``, or with a process group set up, all processes train one model: each
    takes its part of every optimiser batch, the first one writes and reports.

    Args:
        recipe: What to do.
        out: The model file to write.
        resume: Continue from the state beside ``out``; without one, start (a finished training
            of the same recipe is just loaded).
        on_progress: Called at every step, epoch and decision, in the first process only.
        model: Weights to start from, e.g. a compressed model to fine-tune; trained in place. None
            makes a new model from the recipe's architecture.
        checkpoint_every_s: Longest time without a checkpoint inside an epoch.

    Raises:
        BadInput: Anything wrong with the recipe, the data or the files; a loss that became NaN
            or infinite (the state of the last good step is kept).
        Missing: No GPU where the recipe demands one.
    """
    with joined() as team, team.outlived("the same command with --resume continues"):
        speak = on_progress if on_progress is not None and team.first else _silent
        with team.agreed():
            device = choose_device(recipe, team.local_rank)
            dataset = load(recipe.data, recipe.data_dir or None)
            for note in dataset.notes:
                speak(Event("note", message=note))
            if team.world > 1:
                _check_team(recipe, team)
        identity = Identity(
            dataset.train.sha256(),
            "" if model is None else state_sha256(model.net.state_dict()),
            recipe.threads,
        )
        _check_same(recipe, identity, team)
        with team.agreed():
            if team.first:
                _make_folder(out.parent)
        if resume:
            found = team.from_first(lambda: already_finished(recipe, out, identity, speak))
            if found is not None:
                return found
        with _generators_kept(device), cpu_threads(torch.get_num_threads()):
            with team.agreed():
                assignment = Assignment(recipe, out, checkpoint_every_s, speak, team, device)
                trainer = _trainer(assignment, dataset, identity, model)
            _begin(trainer, resume=resume)
            trainer.run()
            return finish(trainer, dataset)


def _silent(event: Event) -> None:
    """Nobody listens, or another process reports."""


@contextmanager
def _generators_kept(device: torch.device) -> Iterator[None]:
    if device.type == "cuda":
        torch.cuda.set_device(device)
    with torch.random.fork_rng([] if device.type == "cpu" else [device]):
        yield


def _check_same(recipe: Recipe, identity: Identity, team: Team) -> None:
    """Compare what the processes were given, before any network of theirs talks to another."""
    team.check_same(
        {name: value for name, value in recipe.to_json().items() if name not in FREE_ON_RESUME}
        | {"images": identity.data_sha256, "starting weights": identity.start_sha256}
    )


def _check_team(recipe: Recipe, team: Team) -> None:
    if recipe.batch_size < team.world * recipe.accumulate:
        raise BadInput(
            f"batch_size = {recipe.batch_size} is less than one image for each of "
            f"{team.world} processes x {recipe.accumulate} parts",
            hint="batch_size counts the images of a whole optimiser step",
        )
    check_divisible(recipe, f"{team.world} processes")


def _trainer(
    assignment: Assignment, dataset: Dataset, identity: Identity, model: Model | None
) -> Trainer:
    """Make everything that a training needs, nothing of it trained or written yet."""
    recipe = assignment.recipe
    sources = Sources(*split_validation(dataset.train, recipe.validation, recipe.seed))
    check_windows(recipe, len(sources.train))
    torch.manual_seed(recipe.seed)
    if model is None:
        model = _from_scratch(recipe, dataset, assignment.on_progress)
    _check_fits(model, dataset)
    return Trainer(assignment, model, sources, identity)


def _begin(trainer: Trainer, *, resume: bool) -> None:
    """Put a trainer where its training stands, and set its threads."""
    team = trainer.team
    checkpoint = team.from_first(lambda: _read_state(trainer)) if resume else None
    if checkpoint is not None:
        with team.agreed():
            _restore(trainer, checkpoint)
    elif not trainer.recipe.threads:
        trainer.identity = dataclasses.replace(trainer.identity, threads=_threads(trainer))
    if resume and checkpoint is None:
        state = checkpoint_path(trainer.out)
        _note(trainer.on_progress, f"nothing to resume: there is no {state}; it starts anew")
    trainer.write_history()
    threads, device = trainer.identity.threads, trainer.stepper.device
    torch.set_num_threads(threads)
    parts = [f"{threads} thread{'s' * (threads > 1)}"]
    if team.world > 1:
        parts.append(f"{team.world} processes")
    if device.type != "cpu":
        parts.append(torch.cuda.get_device_name(device))
    _note(trainer.on_progress, ", ".join(parts))


def _threads(trainer: Trainer) -> int:
    if trainer.team.world > 1:
        return 1  # the other cores belong to the other processes
    if trainer.stepper.device.type != "cpu":
        return torch.get_num_threads()
    return _probe(trainer)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(
            f"cannot make the folder {folder}: {error.strerror}", hint="choose another -o"
        ) from error


def _note(on_progress: Callable[[Event], None], message: str) -> None:
    on_progress(Event("note", message=message))


def _from_scratch(recipe: Recipe, dataset: Dataset, on_progress: Callable[[Event], None]) -> Model:
    if recipe.rank_tolerance:
        _note(on_progress, FROM_SCRATCH)
    model = new_model(recipe, dataset.input, dataset.classes, on_progress)
    if recipe.rank_tolerance:
        start_with_decay(model.net)
    return model


def new_model(
    recipe: Recipe,
    input: InputSpec,
    classes: int,
    on_progress: Callable[[Event], None],
    dense: Widths = (),
) -> Model:
    """Return the network of a recipe with fresh weights, and tell what was planned for it.

    ``dense`` is as of ``plan_network``.

    Raises:
        BadInput: The network cannot be planned or made.
    """
    plan = plan_network(recipe, input, classes, dense)
    if plan.message:
        _note(on_progress, plan.message)
    torch.manual_seed(recipe.seed)  # planning must not move the weights of the same network
    with cpu_threads(1):  # how sums are split must not decide the first weights
        model = create(recipe.arch, input, classes, structure=plan.structure, **plan.options)
        if recipe.conv_rank and not factorize_convolutions(model.net, recipe.conv_rank):
            raise BadInput(
                f"conv_rank is set and {recipe.arch} has no convolution that it applies to",
                hint="leave conv_rank out, or choose another arch",
            )
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
    recipe = dataclasses.replace(trainer.recipe, compile=False)
    steps = trainer.steps_per_epoch
    twin = Stepper(recipe, deepcopy(trainer.model), steps_per_epoch=steps)
    twin.pruner = None
    twin.dynamics = None  # ranks that grow step by step would time something else
    index = trainer.order[: recipe.batch_size]
    parts = take_parts(recipe, trainer.sources.train, index, 0)
    twin.model.train()
    state = torch.get_rng_state()
    try:
        return choose_threads(lambda: (twin.take(parts, Moment(0, 0)), None)[1])
    finally:
        torch.set_rng_state(state)


def _read_state(trainer: Trainer) -> Checkpoint | None:
    """Read the state beside the model to be; None where there is none."""
    path = checkpoint_path(trainer.out)
    if not path.exists():
        return None
    checkpoint = read_checkpoint(path)
    check_same_training(path, checkpoint, trainer.recipe, trainer.identity)
    return checkpoint


def _restore(trainer: Trainer, checkpoint: Checkpoint) -> None:
    try:
        trainer.restore(checkpoint)
    except (RuntimeError, ValueError, KeyError, TypeError) as error:
        raise BadInput(
            f"{checkpoint_path(trainer.out)} does not fit this network",
            hint="remove it to start again",
        ) from error
    trainer.identity = dataclasses.replace(trainer.identity, threads=checkpoint.threads)
    _note(
        trainer.on_progress,
        f"resuming in epoch {trainer.epoch + 1}, step {trainer.step + 1}"
        if not trainer.finished
        else "resuming after the last epoch",
    )
