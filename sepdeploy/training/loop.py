"""The training loop: epochs of steps, validation, checkpoints, the best model at the end."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sepdeploy.errors import BadInput
from sepdeploy.models import Model
from sepdeploy.training.beside import checkpoint_path, history_path
from sepdeploy.training.checkpoint import (
    Checkpoint,
    Identity,
    State,
    copy_state,
    write_checkpoint,
    write_history,
)
from sepdeploy.training.descent.steps import Moment, Stepper
from sepdeploy.training.descent.stopping import may_be_kept, planned_epochs, ranks_frozen
from sepdeploy.training.events import Event, judged_by
from sepdeploy.training.guard import Guard
from sepdeploy.training.judge import Accuracies, Judged, accuracies, score
from sepdeploy.training.machine.acceleration import CPU
from sepdeploy.training.machine.batches import Loader, epoch_order
from sepdeploy.training.machine.team import ALONE, Team
from sepdeploy.training.objectives import OBJECTIVES
from sepdeploy.training.penalties.regularizers import term_values
from sepdeploy.training.penalties.spectra import condition_numbers
from sepdeploy.training.ranks.dynamic import ranks_of
from sepdeploy.training.recipe.fields import Recipe
from sepdeploy.training.sources import Sources, validation_attack


@dataclass(frozen=True)
class Assignment:
    """What a training is to do, where, and who hears of it.

    Attributes:
        recipe: What to do.
        out: The model file to be; state and history are written beside it.
        checkpoint_every_s: Longest time without a checkpoint inside an epoch.
        on_progress: Called at every step and epoch.
        team: The processes that train together.
        device: Where they compute.
    """

    recipe: Recipe
    out: Path
    checkpoint_every_s: float
    on_progress: Callable[[Event], None]
    team: Team = ALONE
    device: torch.device = CPU


class Trainer:
    """A training in progress; owns everything that changes.

    Between any two steps its whole state is a ``Checkpoint``. All randomness is derived from
    (seed, epoch, sample id), so the state is small and batches may be cut differently. All
    processes of a team hold the same state; the first one writes it.

    Args:
        assignment: What to do.
        model: Trained in place.
        sources: Training and validation images.
        identity: What never changes.
    """

    def __init__(
        self, assignment: Assignment, model: Model, sources: Sources, identity: Identity
    ) -> None:
        self.recipe = recipe = assignment.recipe
        self.model = model
        self.sources = sources
        self.out = assignment.out
        self.identity = identity
        self.checkpoint_every_s = assignment.checkpoint_every_s
        self.on_progress = assignment.on_progress
        self.team = team = assignment.team
        device = assignment.device
        self.steps_per_epoch = math.ceil(len(sources.train) / recipe.batch_size)
        self.stepper = Stepper(
            recipe, model, steps_per_epoch=self.steps_per_epoch, team=team, device=device
        )
        guarded = OBJECTIVES[recipe.objective].guarded and recipe.robust
        self.guard = Guard(self.stepper, sources.validation) if guarded else None
        self.loader = Loader(recipe, sources.train, team, device)
        self.epoch = 0
        self.step = 0
        self.loss_sum = 0.0
        self.penalty_sum = 0.0
        self.history: list[dict[str, Any]] = []
        self.best_epoch = 0
        self.best: dict[str, Tensor] = {}
        self.order = self._new_order()
        self._started = 0.0
        self._steps_here = 0

    def run(self) -> None:
        """Train to the last epoch.

        Raises:
            BadInput: The loss, its gradient or the weights became NaN or infinite (the checkpoint
                file keeps the last state that was written before), or a file cannot be written.
        """
        self._started = time.monotonic()
        if self.stepper.scales:
            scales = ", ".join(f"{name} x{s:g}" for name, s in self.stepper.scales.items())
            self.on_progress(Event("detail", message=f"learning rates: {scales}"))
        self.save()
        while not self.finished:
            self._epoch()

    @property
    def epochs(self) -> int:
        """Epochs of this training, as far as is known: fewer once validation is stale."""
        return planned_epochs(self.recipe, self.history)

    @property
    def finished(self) -> bool:
        """Whether the last epoch is done."""
        return self.epoch >= self.epochs

    def _epoch(self) -> None:
        self.model.train()
        saved = time.monotonic()
        for parts in self.loader.steps(self.order, self.epoch, self.step):
            frozen = ranks_frozen(self.recipe, self.history, self.epoch)
            safe = self.guard is not None and self.guard.fallen
            at = Moment(self.epoch, self.step, frozen, safe)
            try:
                loss, extra = self.stepper.take(parts, at)
            except FloatingPointError as error:
                raise self._diverged(error) from error
            self._book(loss, extra)
            self._report_step()
            found = "" if self.guard is None else self.guard.after(at, self.steps_per_epoch)
            if found:
                self._report(Event("note", message=f"epoch {self.epoch + 1}: {found}"))
            if time.monotonic() - saved >= self.checkpoint_every_s:
                self.save()
                saved = time.monotonic()
        self._close_epoch()

    def _diverged(self, error: FloatingPointError) -> BadInput:
        return self.team.failure(
            BadInput(
                f"{error} in epoch {self.epoch + 1}, step {self.step + 1} of "
                f"{self.steps_per_epoch}; {checkpoint_path(self.out)} keeps the last good state",
                hint="lower the learning rate (--lr) or the coefficients of the regularisers; "
                "roots and norms of zero have no gradient",
            )
        )

    def _book(self, loss: float, extra: float) -> None:
        self.loss_sum += loss
        self.penalty_sum += extra
        self.step += 1
        self._steps_here += 1

    def _close_epoch(self) -> None:
        average = self.stepper.average
        if average is not None:
            average.after_epoch(self.epoch)
        found, state = self._judge()
        entry = self._entry(found)
        self.history.append(entry)
        leads = not self.best_epoch or score(entry) >= score(self.history[self.best_epoch - 1])
        if leads and may_be_kept(self.recipe, self.epoch):
            self.best_epoch, self.best = entry["epoch"], state
        self.epoch += 1
        self.step = 0
        self.loss_sum = self.penalty_sum = 0.0
        self.order = self._new_order()
        self.save()
        self.write_history()
        self._report(
            Event(
                "epoch",
                epoch=self.epoch,
                epochs=self.recipe.epochs,
                loss=entry["loss"],
                rate=self._rate(),
                clean_accuracy=entry["clean_accuracy"],
                robust_accuracy=entry["robust_accuracy"],
                judged_by=judged_by(
                    validation_attack(self.recipe),
                    len(self.sources.validation),
                    entry.get("no_gradient", 0),
                ),
            )
        )

    def _report(self, event: Event) -> None:
        """Report, with ranks and compression where ranks adapt."""
        if self.stepper.dynamics is not None:
            ranks = tuple(r for pair in ranks_of(self.model.net).values() for r in pair)
            share = self.model.params_dense / self.model.params
            event = replace(event, ranks=ranks, compression=share)
        self.on_progress(event)

    def _judge(self) -> tuple[Judged, State]:
        """Return the validation accuracies of this epoch, and the weights they belong to.

        Where weights are averaged, those of the step and the average are judged alike and the
        better ones count.
        """
        found = self._validate()
        state = copy_state(self.model.net.state_dict())
        average = self.stepper.average
        if average is None or not average.count:
            return Judged(found), state
        with average.applied(self.sources.train):
            averaged = self._validate()
            if averaged.score < found.score:
                return Judged(found, raw=found, average=averaged), state
            state = copy_state(self.model.net.state_dict())
        return Judged(averaged, raw=found, average=averaged), state

    def _validate(self) -> Accuracies:
        images, attack = self.sources.validation, validation_attack(self.recipe)
        return accuracies(self.stepper.form, images, attack, team=self.team)

    def _entry(self, found: Judged) -> dict[str, Any]:
        stepper = self.stepper
        adaptive = {} if stepper.dynamics is None else {"ranks": ranks_of(self.model.net)}
        return {
            "epoch": self.epoch + 1,
            "loss": self.loss_sum / self.steps_per_epoch,
            "penalty": self.penalty_sum / self.steps_per_epoch,
            **term_values(stepper.matrices(), self.recipe.coefficients),
            **found.entry(),
            "condition_numbers": condition_numbers(self.model.net),
            "learning_rate": stepper.rate,
            **({"learning_rate_scales": stepper.scales} if stepper.scales else {}),
            **adaptive,
            **({} if stepper.pruner is None else {"sparsity": stepper.pruner.sparsity}),
            **({} if self.guard is None else {"guard": self.guard.entry()}),
        }

    def _new_order(self) -> Tensor:
        return epoch_order(self.recipe, self.epoch, len(self.sources.train))

    def _rate(self) -> float:
        elapsed = max(time.monotonic() - self._started, 1e-9)
        return self._steps_here * self.recipe.batch_size / elapsed

    def _report_step(self) -> None:
        rate = self._rate()
        left = (self.epochs - self.epoch) * self.steps_per_epoch - self.step
        self._report(
            Event(
                "step",
                epoch=self.epoch + 1,
                epochs=self.recipe.epochs,
                step=self.step,
                steps=self.steps_per_epoch,
                loss=self.loss_sum / self.step,
                rate=rate,
                eta_s=left * self.recipe.batch_size / rate,
            )
        )

    def write_history(self) -> None:
        """Bring the history file in step.

        Raises:
            BadInput: The folder cannot be written or is full.
        """
        if self.team.first:
            write_history(history_path(self.out), self.history)

    def save(self) -> None:
        """Write the checkpoint file.

        Raises:
            BadInput: The folder cannot be written or is full.
        """
        if self.team.first:
            write_checkpoint(
                checkpoint_path(self.out),
                Checkpoint(
                    **vars(self.identity),
                    recipe=self.recipe.to_json(),
                    epoch=self.epoch,
                    step=self.step,
                    order=self.order,
                    loss_sum=self.loss_sum,
                    penalty_sum=self.penalty_sum,
                    history=self.history,
                    best_epoch=self.best_epoch,
                    best=self.best,
                    guard={} if self.guard is None else self.guard.state(),
                    **vars(self.stepper.state()),
                ),
            )

    def restore(self, checkpoint: Checkpoint) -> None:
        """Continue from a checkpoint of the same training."""
        self.stepper.restore(checkpoint)
        self.epoch, self.step, self.order = checkpoint.epoch, checkpoint.step, checkpoint.order
        self.loss_sum, self.penalty_sum = checkpoint.loss_sum, checkpoint.penalty_sum
        self.history = checkpoint.history
        self.best_epoch, self.best = checkpoint.best_epoch, checkpoint.best
        if self.guard is not None:
            self.guard.restore(checkpoint.guard)
