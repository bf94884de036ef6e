"""The shortest way from a point of the box [0, 1]^d to a hyperplane, inside the box.

Along the shortest way every coordinate moves by min(λ·speed, room): speed 1 in L∞ and |w| in L2,
room to the border of the box. What it gains, Σ |w| min(λ·speed, room), is concave and piecewise
linear in λ, so Newton's method from 0 climbs to the λ sought in a few steps, without sorting.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from sepdeploy.attacks.balls import per_sample

NEWTON_STEPS = 40  # a bound; about six are taken

LENGTHS: dict[str, Callable[[Tensor], Tensor]] = {
    "linf": lambda delta: delta.flatten(1).abs().amax(dim=1),
    "l2": lambda delta: delta.flatten(1).norm(dim=1),
}


def nearest(point: Tensor, slope: Tensor, rise: Tensor, norm: str) -> Tensor:
    """Return the shortest displacement d with slope·d = rise and point + d in [0, 1].

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
    weight = ascent.abs()
    room = torch.where(ascent > 0, 1 - point, point).clamp_(min=0)
    speed = torch.ones_like(weight) if norm == "linf" else weight
    gain = weight * speed
    want, scale = rise.abs(), torch.zeros_like(rise)
    for _ in range(NEWTON_STEPS):
        reach = per_sample(scale, point) * speed
        free = reach < room
        have = (weight * torch.minimum(reach, room)).flatten(1).sum(dim=1)
        steepness = (gain * free).flatten(1).sum(dim=1)
        missing = want - have
        climbing = (missing > 1e-6 * want) & (steepness > 0)
        if not climbing.any():
            break
        scale = torch.where(climbing, scale + missing / steepness.clamp(min=1e-38), scale)
    missed = (missing > 1e-6 * want) & (steepness <= 0)
    reach = per_sample(torch.where(missed, torch.inf, scale), point) * speed
    distance = torch.minimum(reach.nan_to_num_(0.0, torch.inf), room)
    return distance * ascent.sign()
