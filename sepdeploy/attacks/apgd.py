"""Auto-PGD: projected gradient ascent that chooses its own step sizes (Croce and Hein 2020).

z = Π(x_k + η·d(∇f)), x_{k+1} = Π(x_k + 0.75 (z − x_k) + 0.25 (x_k − x_{k−1})), η = 2 ε at first.
At checkpoints η is halved, and the ascent goes on from the best point, where fewer than 3/4 of
the steps since the last checkpoint raised the loss, or where neither η nor the best loss changed.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn

from sepdeploy.attacks.balls import BALLS, per_sample
from sepdeploy.attacks.draws import derive_seed
from sepdeploy.attacks.goals import LOSSES
from sepdeploy.attacks.gradient import Made
from sepdeploy.attacks.standing import Standing, evaluated, slope
from sepdeploy.threat import Attack


@dataclass(frozen=True, kw_only=True)
class APGD:
    """One variant; calling it attacks a batch, see ``attacks.run``.

    Attributes:
        loss: A key of ``losses.LOSSES``.
        targets: The most likely other classes are aimed at one after the other; 0 = none is.
        rho: Share of the steps that must raise the loss for the step size to stay.
        momentum: Weight of the new direction; the rest is the previous move's.
        first_window: Share of the steps before the first checkpoint.
        shrink: By how much each window is shorter than the one before, as a share of the steps.
        last_window: Share of the steps that no window is shorter than.
    """

    loss: str = "ce"
    targets: int = 0
    rho: float = 0.75
    momentum: float = 0.75
    first_window: float = 0.22
    shrink: float = 0.03
    last_window: float = 0.06

    def __call__(
        self, model: nn.Module, images: Tensor, labels: Tensor, ids: Tensor, attack: Attack
    ) -> Made:
        """Return the points that fell an image, and the images that none was found for."""

        def climb(standing: Standing, start: int, aim: int | None) -> None:
            seed = derive_seed(attack.seed, start, aim or 0)
            self._climb(standing, ids[standing.rows], attack, seed, aim)

        return evaluated(model, images, labels, attack, climb, targets=self.targets)

    def _climb(
        self, standing: Standing, ids: Tensor, attack: Attack, seed: int, aim: int | None
    ) -> None:
        """Ascend from one start towards one class, or away from the true one."""
        loss, steps, goal = LOSSES[self.loss], attack.steps, standing.goal(aim)
        ball = BALLS[attack.norm](standing.images[standing.rows], attack.eps)
        point = ball.finish(ball.start(seed, ids))
        state = _first(standing.rows, ball.images, point, 2 * ball.eps)
        window, since = max(round(self.first_window * steps), 1), 0
        for step in range(steps + 1):
            found = slope(standing.scores, state.point, goal, loss)
            standing.lacked(state.row[found.blind])
            state.rise(found.value, found.gradient, first=step == 0)
            if found.wrong.any():
                standing.fell(state.row[found.wrong], state.point[found.wrong])
                left = ~found.wrong
                state, goal = state.kept(left), goal.kept(left)
                ball = BALLS[attack.norm](state.images, attack.eps)
            if step == steps or not len(state.row):
                return
            if since == window:
                self._checkpoint(state, window)
                window, since = self._next(window, steps), 0
            reach = ball.project(
                state.point + per_sample(state.size, state.point) * ball.direction(state.gradient)
            )
            share = self.momentum if step else 1.0
            moved = torch.lerp(state.point, reach, share)
            moved.add_(state.point - state.before, alpha=1 - share)
            state.before, state.point = state.point, ball.finish(ball.project(moved))
            since += 1

    def _next(self, window: int, steps: int) -> int:
        """Return the length of the window after one."""
        shorter = window - max(int(self.shrink * steps), 1)
        return max(shorter, int(self.last_window * steps), 1)

    def _checkpoint(self, state: _State, window: int) -> None:
        """Halve the step size where the ascent swings or stands still."""
        still = ~state.halved & (state.last_best >= state.best_value)
        halve = (state.ups <= self.rho * window) | still
        state.size = torch.where(halve, state.size / 2, state.size)
        state.point = _where(halve, state.best, state.point)
        state.gradient = _where(halve, state.best_gradient, state.gradient)
        state.halved, state.last_best = halve, state.best_value
        state.ups = torch.zeros_like(state.ups)


@dataclass
class _State:
    """One row a standing image."""

    row: Tensor
    images: Tensor
    point: Tensor
    before: Tensor
    gradient: Tensor
    value: Tensor
    best: Tensor
    best_gradient: Tensor
    best_value: Tensor
    size: Tensor
    ups: Tensor  # steps since the last checkpoint that raised the loss
    last_best: Tensor  # at the last checkpoint
    halved: Tensor  # at the last checkpoint

    def kept(self, rows: Tensor) -> _State:
        return _State(*(getattr(self, f.name)[rows] for f in fields(self)))

    def rise(self, value: Tensor, gradient: Tensor, *, first: bool) -> None:
        """Take the loss and gradient of the new point."""
        if not first:
            self.ups += value > self.value
        self.value, self.gradient = value, gradient
        better = value > self.best_value
        self.best_value = torch.where(better, value, self.best_value)
        self.best = _where(better, self.point, self.best)
        self.best_gradient = _where(better, gradient, self.best_gradient)
        if first:
            self.last_best = self.best_value


def _first(row: Tensor, images: Tensor, point: Tensor, size: float) -> _State:
    nothing = torch.zeros(len(row), device=images.device)
    lowest = torch.full_like(nothing, -torch.inf)
    halved = torch.ones_like(nothing, dtype=torch.bool)
    return _State(
        row, images, point, point, point, nothing, point, point, lowest,
        torch.full_like(nothing, size), nothing.clone(), nothing, halved,
    )  # fmt: skip


def _where(rows: Tensor, yes: Tensor, no: Tensor) -> Tensor:
    return torch.where(per_sample(rows, yes), yes, no)


CE = APGD(loss="ce")
DLR = APGD(loss="dlr")
TARGETED = APGD(loss="dlr", targets=9)
