"""Fast adaptive boundary attack, targeted (Croce and Hein 2020b): looks for the nearest boundary.

Where the loss of an ascent is flat, the distance to a decision boundary is not: each step goes to
the boundary between the true class and one other, as if the network were linear, pulled towards
the image, and back towards it where the point is over.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn

from sepdeploy.attacks.balls import BALLS, per_sample
from sepdeploy.attacks.draws import derive_seed
from sepdeploy.attacks.goals import Goal, margin
from sepdeploy.attacks.gradient import Made
from sepdeploy.attacks.losses import right
from sepdeploy.attacks.scores import Scores
from sepdeploy.attacks.standing import Standing, evaluated, slope
from sepdeploy.threat import Attack

NEAR = 1 + 1e-5  # how far beyond eps a point may lie that is then moved into the ball
NEWTON_STEPS = 40  # a bound; about six are taken

LENGTHS: dict[str, Callable[[Tensor], Tensor]] = {
    "linf": lambda delta: delta.flatten(1).abs().amax(dim=1),
    "l2": lambda delta: delta.flatten(1).norm(dim=1),
}


@dataclass(frozen=True, kw_only=True)
class FAB:
    """Calling it attacks a batch, see ``attacks.run``.

    Attributes:
        targets: The most likely other classes are aimed at one after the other.
        alpha_max: Largest weight of the projection of the image against that of the point.
        overshoot: How far a step goes beyond the boundary.
        backward: What is left of the perturbation of a point that is over.
    """

    targets: int = 9
    alpha_max: float = 0.1
    overshoot: float = 1.05
    backward: float = 0.9

    def __call__(
        self, model: nn.Module, images: Tensor, labels: Tensor, ids: Tensor, attack: Attack
    ) -> Made:
        """Return points within eps that fell an image, and the images without one."""

        def climb(standing: Standing, start: int, aim: int | None) -> None:
            point = images[standing.rows]
            if start:  # the first search begins at the image itself
                ball = BALLS[attack.norm](point, attack.eps)
                seed = derive_seed(attack.seed, start, aim or 0)
                point = ball.finish(ball.start(seed, ids[standing.rows]))
            self._search(standing, point, attack, aim)

        return evaluated(model, images, labels, attack, climb, targets=self.targets)

    def _search(self, standing: Standing, point: Tensor, attack: Attack, aim: int | None) -> None:
        """Go along the boundary with one class."""
        length, goal, scores = LENGTHS[attack.norm], standing.goal(aim), standing.scores
        found = slope(scores, point, goal, margin)
        rows = standing.rows
        state = _State(rows, standing.images[rows], point, found.gradient, found.value)
        for _ in range(attack.steps):
            state.point = self._towards_boundary(state, attack.norm)
            with torch.no_grad():  # most are over and turn back: their gradient here is not asked
                wrong = ~right(scores(state.point), goal.labels)
            close = wrong & (length(state.point - state.images) <= attack.eps * NEAR)
            fallen = self._confirmed(scores, state, goal, attack, close)
            if fallen.any():
                standing.fell(state.row[fallen], state.point[fallen])
                left = ~fallen
                state, goal, wrong = state.kept(left), goal.kept(left), wrong[left]
            if not len(state.row):
                return
            back = torch.lerp(state.images, state.point, self.backward)
            state.point = torch.where(per_sample(wrong, back), back, state.point)
            found = slope(scores, state.point, goal, margin)
            standing.lacked(state.row[found.blind])
            state.value, state.gradient = found.value, found.gradient

    def _towards_boundary(self, state: _State, norm: str) -> Tensor:
        """Step to the linearised boundary from the point and from the image, and mix the two."""
        image, point, slope = state.images, state.point, state.gradient
        lag = -state.value  # what the difference of logits must rise by, seen from the point
        lag_of_image = lag + (slope * (point - image)).flatten(1).sum(dim=1)
        both = nearest(
            torch.cat([point, image]), slope.repeat(2, *[1] * (slope.dim() - 1)),
            torch.cat([lag, lag_of_image]), norm,
        )  # fmt: skip
        from_point, from_image = both.chunk(2)
        length = LENGTHS[norm]
        near, far = length(from_point).clamp(min=1e-8), length(from_image).clamp(min=1e-8)
        alpha = per_sample((near / (near + far)).clamp(max=self.alpha_max), point)
        reached = torch.lerp(
            point + self.overshoot * from_point, image + self.overshoot * from_image, alpha
        )
        return reached.clamp_(0, 1)

    def _confirmed(
        self, scores: Scores, state: _State, goal: Goal, attack: Attack, close: Tensor
    ) -> Tensor:
        """Move close points exactly into the ball; tell which are still wrong there."""
        fallen = torch.zeros_like(close)
        if close.any():
            ball = BALLS[attack.norm](state.images[close], attack.eps)
            inside = ball.finish(ball.project(state.point[close]))
            with torch.no_grad():
                fallen[close] = ~right(scores(inside), goal.labels[close])
            state.point[close] = inside
        return fallen


@dataclass
class _State:
    """One row a standing image."""

    row: Tensor
    images: Tensor
    point: Tensor
    gradient: Tensor
    value: Tensor

    def kept(self, rows: Tensor) -> _State:
        return _State(*(getattr(self, f.name)[rows] for f in fields(self)))


def nearest(point: Tensor, slope: Tensor, rise: Tensor, norm: str) -> Tensor:
    """Return the shortest displacement d with slope·d = rise and point + d in [0, 1].

    Along the shortest way every coordinate moves by min(λ·speed, room): speed 1 in L∞ and |w| in
    L2, room to the border of the box. What it gains, Σ |w| min(λ·speed, room), is concave and
    piecewise linear in λ, so Newton's method from 0 climbs to the λ sought in a few steps, without
    sorting.

    Args:
        point: (N, ...) in [0, 1].
        slope: (N, ...).
        rise: (N,), of any sign.
        norm: "linf" or "l2": which length is the shortest.

    Returns:
        The shape of ``point``; where the hyperplane misses the box, the way to the corner that
        comes closest to it.
    """
    ascent = slope * per_sample(torch.sign(rise), slope)
    weight, heading = ascent.abs(), ascent.sign()
    # 1 - x upwards and x downwards; in numbers, as choosing by truth values takes five times longer
    room = torch.addcmul((heading + 1).mul_(0.5), heading, point, value=-1)
    speed = torch.ones_like(per_sample(rise, point)) if norm == "linf" else weight
    gain = weight * speed
    want, scale = rise.abs(), torch.zeros_like(rise)
    for _ in range(NEWTON_STEPS):
        way = torch.minimum(per_sample(scale, point) * speed, room)
        have = (weight * way).flatten(1).sum(dim=1)
        steepness = (gain * (room - way).sign_()).flatten(1).sum(dim=1)
        missing = want - have
        climbing = (missing > 1e-6 * want) & (steepness > 0)
        if not climbing.any():
            break
        scale = torch.where(climbing, scale + missing / steepness.clamp(min=1e-38), scale)
    missed = (missing > 1e-6 * want) & (steepness <= 0)
    reach = per_sample(torch.where(missed, torch.inf, scale), point) * speed
    return torch.minimum(reach.nan_to_num_(0.0, torch.inf), room) * heading


TARGETED = FAB()
