"""The L2 attack of Carlini and Wagner (2017): the shortest perturbation that changes the class.

x' = (tanh w + 1)/2 keeps the box; Adam minimises ‖x' − x‖² + c·max(z_y − max_{i≠y} z_i, 0), and c
is searched by halving: smaller where it succeeded, larger where not. What is found within eps
fells the image, so the answer is one of a ball although the attack knows none.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sepdeploy.attacks.balls import BALLS
from sepdeploy.attacks.goals import Goal, margin
from sepdeploy.attacks.gradient import Made, frozen, gradient_of, usable
from sepdeploy.attacks.losses import right
from sepdeploy.attacks.scores import Scores, scores_of
from sepdeploy.attacks.standing import Standing
from sepdeploy.threat import Attack

INSIDE = 1 - 1e-6  # keeps atanh of a black or white pixel finite
LARGEST = 1e10  # the weight of an image that was never fooled


@dataclass(frozen=True, kw_only=True)
class CarliniWagner:
    """Calling it attacks a batch, see ``attacks.run``; ``steps`` of the attack are Adam's.

    Attributes:
        searches: Of the weight c.
        weight: The first c.
        rate: Learning rate of Adam.
    """

    searches: int = 9
    weight: float = 1e-2
    rate: float = 1e-2

    def __call__(
        self, model: nn.Module, images: Tensor, labels: Tensor, ids: Tensor, attack: Attack
    ) -> Made:
        """Return points within eps that fell an image, and the images without one."""
        scores = scores_of(model)
        standing = Standing(scores, images, labels)
        rows, goal = standing.rows, standing.goal()
        low, high = torch.zeros(len(rows)), torch.full((len(rows),), LARGEST)
        low, high = low.to(images.device), high.to(images.device)
        weight = torch.full_like(low, self.weight)
        with frozen(model):
            for _ in range(self.searches):
                if not len(rows):
                    break
                fooled, point = self._descend(scores, images[rows], goal, weight, attack)
                high = torch.where(fooled, torch.minimum(high, weight), high)
                low = torch.where(fooled, low, torch.maximum(low, weight))
                weight = torch.where(high < LARGEST, (low + high) / 2, weight * 10)
                inside = self._inside(scores, images[rows], point, goal, attack) & fooled
                standing.fell(rows[inside], point[inside])
                left = ~inside
                rows, goal = rows[left], goal.kept(left)
                low, high, weight = low[left], high[left], weight[left]
        return standing.made()

    def _descend(
        self, scores: Scores, images: Tensor, goal: Goal, weight: Tensor, attack: Attack
    ) -> tuple[Tensor, Tensor]:
        """Return which images were fooled on the way, and the nearest points that did."""
        start = torch.atanh((images * 2 - 1) * INSIDE)
        hidden = start.clone().requires_grad_(True)
        nearest = torch.full_like(weight, torch.inf)
        best = images.clone()
        adam = torch.optim.Adam([hidden], lr=self.rate)
        for _ in range(attack.steps):
            with torch.enable_grad():
                point = (torch.tanh(hidden) + 1) / 2
                over = margin(scores(point), goal)
                length = (point - images).flatten(1).square().sum(dim=1)
                wanted = (length + weight * (-over).clamp(min=0)).sum()
                hidden.grad, _ = usable(gradient_of(wanted, hidden))
            closer = (over.detach() > 0) & (length.detach() < nearest)
            nearest = torch.where(closer, length.detach(), nearest)
            best[closer] = point.detach()[closer]
            adam.step()
        return nearest.isfinite(), best

    def _inside(
        self, scores: Scores, images: Tensor, point: Tensor, goal: Goal, attack: Attack
    ) -> Tensor:
        """Move points exactly into the ball (in place); tell which are wrong there."""
        ball = BALLS[attack.norm](images, attack.eps)
        with torch.no_grad():
            point.copy_(ball.finish(ball.project(point)))
            return ~right(scores(point), goal.labels)


L2 = CarliniWagner()
