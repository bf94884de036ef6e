"""What a training step minimises: natural loss, PGD-AT, TRADES, MART, and spectral alignment.

Each objective returns the mean loss of one batch. Adversarial examples are made in evaluation
mode, so that batch statistics never see them while they are being searched, and with parameter
gradients switched off.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sepdeploy.attacks.balls import BALLS, Ball
from sepdeploy.attacks.gradient import Loss, ascend, frozen
from sepdeploy.attacks.noise import gaussian
from sepdeploy.errors import BadInput
from sepdeploy.threat import Attack
from sepdeploy.training.machine.team import bare

TRADES_START = 0.001  # standard deviation of the start around the image, as in TRADES


@dataclass(frozen=True)
class Terms:
    """The inner attack of an objective, and the weights of its terms.

    The attack's seed changes every epoch; together with a sample's id it fixes that sample's
    noise. ``inner`` is a key of ``INNER``, "" = the objective's own attack. ``align_weight`` is 0
    until the alignment terms set in.
    """

    attack: Attack
    trades_beta: float = 6.0
    mart_beta: float = 5.0
    inner: str = ""
    align_weight: float = 0.1
    align_axes: str = "batch-class"
    align_on: str = "logits"


@dataclass(frozen=True)
class Batch:
    """Images (N, C, H, W) in [0, 1], labels (N,) and sample ids (N,)."""

    images: Tensor
    labels: Tensor
    ids: Tensor

    def to(self, device: torch.device) -> Batch:
        """Return the batch on a device; from page-locked memory the copy runs on its own."""
        tensors = (self.images, self.labels, self.ids)
        return Batch(*(t.to(device, non_blocking=t.is_pinned()) for t in tensors))

    def pinned(self) -> Batch:
        """Return the batch in page-locked memory, from where a GPU can fetch it by itself."""
        return Batch(self.images.pin_memory(), self.labels.pin_memory(), self.ids.pin_memory())


Objective = Callable[[nn.Module, Batch, Terms], Tensor]


def natural(model: nn.Module, batch: Batch, terms: Terms) -> Tensor:
    """Cross entropy on the images as they are."""
    return F.cross_entropy(model(batch.images), batch.labels)


def pgd_at(model: nn.Module, batch: Batch, terms: Terms) -> Tensor:
    """Cross entropy on PGD examples: min over weights of the max over the ball (Madry et al.)."""
    return F.cross_entropy(model(adversarial(model, batch, terms)), batch.labels)


def trades(model: nn.Module, batch: Batch, terms: Terms) -> Tensor:
    """CE(f(x), y) + β · (1/N) Σ KL(p(x) ‖ p(x')), x' maximising the divergence (Zhang et al.).

    The gradient flows through both arguments of the divergence.
    """
    found = adversarial(model, batch, terms, "kl")
    logits = model(batch.images)
    loss = F.cross_entropy(logits, batch.labels)
    robust = divergence(model(found), logits.softmax(dim=1)) / len(batch.labels)
    return loss + terms.trades_beta * robust


def mart(model: nn.Module, batch: Batch, terms: Terms) -> Tensor:
    """BCE(x') + β · (1/N) Σ KL(p(x) ‖ p(x')) · (1 − p_y(x)) (Wang et al.).

    BCE is the cross entropy of x' plus a margin against the likeliest wrong class; the divergence
    counts most where the clean image is classified wrongly.
    """
    found = adversarial(model, batch, terms)
    logits, labels = model(batch.images), batch.labels
    attacked = model(found)
    own = F.one_hot(labels, logits.shape[1]).bool()
    wrong = attacked.softmax(dim=1).masked_fill(own, 0).amax(dim=1)
    boosted = F.cross_entropy(attacked, labels) - torch.log(1.0001 - wrong).mean()
    clean = logits.softmax(dim=1)
    each = F.kl_div(attacked.log_softmax(dim=1), clean, reduction="none").sum(dim=1)
    robust = (each * (1.0000001 - clean[own])).mean()
    total: Tensor = boosted + terms.mart_beta * robust
    return total


def frequency(model: nn.Module, batch: Batch, terms: Terms) -> Tensor:
    """CE(f(x'), y) + λ · |F(f(x) − f(x'))|: frequency regularisation, FR (Huang et al.).

    F is the Fourier transform of the difference of logits. Over ("batch-class") as in the paper's
    code it mixes the samples of a batch and grows with √N, so λ = 0.1 belongs to batches of 128;
    over "class" it is per sample, and about 1.1 matches that.
    """
    found = adversarial(model, batch, terms)
    attacked = model(found)
    loss = F.cross_entropy(attacked, batch.labels)
    if not terms.align_weight:
        return loss
    dims = FREQUENCY_AXES[terms.align_axes]
    return loss + terms.align_weight * spectral_distance(model(batch.images) - attacked, dims)


def alignment(model: nn.Module, batch: Batch, terms: Terms) -> Tensor:
    """CE(f(x'), y) + λ · |F(g(x) − g(x'))|: spectral alignment, SAR, in our reading.

    The paper says that the spectra of clean and attacked outputs are aligned, not by which
    constant nor on which output: λ (``align_weight``) must be chosen, and g is the logits with
    the transform over classes, or the last feature map with the transform over its two spatial
    axes. Each sample stays by itself.
    """
    found = adversarial(model, batch, terms)
    with _last_map(model) as seen:
        attacked = model(found)
        loss = F.cross_entropy(attacked, batch.labels)
        if not terms.align_weight:
            return loss
        if terms.align_on == "logits":
            distance = spectral_distance(model(batch.images) - attacked, (1,))
        else:
            there = seen()
            model(batch.images)
            distance = spectral_distance(seen() - there, (2, 3))
    return loss + terms.align_weight * distance


FREQUENCY_AXES: dict[str, tuple[int, ...]] = {"batch-class": (0, 1), "class": (1,)}
ALIGNED = ("logits", "features")


def spectral_distance(difference: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Return the mean of (|Re| + |Im|)/2 over the Fourier transform of a difference."""
    with torch.autocast(device_type=difference.device.type, enabled=False):
        spectrum = torch.view_as_real(torch.fft.fftn(difference.float(), dim=dims))
        return spectrum.abs().mean()


@contextmanager
def _last_map(model: nn.Module) -> Iterator[Callable[[], Tensor]]:
    """Watch a model; the function gives the last feature map (N, C, H, W) of the latest pass."""
    maps: list[Tensor] = []

    def watch(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if isinstance(output, Tensor) and output.dim() == 4:
            maps[:] = [output]

    def last() -> Tensor:
        if not maps:
            raise BadInput(
                "align_on = 'features' and the network has no feature map (N, C, H, W)",
                hint='align_on = "logits"',
            )
        return maps[0]

    hooks = [module.register_forward_hook(watch) for module in model.modules()]
    try:
        yield last
    finally:
        for hook in hooks:
            hook.remove()


def divergence(logits: Tensor, target: Tensor) -> Tensor:
    """Return Σ_n KL(target_n ‖ softmax(logits_n)) of one batch."""
    return F.kl_div(logits.log_softmax(dim=1), target, reduction="sum")


OBJECTIVES: dict[str, Objective] = {
    "natural": natural,
    "pgd-at": pgd_at,
    "trades": trades,
    "mart": mart,
    "fr": frequency,
    "sar": alignment,
}


@dataclass(frozen=True)
class Inner:
    """An inner attack: what it climbs, where it starts ("ball", "near", "image"), how it steps.

    A single step goes ``step`` times ε; None = the recipe's steps.
    """

    climbs: str
    start: str
    step: float | None = None


INNER: dict[str, Inner] = {
    "ce": Inner("ce", "ball"),
    "kl": Inner("kl", "near"),
    "margin": Inner("margin", "ball"),
    "fgsm": Inner("ce", "image", 1.0),
    "rs-fgsm": Inner("ce", "ball", 1.25),
}
"""PGD on the cross entropy, the divergence from the clean output, or the margin of Carlini and
Wagner; FGSM, and FGSM from a random start."""


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
    ball = BALLS[attack.norm](batch.images, attack.eps)
    steps = attack.steps if inner.step is None else 1
    size = attack.step if inner.step is None else inner.step * attack.eps
    with evaluating(model):
        loss = _climbed(inner.climbs, model, batch)
        with frozen(model):
            return ascend(model, ball, _start(inner, ball, batch, attack), loss,
                          steps=steps, size=size)  # fmt: skip


def _climbed(name: str, model: nn.Module, batch: Batch) -> Loss:
    labels = batch.labels
    if name == "ce":
        return lambda logits: F.cross_entropy(logits, labels, reduction="sum")
    if name == "margin":
        return lambda logits: _margin(logits, labels)
    with torch.no_grad():
        target = model(batch.images).softmax(dim=1)
    return lambda logits: divergence(logits, target)


def _margin(logits: Tensor, labels: Tensor) -> Tensor:
    """Σ_n (largest wrong logit − right logit)."""
    own = F.one_hot(labels, logits.shape[1]).bool()
    return (logits.masked_fill(own, -torch.inf).amax(dim=1) - logits[own]).sum()


def _start(inner: Inner, ball: Ball, batch: Batch, attack: Attack) -> Tensor:
    if inner.start == "image":
        return batch.images
    if inner.start == "ball":
        return ball.start(attack.seed, batch.ids)
    # at the image itself the divergence is 0 and so is its gradient
    noise = gaussian(attack.seed, batch.ids, batch.images.shape[1:])
    return ball.project(noise.mul_(TRADES_START).add_(batch.images))


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
