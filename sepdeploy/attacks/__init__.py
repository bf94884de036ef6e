"""Adversarial attacks with one call shape, for evaluation and inside training.

``run(model, images, labels, spec, eps=...)`` returns adversarial images. Whatever is random is
drawn per sample id, so results do not depend on how images are batched.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from sepdeploy.attacks.gradient import Budget, fgsm, pgd
from sepdeploy.errors import BadInput
from sepdeploy.threat import AttackSpec, check_norm, check_radius

Attack = Callable[[nn.Module, Tensor, Tensor, Tensor, Budget], Tensor]

ATTACKS: dict[str, Attack] = {"fgsm": fgsm, "pgd": pgd}

__all__ = ["ATTACKS", "Budget", "run"]


def run(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    spec: AttackSpec,
    *,
    eps: float,
    norm: str = "linf",
    step_size: float | None = None,
    restarts: int = 1,
    seed: int = 0,
    ids: Tensor | None = None,
    batch_size: int = 256,
) -> Tensor:
    """Attack a model in evaluation mode.

    Args:
        model: Maps float32 images in [0, 1] to logits; its normalisation is inside.
        images: (N, ...) float32 in [0, 1].
        labels: (N,) int64.
        spec: From ``threat.parse_attack``.
        eps: Radius, in units of pixels in [0, 1].
        norm: "linf" or "l2".
        step_size: None = ``threat.default_step_size``.
        restarts: Number of random starts; per sample the worst result is kept.
        seed: Of the random starts.
        ids: (N,) int64, what the random start of each image is drawn for; None = 0 .. N-1.
        batch_size: Samples attacked at once; changes memory and speed only.

    Returns:
        float32, the shape of ``images``, in [0, 1] and within ``eps`` exactly. For eps = 0 the
        images themselves, bit for bit.

    Raises:
        BadInput: The model is in training mode, or an argument makes no sense.
    """
    budget = Budget(check_radius(eps), check_norm(norm), spec.steps, step_size, restarts, seed)
    _check(model, images, labels, budget)
    if eps == 0:
        return images.clone()
    if ids is None:
        ids = torch.arange(len(images), device=images.device)
    attack = ATTACKS[spec.name]
    parts = []
    for at in range(0, len(images), batch_size):
        part = slice(at, at + batch_size)
        parts.append(attack(model, images[part], labels[part], ids[part], budget))
    return torch.cat(parts) if parts else images.clone()


def _check(model: nn.Module, images: Tensor, labels: Tensor, budget: Budget) -> None:
    if any(module.training for module in model.modules()):
        raise BadInput(
            "the model is in training mode: batch statistics and dropout would change under attack",
            hint="call model.eval() first",
        )
    if images.dtype != torch.float32 or len(images) != len(labels):
        raise BadInput(
            f"cannot attack {images.dtype} images {tuple(images.shape)} with {len(labels)} labels",
            hint="images are float32 in [0, 1], one label each",
        )
    if len(images) and not (float(images.min()) >= 0 and float(images.max()) <= 1):
        raise BadInput(
            f"image values run from {float(images.min()):g} to {float(images.max()):g}",
            hint="images are float32 in [0, 1]; normalisation belongs inside the model",
        )
    if budget.restarts < 1 or budget.steps < 1:
        raise BadInput(
            f"{budget.steps} steps with {budget.restarts} restarts is no attack",
            hint="both are at least 1",
        )
    if budget.step_size is not None and not 0 < budget.step_size < float("inf"):
        raise BadInput(f"step size {budget.step_size:g} is not positive", hint="leave it out")
