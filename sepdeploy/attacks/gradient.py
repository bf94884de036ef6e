"""Attacks that climb the loss along its gradient: FGSM and projected gradient ascent (PGD).

FGSM: x' = Π(x + ε·sign ∇CE). PGD-k: x₀ random in the ball, x_{t+1} = Π(x_t + α·sign ∇CE); for L2
the gradient is scaled to unit length instead of its sign.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sepdeploy.attacks.balls import BALLS, Ball
from sepdeploy.attacks.noise import derive_seed
from sepdeploy.threat import Attack

Loss = Callable[[Tensor], Tensor]


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Switch off parameter gradients inside the block, so that only the input has one."""
    active = [p for p in model.parameters() if p.requires_grad]
    for parameter in active:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in active:
            parameter.requires_grad_(True)


def ascend(
    model: nn.Module, ball: Ball, start: Tensor, loss: Loss, *, steps: int, size: float
) -> Tensor:
    """Take ``steps`` projected steps up ``loss(model(x))`` from ``start``.

    The caller freezes the model's parameters (``frozen``); only input gradients are computed.

    Args:
        model: Maps (N, ...) to logits (N, classes).
        ball: The constraint.
        start: (N, ...) float32 inside the ball; not modified.
        loss: Maps logits to a scalar that sums over samples.
        steps: Number of gradient evaluations.
        size: Step length in the ball's norm.

    Returns:
        The last point, exactly inside the ball.
    """
    point = start
    for _ in range(steps):
        with torch.enable_grad():
            leaf = point.detach().requires_grad_(True)
            (gradient,) = torch.autograd.grad(loss(model(leaf)), leaf)
        point = ball.step(leaf.detach(), gradient, size)
    return ball.finish(point)


def fgsm(model: nn.Module, images: Tensor, labels: Tensor, ids: Tensor, attack: Attack) -> Tensor:
    """One step of length eps from the image itself; restarts change nothing."""
    ball = BALLS[attack.norm](images, attack.eps)
    with frozen(model):
        return ascend(model, ball, images, _cross_entropy(labels), steps=1, size=attack.eps)


def pgd(model: nn.Module, images: Tensor, labels: Tensor, ids: Tensor, attack: Attack) -> Tensor:
    """Projected gradient ascent of the cross entropy; the worst of ``restarts`` random starts.

    Per sample the first restart that fools the model is kept, else the one with the highest
    loss; later restarts attack only the samples that still stand.
    """
    best = _one_start(model, images, labels, ids, attack, restart=0)
    if attack.restarts == 1:
        return best
    best_loss, standing = _judge(model, best, labels)
    for restart in range(1, attack.restarts):
        rest = torch.nonzero(standing).flatten()
        if not len(rest):
            break
        found = _one_start(model, images[rest], labels[rest], ids[rest], attack, restart=restart)
        found_loss, found_standing = _judge(model, found, labels[rest])
        better = ~found_standing | (found_loss > best_loss[rest])
        taken = rest[better]
        best[taken], best_loss[taken] = found[better], found_loss[better]
        standing[taken] = found_standing[better]
    return best


def _one_start(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    ids: Tensor,
    attack: Attack,
    *,
    restart: int,
) -> Tensor:
    ball = BALLS[attack.norm](images, attack.eps)
    start = ball.start(derive_seed(attack.seed, restart), ids)
    loss = _cross_entropy(labels)
    with frozen(model):
        return ascend(model, ball, start, loss, steps=attack.steps, size=attack.step)


def _cross_entropy(labels: Tensor) -> Loss:
    # Summed, not averaged: the gradient of one sample must not depend on the batch size.
    return lambda logits: F.cross_entropy(logits, labels, reduction="sum")


@torch.no_grad()
def _judge(model: nn.Module, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the loss per sample and whether the model is still right."""
    logits = model(images)
    loss = F.cross_entropy(logits, labels, reduction="none")
    return loss, logits.argmax(dim=1) == labels
