"""The training loop: epochs of steps, validation, checkpoints, the best model at the end."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sepdeploy.attacks.noise import derive_seed
from sepdeploy.compression.masks import fold_cores
from sepdeploy.errors import BadInput
from sepdeploy.models import Model
from sepdeploy.training.augmentation import augment_images
from sepdeploy.training.averaging import Average
from sepdeploy.training.checkpoint import (
    Checkpoint,
    State,
    checkpoint_path,
    copy_state,
    history_path,
    write_checkpoint,
    write_history,
)
from sepdeploy.training.dynamic_rank import cores_of, dynamics_of, match_ranks, ranks_of
from sepdeploy.training.events import Event
from sepdeploy.training.judge import accuracy
from sepdeploy.training.matrices import regularized_matrices
from sepdeploy.training.objectives import OBJECTIVES, Batch, TrainingAttack
from sepdeploy.training.optimizers import make_optimizer
from sepdeploy.training.pruning import Pruner
from sepdeploy.training.recipe_fields import Recipe
from sepdeploy.training.regularizers import penalty, term_values
from sepdeploy.training.schedule import learning_rate
from sepdeploy.training.sources import (
    AUGMENTATION,
    NOISE,
    ORDER,
    Sources,
    score,
    take_batch,
    validation_budget,
)
from sepdeploy.training.spectra import condition_numbers


class Trainer:
    """A training in progress; owns the optimiser and everything that changes.

    Between any two steps its whole state is a ``Checkpoint``. All randomness is derived from
    (seed, epoch, sample id), so the state is small and batches may be cut differently.

    Args:
        recipe: What to do.
        model: Trained in place, on the CPU.
        sources: Training and validation images.
        out: The model file to be; state and history are written beside it.
        identity: The fields of ``Checkpoint`` that never change.
        checkpoint_every_s: Longest time without a checkpoint inside an epoch.
        on_progress: Called at every step and epoch.
    """

    def __init__(
        self,
        recipe: Recipe,
        model: Model,
        sources: Sources,
        *,
        out: Path,
        identity: dict[str, Any],
        checkpoint_every_s: float,
        on_progress: Callable[[Event], None],
    ) -> None:
        self.recipe = recipe
        self.model = model
        self.sources = sources
        self.out = out
        self.identity = identity
        self.checkpoint_every_s = checkpoint_every_s
        self.on_progress = on_progress
        self.pruner: Pruner | None = None
        if recipe.prune:
            fold_cores(model.net)
            self.pruner = Pruner(model.net, recipe)
        self.optimizer = make_optimizer(
            recipe.optimizer,
            model,
            lr=recipe.peak_lr,
            momentum=recipe.momentum,
            weight_decay=recipe.weight_decay,
            alone=cores_of(model.net) if recipe.rank_tolerance else (),
        )
        self.average: Average | None = None
        if recipe.ema or recipe.swa:
            self.average = Average(model, decay=recipe.ema, start=recipe.average_start)
        self.dynamics = dynamics_of(recipe, model, self.optimizer)
        self.steps_per_epoch = math.ceil(len(sources.train) / recipe.batch_size)
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
            BadInput: The loss became NaN or infinite (the checkpoint file keeps the last state
                that was written while it was finite), or a file cannot be written.
        """
        self._started = time.monotonic()
        self.save()
        while not self.finished:
            self._epoch()

    @property
    def finished(self) -> bool:
        """Whether the last epoch is done, or validation has not improved for too long."""
        stale = self.recipe.patience and self.epoch - self.best_epoch >= self.recipe.patience
        return self.epoch >= self.recipe.epochs or bool(stale and self.best_epoch)

    def _epoch(self) -> None:
        self.model.train()
        saved = time.monotonic()
        while self.step < self.steps_per_epoch:
            self._one_step()
            self._report_step()
            if time.monotonic() - saved >= self.checkpoint_every_s:
                self.save()
                saved = time.monotonic()
        self._close_epoch()

    def _one_step(self) -> None:
        size = self.recipe.batch_size
        index = self.order[self.step * size : (self.step + 1) * size]
        loss, extra = self.training_step(self._augmented(take_batch(self.sources.train, index)))
        if not math.isfinite(loss + extra):
            raise BadInput(
                f"the loss became {loss + extra:g} in epoch {self.epoch + 1}, "
                f"step {self.step + 1} of {self.steps_per_epoch}; "
                f"{checkpoint_path(self.out)} keeps the last good state",
                hint="lower the learning rate (--lr) or the coefficients of the regularisers",
            )
        self.loss_sum += loss
        self.penalty_sum += extra
        self.step += 1
        self._steps_here += 1

    def _learning_rate(self) -> float:
        total = self.recipe.epochs * self.steps_per_epoch
        done = self.epoch * self.steps_per_epoch + self.step
        return learning_rate(self.recipe.schedule, self.recipe.peak_lr, done, total)

    def _augmented(self, batch: Batch) -> Batch:
        seed = derive_seed(self.recipe.seed, AUGMENTATION, self.epoch)
        images = augment_images(batch.images, batch.ids, seed, self.recipe.augment)
        return Batch(images, batch.labels, batch.ids)

    def training_step(self, batch: Batch) -> tuple[float, float]:
        """Take one optimiser step; return the objective's loss and the penalty.

        Where they are not finite, the weights are left as they were.
        """
        self.optimizer.zero_grad(set_to_none=True)
        if self.pruner is not None:
            self.pruner.before(self.epoch, self._learning_rate())
        augmenting = self.dynamics is not None and self.dynamics.before(
            self.step, self.steps_per_epoch, frozen=self._ranks_frozen
        )
        for group in self.optimizer.param_groups:
            group["lr"] = self._learning_rate() * group.get("scale", 1.0)
        loss = OBJECTIVES[self.recipe.objective](self.model, batch, self.attack())
        extra = penalty(self._matrices(), self.recipe.coefficients)
        total = loss if extra is None else loss + extra
        value = float(loss.detach()), 0.0 if extra is None else float(extra.detach())
        if math.isfinite(sum(value)):
            total.backward()  # type: ignore[no-untyped-call]
            if self.dynamics is not None and augmenting:
                self.dynamics.augment()
            if self.pruner is None:
                self.optimizer.step()
            else:
                self.pruner.step(self.epoch, self.optimizer)
            if self.dynamics is not None:
                self.dynamics.after(self.step, self.steps_per_epoch, frozen=self._ranks_frozen)
            if self.average is not None:
                self.average.after_step(self.epoch)
        return value

    @property
    def _ranks_frozen(self) -> bool:
        return self.epoch >= self.recipe.epochs - self.recipe.rank_frozen

    def attack(self) -> TrainingAttack:
        """Return this epoch's inner attack."""
        recipe = self.recipe
        seed = derive_seed(recipe.seed, NOISE, self.epoch)
        return TrainingAttack(
            recipe.eps,
            recipe.norm,
            recipe.steps,
            recipe.attack_step,
            seed,
            trades_beta=recipe.trades_beta,
            mart_beta=recipe.mart_beta,
            inner=recipe.inner,
            align_weight=recipe.align_weight if self.epoch >= recipe.align_start else 0.0,
            align_axes=recipe.align_axes,
            align_on=recipe.align_on,
        )

    def _close_epoch(self) -> None:
        if self.average is not None:
            self.average.after_epoch(self.epoch)
        found, state = self._judge()
        entry = self._entry(found)
        self.history.append(entry)
        eligible = self.pruner is None or self.pruner.finished(self.epoch)
        leads = not self.best_epoch or score(entry) >= score(self.history[self.best_epoch - 1])
        if eligible and leads:
            self.best_epoch, self.best = entry["epoch"], state
        self.epoch += 1
        self.step = 0
        self.loss_sum = self.penalty_sum = 0.0
        self.order = self._new_order()
        self.save()
        write_history(history_path(self.out), self.history)
        self.on_progress(
            Event(
                "epoch",
                epoch=self.epoch,
                epochs=self.recipe.epochs,
                loss=entry["loss"],
                rate=self._rate(),
                clean_accuracy=entry["clean_accuracy"],
                robust_accuracy=entry["robust_accuracy"],
                **self._size(),
            )
        )

    def _size(self) -> dict[str, Any]:
        """Ranks and compression for an event, where ranks adapt."""
        if self.dynamics is None:
            return {}
        ranks = tuple(r for pair in ranks_of(self.model.net).values() for r in pair)
        return {"ranks": ranks, "compression": self.model.params_dense / self.model.params}

    def _judge(self) -> tuple[dict[str, Any], State]:
        """Return the validation accuracies of this epoch, and the weights they belong to.

        Where weights are averaged, those of the step and the average are judged alike and the
        better ones count.
        """
        found: dict[str, Any] = self._validate()
        state = copy_state(self.model.net.state_dict())
        if self.average is None or not self.average.count:
            return found, state
        with self.average.applied(self.sources.train):
            averaged = self._validate()
            if score(averaged) < score(found):
                return {**found, "raw": found, "average": averaged}, state
            state = copy_state(self.model.net.state_dict())
        return {**averaged, "raw": found, "average": averaged}, state

    def _validate(self) -> dict[str, float | None]:
        budget = validation_budget(self.recipe)
        clean = accuracy(self.model, self.sources.validation)
        robust = accuracy(self.model, self.sources.validation, budget) if budget.eps > 0 else None
        return {"clean_accuracy": clean, "robust_accuracy": robust}

    def _entry(self, found: dict[str, Any]) -> dict[str, Any]:
        recipe = self.recipe
        adaptive = {} if self.dynamics is None else {"ranks": ranks_of(self.model.net)}
        return {
            "epoch": self.epoch + 1,
            "loss": self.loss_sum / self.steps_per_epoch,
            "penalty": self.penalty_sum / self.steps_per_epoch,
            **term_values(self._matrices(), recipe.coefficients),
            **found,
            "condition_numbers": condition_numbers(self.model.net),
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            **adaptive,
            **({} if self.pruner is None else {"sparsity": self.pruner.sparsity}),
        }

    def _matrices(self) -> dict[str, list[Tensor]]:
        return regularized_matrices(self.model.net, self.recipe.regularize)

    def _new_order(self) -> Tensor:
        rng = np.random.default_rng([self.recipe.seed, ORDER, self.epoch])
        return torch.from_numpy(rng.permutation(len(self.sources.train)))

    def _rate(self) -> float:
        elapsed = max(time.monotonic() - self._started, 1e-9)
        return self._steps_here * self.recipe.batch_size / elapsed

    def _report_step(self) -> None:
        rate = self._rate()
        left = (self.recipe.epochs - self.epoch) * self.steps_per_epoch - self.step
        self.on_progress(
            Event(
                "step",
                epoch=self.epoch + 1,
                epochs=self.recipe.epochs,
                step=self.step,
                steps=self.steps_per_epoch,
                loss=self.loss_sum / self.step,
                rate=rate,
                eta_s=left * self.recipe.batch_size / rate,
                **self._size(),
            )
        )

    def save(self) -> None:
        """Write the checkpoint file.

        Raises:
            BadInput: The folder cannot be written or is full.
        """
        write_checkpoint(
            checkpoint_path(self.out),
            Checkpoint(
                **self.identity,
                epoch=self.epoch,
                step=self.step,
                order=self.order,
                loss_sum=self.loss_sum,
                penalty_sum=self.penalty_sum,
                model=self.model.net.state_dict(),
                optimizer=self.optimizer.state_dict(),
                rng=torch.get_rng_state(),
                history=self.history,
                best_epoch=self.best_epoch,
                best=self.best,
                pruning={} if self.pruner is None else self.pruner.state(),
                average={} if self.average is None else self.average.state(),
            ),
        )

    def restore(self, checkpoint: Checkpoint) -> None:
        """Continue from a checkpoint of the same training."""
        match_ranks(self.model.net, checkpoint.model)
        self.model.net.load_state_dict(checkpoint.model)
        self.optimizer.load_state_dict(checkpoint.optimizer)
        torch.set_rng_state(checkpoint.rng)
        self.epoch, self.step, self.order = checkpoint.epoch, checkpoint.step, checkpoint.order
        self.loss_sum, self.penalty_sum = checkpoint.loss_sum, checkpoint.penalty_sum
        self.history = checkpoint.history
        self.best_epoch, self.best = checkpoint.best_epoch, checkpoint.best
        if self.pruner is not None:
            self.pruner.restore(checkpoint.pruning)
        if self.average is not None:
            self.average.restore(checkpoint.average)
