"""Attacks that climb the loss along its gradient: FGSM and projected gradient ascent (PGD).

FGSM: x' = Π(x + ε·sign ∇L). PGD-k: x₀ random in the ball, x_{t+1} = Π(x_t + α·sign ∇L); for L2
the gradient is scaled to unit length instead of its sign. L is the soft margin of ``losses``: the
direction of the cross entropy, at a scale of the logits that is always the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sepdeploy.attacks.balls import BALLS, Ball
from sepdeploy.attacks.draws import derive_seed
from sepdeploy.attacks.losses import Loss, margin, soft_margin
from sepdeploy.attacks.scores import Scores, scores_of
from sepdeploy.errors import BadInput
from sepdeploy.threat import Attack

FAINT, GLARING = 1e-6, 1e6  # largest values of gradients whose squares float32 can add


@dataclass(frozen=True)
class Made:
    """What an attack made.

    Attributes:
        images: (N, ...) inside the ball.
        blind: (N,) where a gradient was zero or not finite on the way; None = nowhere.
    """

    images: Tensor
    blind: Tensor | None = None


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
    scores: Scores, ball: Ball, start: Tensor, loss: Loss, *, steps: int, size: float
) -> Made:
    """Take ``steps`` projected steps up ``loss(scores(x))`` from ``start``.

    The caller freezes the model's parameters (``frozen``); only input gradients are computed.

    Args:
        scores: Maps (N, ...) to logits (N, classes).
        ball: The constraint.
        start: (N, ...) float32 inside the ball; not modified.
        loss: Maps logits to a scalar that sums over samples.
        steps: Number of gradient evaluations.
        size: Step length in the ball's norm.

    Returns:
        The last point, exactly inside the ball.

    Raises:
        BadInput: The scores do not depend on the images by anything that has a gradient.
    """
    point = start
    blind = torch.zeros(len(start), dtype=torch.bool, device=start.device)
    for _ in range(steps):
        with torch.enable_grad():
            leaf = point.detach().requires_grad_(True)
            gradient = gradient_of(loss(scores(leaf)), leaf)
        gradient, lacking = usable(gradient)
        blind |= lacking
        point = ball.step(leaf.detach(), gradient, size)
    return Made(ball.finish(point), blind)


def gradient_of(value: Tensor, leaf: Tensor) -> Tensor:
    """Return the gradient of a sum over samples.

    Raises:
        BadInput: There is none.
    """
    found = None
    if value.requires_grad:
        (found,) = torch.autograd.grad(value, leaf, allow_unused=True)
    if found is None:
        raise BadInput(
            "the model's output does not depend on its input: nothing to attack",
            hint="is it detached or computed outside torch? then it has no gradient",
        )
    return found


def usable(gradient: Tensor) -> tuple[Tensor, Tensor]:
    """Return a gradient with finite values of a bearable size, and which samples lacked one.

    What is infinite becomes the largest finite value, what is NaN zero; an ordinary gradient is
    given back as it is.
    """
    flat = gradient.flatten(1)
    largest = torch.linalg.vector_norm(flat, torch.inf, dim=1)
    odd = ~((largest >= FAINT) & (largest <= GLARING))
    if not bool(odd.any()):
        return gradient, odd
    lacking = ~largest.isfinite() | (largest == 0)
    finite = flat.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
    top = finite.abs().amax(dim=1, keepdim=True)
    top = torch.where(top > 0, top, 1.0)
    mended = torch.where(flat.isinf(), flat.sign(), finite / top)
    return torch.where(odd[:, None], mended, flat).reshape(gradient.shape), lacking


def fgsm(model: nn.Module, images: Tensor, labels: Tensor, ids: Tensor, attack: Attack) -> Made:
    """One step of length eps from the image itself; restarts change nothing."""
    ball = BALLS[attack.norm](images, attack.eps)
    loss = soft_margin(labels)
    with frozen(model):
        return ascend(scores_of(model), ball, images, loss, steps=1, size=attack.eps)


def pgd(model: nn.Module, images: Tensor, labels: Tensor, ids: Tensor, attack: Attack) -> Made:
    """Projected gradient ascent; the worst of ``restarts`` random starts.

    Per sample the first restart that fools the model is kept, else the one with the largest
    margin; later restarts attack only the samples that still stand.
    """
    scores = scores_of(model)
    with frozen(model):
        first = _one_start(scores, images, labels, ids, attack, restart=0)
        if attack.restarts == 1:
            return first
        best, blind = first.images, first.blind
        assert blind is not None
        worst = _margin(scores, best, labels)
        for restart in range(1, attack.restarts):
            rest = torch.nonzero(worst <= 0).flatten()
            if not len(rest):
                break
            made = _one_start(
                scores, images[rest], labels[rest], ids[rest], attack, restart=restart
            )
            found = _margin(scores, made.images, labels[rest])
            taken = found > worst[rest]
            best[rest[taken]], worst[rest[taken]] = made.images[taken], found[taken]
            assert made.blind is not None
            blind[rest] |= made.blind
        return Made(best, blind)


def _one_start(
    scores: Scores, images: Tensor, labels: Tensor, ids: Tensor, attack: Attack, *, restart: int
) -> Made:
    ball = BALLS[attack.norm](images, attack.eps)
    start = ball.start(derive_seed(attack.seed, restart), ids)
    loss = soft_margin(labels)
    return ascend(scores, ball, start, loss, steps=attack.steps, size=attack.step)


@torch.no_grad()
def _margin(scores: Scores, images: Tensor, labels: Tensor) -> Tensor:
    return margin(scores(images), labels)
