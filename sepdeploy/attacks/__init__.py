"""Adversarial attacks with one call shape, for evaluation and inside training.

``run(model, images, labels, attack)`` returns adversarial images. Whatever is random is drawn per
sample id, so results do not depend on how images are batched. A new attack is a file of this
folder and a row of ``ATTACKS``. torch is imported inside functions: reading a name needs none.
"""

from __future__ import annotations

import pkgutil
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sepdeploy.errors import BadInput, unknown_name
from sepdeploy.threat import NORMS, Attack

if TYPE_CHECKING:
    from torch import Tensor, nn

    Run = Callable[[nn.Module, Tensor, Tensor, Tensor, Attack], Tensor]

MAX_STEPS = 100_000


@dataclass(frozen=True)
class Row:
    """One attack: how it is written, what makes its images, and what it can do.

    Args:
        example: How users write it; with a number of steps where it takes one.
        function: "module:function" of (model, images, labels, ids, attack), imported when used.
        steps: Where none are written; 0 = the attack has a single step.
        norms: That it supports.
        gradients: Whether it needs those of the model.
    """

    example: str
    function: str
    steps: int = 0
    norms: tuple[str, ...] = NORMS
    gradients: bool = True


ATTACKS: dict[str, Row] = {
    "fgsm": Row("fgsm", "sepdeploy.attacks.gradient:fgsm"),
    "pgd": Row("pgd-40", "sepdeploy.attacks.gradient:pgd", steps=20),
}


def examples() -> str:
    """Return how users write the known attacks: "fgsm, pgd-40"."""
    return ", ".join(row.example for row in ATTACKS.values())


def parse_attack(text: str, eps: float, norm: str = "linf", *, seed: int = 0) -> Attack:
    """Read "fgsm" or "pgd-40", in any case.

    Raises:
        BadInput: Unknown attack, an impossible number of steps, or a norm it does not support.
    """
    name, _, steps = text.strip().lower().partition("-")
    row = ATTACKS.get(name)
    if row is None:
        raise unknown_name("attack", text, ATTACKS, hint=f"for example: {examples()}")
    if not row.steps and steps not in ("", "1"):
        raise BadInput(f"attack '{text}': {name} has one step", hint="for more steps: pgd-10")
    steps = steps or str(row.steps)
    is_number = re.fullmatch(r"[0-9]{1,6}", steps) is not None
    if row.steps and not (is_number and 1 <= int(steps) <= MAX_STEPS):
        raise BadInput(
            f"attack '{text}': '{steps}' is not a number of steps", hint=f"for example: {name}-40"
        )
    full = f"{name}-{int(steps)}" if row.steps else name
    attack = Attack(full, eps, norm, seed=seed)
    if norm not in row.norms:
        raise unknown_name(f"norm of {name}", norm, row.norms)
    return attack


def run(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    attack: Attack,
    *,
    ids: Tensor | None = None,
    batch_size: int = 256,
) -> Tensor:
    """Attack a model in evaluation mode.

    Args:
        model: Maps float32 images in [0, 1] to logits; its normalisation is inside.
        images: (N, ...) float32 in [0, 1].
        labels: (N,) int64.
        attack: With its radius; see ``parse_attack``.
        ids: (N,) int64, what the random start of each image is drawn for; None = 0 .. N-1.
        batch_size: Samples attacked at once; changes memory and speed only.

    Returns:
        float32, the shape of ``images``, in [0, 1] and within the radius exactly. For a radius
        of 0 the images themselves, bit for bit.

    Raises:
        BadInput: The model is in training mode, or images and labels make no sense.
    """
    import torch

    _check(model, images, labels)
    if attack.eps == 0:
        return images.clone()
    if ids is None:
        ids = torch.arange(len(images), device=images.device)
    row = ATTACKS[attack.family]
    make: Run = pkgutil.resolve_name(row.function)
    parts = []
    for at in range(0, len(images), batch_size):
        part = slice(at, at + batch_size)
        with torch.set_grad_enabled(row.gradients):
            parts.append(make(model, images[part], labels[part], ids[part], attack))
    return torch.cat(parts) if parts else images.clone()


def _check(model: nn.Module, images: Tensor, labels: Tensor) -> None:
    import torch

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
