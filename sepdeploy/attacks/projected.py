"""Projected gradient ascent for evaluation: any loss, any class or one, fallen images leave.

x_{t+1} = Π(x_t + α·d(∇L)) from a random start in the ball, d the sign (L∞) or unit length (L2).
Jitter (Schwinn et al. 2021) is one whose aim is shaken by noise n, which keeps the ascent from
running after one rival only: L = ‖softmax(s·z/max|z|) + σ·n − onehot(y)‖₂.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sepdeploy.attacks.balls import BALLS
from sepdeploy.attacks.draws import derive_seed
from sepdeploy.attacks.goals import LOSSES, Goal
from sepdeploy.attacks.gradient import Made
from sepdeploy.attacks.noise import gaussian
from sepdeploy.attacks.standing import Standing, evaluated, slope
from sepdeploy.threat import Attack

Loss = Callable[[Tensor, Goal], Tensor]


@dataclass(frozen=True, kw_only=True)
class PGD:
    """Calling it attacks a batch, see ``attacks.run``.

    Attributes:
        loss: A key of ``goals.LOSSES``.
        targets: The most likely other classes are aimed at one after the other; 0 = none is.
    """

    loss: str = "margin"
    targets: int = 0

    def __call__(
        self, model: nn.Module, images: Tensor, labels: Tensor, ids: Tensor, attack: Attack
    ) -> Made:
        """Return the points that fell an image, and the images that none was found for."""

        def climb(standing: Standing, start: int, aim: int | None) -> None:
            seed = derive_seed(attack.seed, start, aim or 0)
            self._climb(standing, ids[standing.rows], attack, seed, aim)

        return evaluated(model, images, labels, attack, climb, targets=self.targets)

    def at(self, seed: int, ids: Tensor) -> Loss:
        """Return the loss of one step."""
        return LOSSES[self.loss]

    def _climb(
        self, standing: Standing, ids: Tensor, attack: Attack, seed: int, aim: int | None
    ) -> None:
        """Ascend from one start towards one class, or away from the true one."""
        rows, goal = standing.rows, standing.goal(aim)
        ball = BALLS[attack.norm](standing.images[rows], attack.eps)
        point = ball.finish(ball.start(seed, ids))
        for step in range(attack.steps + 1):
            if not len(rows):
                return
            loss = self.at(derive_seed(seed, step), ids)
            found = slope(standing.scores, point, goal, loss)
            standing.lacked(rows[found.blind])
            gradient = found.gradient
            if found.wrong.any():
                standing.fell(rows[found.wrong], point[found.wrong])
                left = ~found.wrong
                rows, ids, point = rows[left], ids[left], point[left]
                gradient, goal = gradient[left], goal.kept(left)
                ball = BALLS[attack.norm](standing.images[rows], attack.eps)
            point = ball.finish(ball.step(point, gradient, attack.step))


@dataclass(frozen=True, kw_only=True)
class Jitter(PGD):
    """Projected gradient ascent whose aim is shaken.

    Attributes:
        sharpness: s, what normalised logits are multiplied by.
        noise: σ.
    """

    sharpness: float = 10.0
    noise: float = 0.1

    def at(self, seed: int, ids: Tensor) -> Loss:
        """Return the loss of one step, with its noise."""

        def loss(logits: Tensor, goal: Goal) -> Tensor:
            largest = logits.detach().abs().amax(dim=1, keepdim=True)
            largest = torch.where(largest > 0, largest, 1.0)
            shares = torch.softmax(self.sharpness * (logits / largest), dim=1)
            shaken = shares + self.noise * gaussian(seed, ids, shares.shape[1:])
            length: Tensor = (shaken - F.one_hot(goal.labels, shares.shape[1])).norm(dim=1)
            return length

        return loss


MARGIN = PGD(loss="margin")
DLR = PGD(loss="dlr")
TARGETED = PGD(loss="margin", targets=9)
JITTER = Jitter(loss="jitter")
