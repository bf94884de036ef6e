"""One optimiser step, and everything that such steps change."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from sepdeploy.attacks.draws import derive_seed
from sepdeploy.compression.masks import fold_cores
from sepdeploy.errors import BadInput
from sepdeploy.models import Model
from sepdeploy.threat import Attack
from sepdeploy.training.checkpoint import Held
from sepdeploy.training.descent.averaging import Average
from sepdeploy.training.descent.optimizers import OPTIMIZERS, make_optimizer
from sepdeploy.training.descent.proportion import learning_scales, warmed_up
from sepdeploy.training.descent.schedule import learning_rate
from sepdeploy.training.machine.acceleration import CPU, moved, place, running_form
from sepdeploy.training.machine.batches import Part
from sepdeploy.training.machine.team import ALONE, Team, without_exchange
from sepdeploy.training.objectives import OBJECTIVES
from sepdeploy.training.objectives.batch import Batch, Terms
from sepdeploy.training.penalties.matrices import regularized_matrices
from sepdeploy.training.penalties.regularizers import penalty
from sepdeploy.training.pruning import Pruner
from sepdeploy.training.ranks.dynamic import cores_of, match_ranks
from sepdeploy.training.ranks.windows import dynamics_of
from sepdeploy.training.recipe.fields import Recipe
from sepdeploy.training.sources import DROPOUT, NOISE


@dataclass(frozen=True)
class Moment:
    """Where a training stands: epoch and step from 0.

    Attributes:
        ranks_frozen: Whether ranks are frozen by now.
        safe: Whether a training with one attack step takes all of the recipe's by now.
    """

    epoch: int
    step: int
    ranks_frozen: bool = False
    safe: bool = False


class Stepper:
    """A model and what trains it.

    Args:
        recipe: What to do.
        model: Trained in place, on ``device``.
        steps_per_epoch: Optimiser steps in an epoch.
        team: With whom gradients are exchanged.
        device: Where it computes.

    Attributes:
        form: What is run instead of the model (see ``running_form``): same parameters, no
            exchange between processes.
        network: ``form`` with the exchange of gradients at the end of a backward pass; ``form``
            itself where ranks adapt, since DistributedDataParallel does not follow parameters
            that change shape: gradients are then exchanged after the pass.

    Raises:
        BadInput: The recipe does not fit the network, or it cannot be compiled here.
    """

    def __init__(
        self,
        recipe: Recipe,
        model: Model,
        *,
        steps_per_epoch: int,
        team: Team = ALONE,
        device: torch.device = CPU,
    ) -> None:
        self.recipe = recipe
        self.model = model
        self.steps_per_epoch = steps_per_epoch
        self.team = team
        self.device = device
        if recipe.prune:
            fold_cores(model.net)
        place(model, recipe, device)
        self.pruner = Pruner(model.net, recipe) if recipe.prune else None
        self.scales = learning_scales(
            model.net,
            recipe.lr_scales,
            adaptive=OPTIMIZERS[recipe.optimizer].adaptive,
            dynamic=bool(recipe.rank_tolerance),
        )
        self.optimizer = make_optimizer(
            recipe.optimizer,
            model.net,
            lr=recipe.peak_lr,
            momentum=recipe.momentum,
            weight_decay=recipe.weight_decay,
            alone=cores_of(model.net) if recipe.rank_tolerance else (),
            scales=self.scales,
        )
        self.rate = 0.0  # of the last step
        self.average: Average | None = None
        if recipe.ema or recipe.swa:
            self.average = Average(model, decay=recipe.ema, start=recipe.average_start)
        self.dynamics = dynamics_of(recipe, model, self.optimizer, team)
        self.form = running_form(model, recipe)
        if self.dynamics is None:
            self.network = team.wrap(self.form, device)
        else:
            team.copy_first(model.net)
            self.network = self.form

    def take(self, parts: Sequence[Part], at: Moment) -> tuple[float, float]:
        """Take one optimiser step; return the objective's loss and the penalty.

        Args:
            parts: This process's share of the optimiser batch.
            at: Which step it is.

        Raises:
            FloatingPointError: The loss, its gradient or a weight became NaN or infinite, in all
                processes alike. What follows from such weights may be neither judged nor kept.
        """
        self._seed_dropout(at)
        self.optimizer.zero_grad(set_to_none=True)
        rate = self.rate = self.learning_rate(at)
        if self.pruner is not None:
            self.pruner.before(at.epoch, rate)
        augmenting = self.dynamics is not None and self.dynamics.before(
            at.step, self.steps_per_epoch, frozen=at.ranks_frozen
        )
        for group in self.optimizer.param_groups:
            group["lr"] = rate * self._scale(group["scale"], at)
        value = self._backward(parts, self.terms(at))
        weights = list(self.model.net.parameters())
        _require_finite("gradient of the loss", [p.grad for p in weights if p.grad is not None])
        if self.dynamics is not None and augmenting:
            self.dynamics.augment()
        if self.pruner is None:
            self.optimizer.step()
        else:
            self.pruner.step(at.epoch, self.optimizer)
        _require_finite("weights", [p for p in weights if p.grad is not None])
        if self.dynamics is not None:
            self.dynamics.after(at.step, self.steps_per_epoch, frozen=at.ranks_frozen)
        self.team.average_buffers(self.model.net)
        if self.average is not None:
            self.average.after_step(at.epoch)
        return value

    def _backward(self, parts: Sequence[Part], terms: Terms) -> tuple[float, float]:
        """Leave the gradient of the whole optimiser batch in the parameters."""
        loss = torch.zeros((), device=self.device)
        for number, part in enumerate(parts, start=1):
            last = number == len(parts)
            with nullcontext() if last else without_exchange(self.network):
                own = self._loss(part.batch.to(self.device), terms) * part.weight
                loss += own.detach()
                if not last:
                    self._descend(own)
        extra = penalty(self.matrices(), self.recipe.coefficients)
        value = float(self.team.total(loss)), 0.0 if extra is None else float(extra.detach())
        if not math.isfinite(sum(value)):
            raise FloatingPointError(f"the loss became {sum(value):g}")
        self._descend(own, extra)
        if self.dynamics is not None:
            weights = self.model.net.parameters()
            self.team.average([p.grad for p in weights if p.grad is not None])
        return value

    def _loss(self, batch: Batch, terms: Terms) -> Tensor:
        try:
            return OBJECTIVES[self.recipe.objective](self.network, batch, terms)
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            raise BadInput(
                "batch normalisation met a part of a batch with one image",
                hint="choose a batch_size that leaves no single image for the last batch of an "
                "epoch, each process and each part of it",
            ) from error

    def _descend(self, loss: Tensor, extra: Tensor | None = None) -> None:
        # the exchange takes the mean over processes, and shares of a batch have to be summed;
        # the penalty is the same everywhere
        total = loss * self.team.world if self.team.world > 1 else loss
        total = total if extra is None else total + extra
        total.backward()  # type: ignore[no-untyped-call]

    def _seed_dropout(self, at: Moment) -> None:
        """Give each process and step noise of its own that needs no state to resume."""
        if self.team.world > 1 or self.device.type != "cpu":
            parts = (self.recipe.seed, DROPOUT, at.epoch, at.step, self.team.rank)
            torch.manual_seed(derive_seed(*parts))

    def learning_rate(self, at: Moment) -> float:
        """Return the rate of a step."""
        total = self.recipe.epochs * self.steps_per_epoch
        done = at.epoch * self.steps_per_epoch + at.step
        return learning_rate(self.recipe.schedule, self.recipe.peak_lr, done, total)

    def _scale(self, scale: float, at: Moment) -> float:
        """Return a group's scale, which grows to its size in the first steps."""
        if self.dynamics is not None:
            return scale  # adapting ranks set it themselves
        total = self.recipe.epochs * self.steps_per_epoch
        return warmed_up(scale, (at.epoch * self.steps_per_epoch + at.step) / max(1, total))

    def terms(self, at: Moment) -> Terms:
        """Return what the objective attacks with and weighs."""
        recipe, epoch = self.recipe, at.epoch
        seed = derive_seed(recipe.seed, NOISE, epoch)
        share = min(1.0, (epoch + 1) / (recipe.eps_warmup + 1))
        eps, step = share * recipe.eps, share * recipe.attack_step
        return Terms(
            Attack(f"pgd-{recipe.steps}", eps, recipe.norm, seed=seed, step_size=step),
            trades_beta=recipe.trades_beta,
            mart_beta=recipe.mart_beta,
            inner="ce" if at.safe else recipe.inner,
            align_weight=recipe.align_weight if epoch >= recipe.align_start else 0.0,
            align_axes=recipe.align_axes,
            align_on=recipe.align_on,
        )

    def matrices(self) -> dict[str, list[Tensor]]:
        """Return the matrices that the penalties act on."""
        return regularized_matrices(self.model.net, self.recipe.regularize)

    def state(self) -> Held:
        """Return what steps have changed so far."""
        held = {
            "model": self.model.net.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "pruning": {} if self.pruner is None else self.pruner.state(),
            "average": {} if self.average is None else self.average.state(),
        }
        return Held(rng=torch.get_rng_state(), **moved(held, CPU))

    def restore(self, held: Held) -> None:
        """Continue from what ``state`` gave, on whichever device it was."""
        match_ranks(self.model.net, held.model)
        self.model.net.load_state_dict(held.model)
        self.optimizer.load_state_dict(held.optimizer)
        torch.set_rng_state(held.rng)
        if self.pruner is not None:
            masks = {k: v for k, v in held.pruning.items() if k != "optimizer"}
            own = {"optimizer": held.pruning["optimizer"]}
            self.pruner.restore(moved(masks, self.device) | own)
        if self.average is not None:
            self.average.restore(moved(held.average, self.device))


def _require_finite(what: str, tensors: Sequence[Tensor]) -> None:
    largest = [torch.linalg.vector_norm(t.detach(), math.inf) for t in tensors if t.numel()]
    if largest and not bool(torch.stack(largest).isfinite().all()):
        raise FloatingPointError(f"the {what} became infinite or nan")
