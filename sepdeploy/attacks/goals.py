"""What an evaluation climbs for each image: a loss of the logits, maybe towards one class.

Losses at two points of an attack are compared, so the scale of the logits is fixed by the clean
image; see ``losses`` for why they have one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sepdeploy.attacks.losses import SHARPNESS

Loss = Callable[[Tensor, "Goal"], Tensor]


@dataclass(frozen=True)
class Goal:
    """What a batch is attacked for.

    Attributes:
        labels: (N,) int64, the true classes.
        scale: (N,) float32, what logits are multiplied by.
        targets: (N,) int64, the classes aimed at; None = any.
    """

    labels: Tensor
    scale: Tensor
    targets: Tensor | None = None

    def kept(self, rows: Tensor) -> Goal:
        """Return the goal of some rows."""
        targets = None if self.targets is None else self.targets[rows]
        return Goal(self.labels[rows], self.scale[rows], targets)

    def scaled(self, logits: Tensor) -> Tensor:
        """Return logits of the one scale."""
        return logits * self.scale[:, None]


def scale_of(logits: Tensor) -> Tensor:
    """Return (N,) factors that bring the spread of clean logits to ``SHARPNESS``.

    A constant for the whole attack on an image, so that values at two points can be compared.
    """
    wide = logits.detach().double()
    spread = wide.amax(dim=1) - wide.amin(dim=1)
    usable = torch.isfinite(spread) & (spread > 0)
    factor = SHARPNESS / torch.where(usable, spread, SHARPNESS)
    return factor.clamp_(max=torch.finfo(torch.float32).max).float()


def rivals(logits: Tensor, labels: Tensor) -> Tensor:
    """Return (N, classes - 1) int64: the other classes, the most likely first."""
    order = logits.argsort(dim=1, descending=True, stable=True)
    return order[order != labels[:, None]].reshape(len(logits), -1)


def cross_entropy(logits: Tensor, goal: Goal) -> Tensor:
    """Log Σ_{i≠y} exp z_i − z_y: rises with the cross entropy, along the same direction.

    CE = log(1 + exp(this)), so that ∇CE is this gradient times a positive number, which float32
    rounds to 0 where the network is sure.
    """
    own, others = _split(goal.scaled(logits), goal.labels)
    return others.logsumexp(dim=1) - own


def margin(logits: Tensor, goal: Goal) -> Tensor:
    """max_{i≠y} z_i − z_y, or z_t − z_y for a target."""
    return _margin(goal.scaled(logits), goal)


def dlr(logits: Tensor, goal: Goal) -> Tensor:
    """Difference of logits ratio (Croce and Hein 2020, equations 6 and 7).

    −(z_y − max_{i≠y} z_i)/(z_π1 − z_π3), and −(z_y − z_t)/(z_π1 − (z_π3 + z_π4)/2) for a target;
    with fewer classes than that the margin.
    """
    z = goal.scaled(logits)
    fewest = 3 if goal.targets is None else 4
    if z.shape[1] < fewest:
        return _margin(z, goal)
    top = z.topk(fewest, dim=1).values
    spread = top[:, 0] - top[:, 2:].mean(dim=1)
    return _margin(z, goal) / (spread + 1e-12)


LOSSES: dict[str, Loss] = {"ce": cross_entropy, "margin": margin, "dlr": dlr}


def _margin(z: Tensor, goal: Goal) -> Tensor:
    if goal.targets is not None:
        return _take(z, goal.targets) - _take(z, goal.labels)
    own, others = _split(z, goal.labels)
    return others.amax(dim=1) - own


def _take(values: Tensor, index: Tensor) -> Tensor:
    return values.gather(1, index[:, None]).squeeze(1)


def _split(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the logit of the true class and the others with that one at minus infinity."""
    others = logits.scatter(1, labels[:, None], -torch.inf)
    return _take(logits, labels), others
