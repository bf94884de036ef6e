"""The examples that an objective trains on.

They are made in evaluation mode, so that batch statistics never see them while they are being
searched, and with parameter gradients switched off.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sepdeploy.attacks.balls import BALLS
from sepdeploy.attacks.gradient import ascend, frozen
from sepdeploy.attacks.losses import Loss, cross_entropy
from sepdeploy.attacks.noise import gaussian
from sepdeploy.threat import Attack
from sepdeploy.training.machine.team import bare
from sepdeploy.training.objectives import INNER, Inner
from sepdeploy.training.objectives.batch import Batch, Terms

TRADES_START = 0.001  # standard deviation of the start around the image, as in TRADES


def adversarial(model: nn.Module, batch: Batch, terms: Terms, own: str = "ce") -> Tensor:
    """Return the examples that an objective trains on.

    Args:
        model: Any mode; attacked in evaluation mode.
        batch: What is attacked.
        terms: Its attack, and the kind of it where one was chosen.
        own: The objective's own attack, a key of ``INNER``.
    """
    attack = terms.attack
    if attack.eps == 0:
        return batch.images
    model = bare(model)  # searching must not exchange gradients with other processes
    inner = INNER[terms.inner or own]
    reach = 1.0 if inner.noise <= 1 or inner.step is None else inner.noise + inner.step
    ball = BALLS[attack.norm](batch.images, reach * attack.eps)
    steps = attack.steps if inner.step is None else 1
    size = attack.step if inner.step is None else inner.step * attack.eps
    with evaluating(model):
        loss = _climbed(inner.climbs, model, batch)
        with frozen(model):
            return ascend(model, ball, _start(inner, batch, attack), loss,
                          steps=steps, size=size).images  # fmt: skip


def _climbed(name: str, model: nn.Module, batch: Batch) -> Loss:
    labels = batch.labels
    if name == "ce":
        return cross_entropy(labels)
    if name == "margin":
        return lambda logits: _margin(logits, labels)
    with torch.no_grad():
        target = model(batch.images).softmax(dim=1)
    return lambda logits: divergence(logits, target)


def divergence(logits: Tensor, target: Tensor) -> Tensor:
    """Return Σ_n KL(target_n ‖ softmax(logits_n)) of one batch."""
    return F.kl_div(logits.log_softmax(dim=1), target, reduction="sum")


def _margin(logits: Tensor, labels: Tensor) -> Tensor:
    """Σ_n (largest wrong logit − right logit)."""
    own = F.one_hot(labels, logits.shape[1]).bool()
    return (logits.masked_fill(own, -torch.inf).amax(dim=1) - logits[own]).sum()


def _start(inner: Inner, batch: Batch, attack: Attack) -> Tensor:
    if inner.start == "image":
        return batch.images
    if inner.start == "ball":
        wide = BALLS[attack.norm](batch.images, inner.noise * attack.eps)
        return wide.start(attack.seed, batch.ids)
    # at the image itself the divergence is 0 and so is its gradient
    noise = gaussian(attack.seed, batch.ids, batch.images.shape[1:])
    return noise.mul_(TRADES_START).add_(batch.images)  # as published; the first step projects


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
