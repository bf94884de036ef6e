"""Pretrain, prune, fine-tune: masks on factors that are found while training.

"magnitude" keeps the largest weights after the pretraining. "hydra" (Sehwag et al. 2020) first
trains a score per weight, everything else frozen: the network runs with the weights of the
highest scores, and the gradient passes through that choice as if it were a product. Afterwards
the masks are fixed and the surviving weights train on. The parameters themselves hold zeros, so
whatever is saved or exported has the masks baked in.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sepdeploy.compression.masks import initial_scores, prunable, sparsity_of, top_masks
from sepdeploy.training.descent.optimizers import OPTIMIZERS
from sepdeploy.training.recipe.fields import Recipe


class Pruner:
    """The pruning of one training; a no-op before its first epoch.

    Args:
        net: The network, its low-rank cores folded.
        recipe: With ``prune`` set.
    """

    def __init__(self, net: nn.Module, recipe: Recipe) -> None:
        self.recipe = recipe
        self.weights = prunable(net, classifier=recipe.prune_classifier)
        self.masks: dict[str, Tensor] = {}
        self.scores: dict[str, Tensor] = {}
        self.dense: dict[str, Tensor] = {}
        self.optimizer: torch.optim.Optimizer | None = None

    @property
    def sparsity(self) -> float:
        """Share of zeros among all prunable weights."""
        return sparsity_of(self.weights)

    def finished(self, epoch: int) -> bool:
        """Whether an epoch (from 0) trains with fixed masks; only such ones may be kept."""
        return epoch >= self.recipe.prune_start + self.recipe.score_epochs

    def before(self, epoch: int, rate: float) -> None:
        """Prepare a step: begin a phase where one is due.

        Args:
            epoch: From 0.
            rate: Learning rate of the step.
        """
        if epoch < self.recipe.prune_start:
            return
        if self.finished(epoch):
            if not self.masks:
                self._fix()
            return
        if not self.scores:
            self._begin_scores()
            self._show()
        for group in self._score_optimizer().param_groups:
            group["lr"] = rate

    def step(self, epoch: int, optimizer: torch.optim.Optimizer) -> None:
        """Take the optimiser step that the phase allows, after the backward pass."""
        if epoch < self.recipe.prune_start:
            optimizer.step()
        elif self.finished(epoch):
            self._masked_step(optimizer)
        else:
            self._score_step(optimizer)

    def _masked_step(self, optimizer: torch.optim.Optimizer) -> None:
        for name, weight in self.weights.items():
            if weight.grad is not None:
                weight.grad.mul_(self.masks[name])
        optimizer.step()
        with torch.no_grad():  # momentum from before the masks would bring weights back
            for name, weight in self.weights.items():
                weight.mul_(self.masks[name])

    def _score_step(self, optimizer: torch.optim.Optimizer) -> None:
        for name, weight in self.weights.items():
            score = self.scores[name]
            score.grad = None if weight.grad is None else weight.grad * self.dense[name]
        optimizer.zero_grad(set_to_none=True)
        self._score_optimizer().step()
        self._show()

    def _begin_scores(self) -> None:
        self.dense = {name: w.detach().clone() for name, w in self.weights.items()}
        self.scores = initial_scores(self.dense)
        self.optimizer = None

    def _score_optimizer(self) -> torch.optim.Optimizer:
        if self.optimizer is None:
            groups: list[dict[str, Any]] = [
                {"params": list(self.scores.values()), "weight_decay": 0.0}
            ]
            choice = OPTIMIZERS[self.recipe.optimizer]
            self.optimizer = choice.make(groups, self.recipe.peak_lr, self.recipe.momentum)
        return self.optimizer

    def _show(self) -> None:
        """Let the network run with the weights of the highest scores."""
        self._write(self._masks(self.scores))

    def _masks(self, importance: dict[str, Tensor]) -> dict[str, Tensor]:
        return top_masks(importance, self.recipe.sparsity, self.recipe.prune_scope)

    def _fix(self) -> None:
        if not self.dense:
            self.dense = {name: w.detach().clone() for name, w in self.weights.items()}
        self.masks = self._masks(self.scores or self.dense)
        self._write(self.masks)
        self.scores, self.dense, self.optimizer = {}, {}, None

    def _write(self, masks: dict[str, Tensor]) -> None:
        with torch.no_grad():
            for name, weight in self.weights.items():
                weight.copy_(self.dense[name] * masks[name])

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {
            "masks": self.masks,
            "scores": self.scores,
            "dense": self.dense,
            "optimizer": {} if self.optimizer is None else self.optimizer.state_dict(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from ``state``; the network's weights are restored by themselves."""
        self.masks, self.scores, self.dense = state["masks"], state["scores"], state["dense"]
        self.optimizer = None
        if state["optimizer"]:
            self._score_optimizer().load_state_dict(state["optimizer"])
