"""The images of a batch that no attack has felled yet.

Of each image an evaluation asks only whether some point of its ball is classified wrongly. One
whose point is found leaves the batch, and the others go on faster without it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sepdeploy.attacks.goals import Goal, rivals, scale_of
from sepdeploy.attacks.gradient import Made, frozen, gradient_of, usable
from sepdeploy.attacks.losses import right
from sepdeploy.attacks.scores import Scores, scores_of
from sepdeploy.threat import Attack


class Standing:
    """Images that the network classifies right so far.

    Args:
        scores: Of the network.
        images: (N, ...) float32.
        labels: (N,) int64.

    Attributes:
        scores: As given.
        images: As given.
        rows: (M,) int64, which images stand.
        rivals: (N, classes - 1) int64, the wrong classes, the most likely first.
    """

    def __init__(self, scores: Scores, images: Tensor, labels: Tensor) -> None:
        with torch.no_grad():
            logits = scores(images)
        self.scores, self.images = scores, images
        self._labels, self._scale = labels, scale_of(logits)
        self._points = images.clone()
        self._blind = torch.zeros(len(images), dtype=torch.bool, device=images.device)
        self.rivals = rivals(logits, labels)
        self.rows = torch.nonzero(right(logits, labels)).flatten()

    def __len__(self) -> int:
        return len(self.rows)

    def goal(self, aim: int | None = None) -> Goal:
        """Return what the standing images are attacked for: any class, or their aim-th rival."""
        targets = None if aim is None else self.rivals[self.rows, aim]
        return Goal(self._labels[self.rows], self._scale[self.rows], targets)

    def fell(self, rows: Tensor, points: Tensor) -> None:
        """Take out the images ``rows`` with the ``points`` that are classified wrongly."""
        if len(rows):
            self._points[rows] = points
            self.rows = self.rows[torch.isin(self.rows, rows, invert=True)]

    def lacked(self, rows: Tensor) -> None:
        """Note images whose gradients were of no use."""
        self._blind[rows] = True

    def made(self) -> Made:
        """Return the points that felled images, and the images themselves that stand."""
        return Made(self._points, self._blind)


Climb = Callable[[Standing, int, int | None], None]


def evaluated(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    attack: Attack,
    climb: Climb,
    *,
    targets: int = 0,
) -> Made:
    """Attack what stands from every start and, one after the other, towards every rival.

    Args:
        model: In evaluation mode; its parameters are frozen meanwhile.
        images: (N, ...) float32.
        labels: (N,) int64.
        attack: Its ``restarts`` are the starts.
        climb: Takes out of what stands what it fells, given the start and the rival (None = any).
        targets: Rivals to aim at, the most likely first; 0 = none in particular.

    Returns:
        The points that felled images, and the images themselves that stand.
    """
    with frozen(model):
        standing = Standing(scores_of(model), images, labels)
        aims = range(min(targets, standing.rivals.shape[1])) if targets else (None,)
        for start in range(attack.restarts):
            for aim in aims:
                if len(standing):
                    climb(standing, start, aim)
    return standing.made()


@dataclass
class Slope:
    """The loss at a point: (N,) its value, (N, ...) its gradient, (N,) what is wrong or blind."""

    value: Tensor
    gradient: Tensor
    wrong: Tensor
    blind: Tensor


def slope(
    scores: Scores, point: Tensor, goal: Goal, loss: Callable[[Tensor, Goal], Tensor]
) -> Slope:
    """Return the loss of each sample with a gradient that can be used.

    The caller freezes the model's parameters.
    """
    with torch.enable_grad():
        leaf = point.detach().requires_grad_(True)
        logits = scores(leaf)
        value = loss(logits, goal)
        found = gradient_of(value.sum(), leaf)
    gradient, blind = usable(found)
    return Slope(value.detach(), gradient, ~right(logits.detach(), goal.labels), blind)
