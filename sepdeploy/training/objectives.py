"""What a training step minimises: natural loss, PGD adversarial training, TRADES.

Each objective returns the mean loss of one batch. Adversarial examples are made in evaluation
mode, so that batch statistics never see them while they are being searched, and with parameter
gradients switched off.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sepdeploy.attacks.balls import BALLS, Ball
from sepdeploy.attacks.gradient import Loss, ascend, frozen
from sepdeploy.attacks.noise import gaussian

TRADES_START = 0.001  # standard deviation of the start around the image, as in TRADES


@dataclass(frozen=True)
class TrainingAttack:
    """The inner attack of an objective.

    ``seed`` changes every epoch; together with a sample's id it fixes that sample's noise.
    """

    eps: float
    norm: str
    steps: int
    step_size: float
    seed: int
    trades_beta: float = 6.0


@dataclass(frozen=True)
class Batch:
    """Images (N, C, H, W) in [0, 1], labels (N,) and sample ids (N,)."""

    images: Tensor
    labels: Tensor
    ids: Tensor


Objective = Callable[[nn.Module, Batch, TrainingAttack], Tensor]


def natural(model: nn.Module, batch: Batch, attack: TrainingAttack) -> Tensor:
    """Cross entropy on the images as they are."""
    return F.cross_entropy(model(batch.images), batch.labels)


def pgd_at(model: nn.Module, batch: Batch, attack: TrainingAttack) -> Tensor:
    """Cross entropy on PGD examples: min over weights of the max over the ball (Madry et al.)."""
    labels = batch.labels
    adversarial = _attack(
        model, batch, attack, lambda logits: F.cross_entropy(logits, labels, reduction="sum")
    )
    return F.cross_entropy(model(adversarial), labels)


def trades(model: nn.Module, batch: Batch, attack: TrainingAttack) -> Tensor:
    """CE(f(x), y) + β · (1/N) Σ KL(p(x) ‖ p(x')), x' maximising the divergence (Zhang et al.).

    The gradient flows through both arguments of the divergence.
    """
    with evaluating(model), torch.no_grad():
        target = model(batch.images).softmax(dim=1)

    def near_the_image(ball: Ball) -> Tensor:
        # at the image itself the divergence is 0 and so is its gradient
        noise = gaussian(attack.seed, batch.ids, batch.images.shape[1:])
        return ball.project(noise.mul_(TRADES_START).add_(batch.images))

    adversarial = _search(
        model, batch, attack, lambda logits: divergence(logits, target), near_the_image
    )
    logits = model(batch.images)
    loss = F.cross_entropy(logits, batch.labels)
    robust = divergence(model(adversarial), logits.softmax(dim=1)) / len(batch.labels)
    return loss + attack.trades_beta * robust


def divergence(logits: Tensor, target: Tensor) -> Tensor:
    """Return Σ_n KL(target_n ‖ softmax(logits_n)) of one batch."""
    return F.kl_div(logits.log_softmax(dim=1), target, reduction="sum")


OBJECTIVES: dict[str, Objective] = {"natural": natural, "pgd-at": pgd_at, "trades": trades}


def _attack(model: nn.Module, batch: Batch, attack: TrainingAttack, loss: Loss) -> Tensor:
    """Climb ``loss`` from a random start in the ball."""
    return _search(model, batch, attack, loss, lambda ball: ball.start(attack.seed, batch.ids))


def _search(
    model: nn.Module,
    batch: Batch,
    attack: TrainingAttack,
    loss: Loss,
    start: Callable[[Ball], Tensor],
) -> Tensor:
    if attack.eps == 0:
        return batch.images
    ball = BALLS[attack.norm](batch.images, attack.eps)
    with evaluating(model), frozen(model):
        return ascend(model, ball, start(ball), loss, steps=attack.steps, size=attack.step_size)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model into evaluation mode; every module gets its own mode back afterwards."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
