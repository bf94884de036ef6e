"""Adversarial attacks with one call shape, for evaluation and inside training.

``run(model, images, labels, attack)`` returns adversarial images, ``make`` also for which of them
gradients failed. Whatever is random is drawn per sample id, so results do not depend on how images
are batched. A new attack is a file of this folder and a row of ``ATTACKS`` (``sepdeploy.threat``).
torch is imported inside functions: reading a name needs none.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from sepdeploy.errors import BadInput
from sepdeploy.threat import ATTACKS as ATTACKS
from sepdeploy.threat import Attack
from sepdeploy.threat import Row as Row
from sepdeploy.threat import parse_attack as parse_attack

QUERIES = 200  # of a search where gradients failed, an image; pgd-40 costs about 120 passes

if TYPE_CHECKING:
    from torch import Tensor, nn

    from sepdeploy.attacks.gradient import Made

    Run = Callable[[nn.Module, Tensor, Tensor, Tensor, Attack], Made]


def run(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    attack: Attack,
    *,
    eps: float | None = None,
    norm: str | None = None,
    ids: Tensor | None = None,
    batch_size: int = 256,
) -> Tensor:
    """Attack a model in evaluation mode; see ``make``, of which this gives the images.

    Args:
        model: Maps float32 images in [0, 1] to logits; its normalisation is inside.
        images: (N, ...) float32 in [0, 1].
        labels: (N,) integers, class numbers.
        attack: See ``parse_attack``.
        eps: In place of the attack's own radius.
        norm: In place of its own norm.
        ids: (N,) int64, what the random start of each image is drawn for; None = 0 .. N-1.
        batch_size: Samples attacked at once; changes memory and speed only.

    Raises:
        BadInput: See ``make``.
    """
    chosen = replace(
        attack,
        eps=attack.eps if eps is None else eps,
        norm=attack.norm if norm is None else norm,
    )
    return make(model, images, labels, chosen, ids=ids, batch_size=batch_size).images


def make(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    attack: Attack,
    *,
    ids: Tensor | None = None,
    batch_size: int = 256,
) -> Made:
    """Attack a model in evaluation mode, by search where its gradients are of no use.

    Args:
        model: Maps float32 images in [0, 1] to logits; its normalisation is inside. Probabilities
            by a last softmax or sigmoid are attacked by what goes into it.
        images: (N, ...) float32 in [0, 1].
        labels: (N,) integers, class numbers.
        attack: With its radius; see ``parse_attack``.
        ids: (N,) int64, what the random start of each image is drawn for; None = 0 .. N-1.
        batch_size: Samples attacked at once; changes memory and speed only.

    Returns:
        Images: float32, in [0, 1] and within the radius exactly; for a radius of 0 the images
        themselves, bit for bit. And for which of them a gradient was zero or not finite.

    Raises:
        BadInput: The model is in training mode, gives no logits of two classes or more or none
            that depend on its input, or images and labels make no sense.
    """
    import torch

    from sepdeploy.attacks.gradient import Made

    labels = _checked(model, images, labels)
    none = torch.zeros(len(images), dtype=torch.bool, device=images.device)
    if attack.eps == 0 or not len(images):
        return Made(images.clone(), none)
    if ids is None:
        ids = torch.arange(len(images), device=images.device)
    if ATTACKS[attack.family].members:
        from sepdeploy.attacks.course import Course

        return Course(model, images, labels, ids, attack, batch_size).run()
    parts = [
        _attacked(model, images[part], labels[part], ids[part], attack)
        for part in (slice(i, i + batch_size) for i in range(0, len(images), batch_size))
    ]
    blind = torch.cat([p.blind for p in parts if p.blind is not None])
    return Made(torch.cat([p.images for p in parts]), blind)


def _attacked(
    model: nn.Module, images: Tensor, labels: Tensor, ids: Tensor, attack: Attack
) -> Made:
    """Attack one batch; images that gradients failed for are searched by Square."""
    import torch

    from sepdeploy.attacks.gradient import Made, frozen
    from sepdeploy.attacks.losses import right
    from sepdeploy.attacks.scores import scores_of

    row = ATTACKS[attack.family]
    function: Run = pkgutil.resolve_name(row.function)
    scores = scores_of(model)
    with torch.no_grad(), frozen(model):
        clean = scores(images)
        standing = right(clean, labels)  # also refuses what gives no logits
    if int(labels.max()) >= clean.shape[1]:
        raise BadInput(
            f"labels go up to {int(labels.max())}, the model has {clean.shape[1]} classes",
            hint="is this the data set that the model was trained on?",
        )
    with torch.set_grad_enabled(row.gradients):
        made = function(model, images, labels, ids, attack)
    found = made.images
    broken = ~found.isfinite().flatten(1).all(dim=1)
    found[broken] = images[broken]
    blind = broken if made.blind is None else broken | made.blind
    if bool((blind & standing).any()):
        _search(model, images, labels, ids, attack, found, blind)
    return Made(found, blind)


def _search(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    ids: Tensor,
    attack: Attack,
    found: Tensor,
    blind: Tensor,
) -> None:
    """Attack without gradients what stands where they failed: changes those rows of ``found``."""
    import torch

    from sepdeploy.attacks.losses import right
    from sepdeploy.attacks.scores import scores_of
    from sepdeploy.attacks.square import SQUARE

    scores = scores_of(model)
    with torch.no_grad():
        rest = torch.nonzero(blind & right(scores(found), labels)).flatten()
        if len(rest):
            blindly = replace(attack, name=f"square@{QUERIES}", restarts=1)
            points = SQUARE(model, images[rest], labels[rest], ids[rest], blindly).images
            fell = ~right(scores(points), labels[rest])
            found[rest[fell]] = points[fell]


def _checked(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Return the labels as int64 if they and the images make sense."""
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
    if labels.dim() != 1 or labels.is_floating_point() or labels.is_complex():
        raise BadInput(
            f"labels are {labels.dtype} {tuple(labels.shape)}",
            hint="they are whole numbers from 0, one an image",
        )
    labels = labels.to(images.device, torch.int64)
    if len(labels) and int(labels.min()) < 0:
        raise BadInput(f"label {int(labels.min())} is no class", hint="classes count from 0")
    return labels
