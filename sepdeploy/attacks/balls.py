"""The set of allowed perturbed images: an L∞ or L2 ball around each image, cut with [0, 1].

Rounding never leaves the ball: bounds are rounded towards the image, so |x' - x| <= eps holds for
the float32 numbers themselves and not only up to an ulp.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from sepdeploy.attacks.draws import derive_seed
from sepdeploy.attacks.noise import gaussian, uniform

TINY = 1e-12  # keeps 0/0 away for a zero gradient; far below any gradient that matters


class Ball(Protocol):
    """What a projected gradient attack needs to know about its constraint."""

    def start(self, seed: int, ids: Tensor) -> Tensor:
        """Return a random point of the set, uniform in the ball before the cut with [0, 1]."""
        ...

    def step(self, point: Tensor, gradient: Tensor, size: float) -> Tensor:
        """Take the steepest ascent step of length ``size`` and project it back."""
        ...

    def direction(self, gradient: Tensor) -> Tensor:
        """Return the steepest direction, of length 1 in the ball's norm per sample."""
        ...

    def project(self, point: Tensor) -> Tensor:
        """Return the point moved into the set; may overwrite its argument."""
        ...

    def finish(self, point: Tensor) -> Tensor:
        """Return the point with the constraint holding exactly in float32."""
        ...


class LinfBall:
    """All x' in [0, 1] with max |x' - x| <= eps."""

    def __init__(self, images: Tensor, eps: float) -> None:
        self.images = images
        self.eps = float32_floor(eps)
        exact = images.double()
        self.lower = _towards(images, (exact - self.eps).clamp_(min=0))
        self.upper = _towards(images, (exact + self.eps).clamp_(max=1))

    def start(self, seed: int, ids: Tensor) -> Tensor:
        """Return x + eps·u with u uniform in (-1, 1), cut to the set."""
        noise = uniform(seed, ids, self.images.shape[1:])
        return self.project(noise.mul_(self.eps).add_(self.images))

    def step(self, point: Tensor, gradient: Tensor, size: float) -> Tensor:
        """Move every value by ``size`` along the gradient's sign."""
        return self.project(torch.add(point, gradient.sign(), alpha=size))

    def direction(self, gradient: Tensor) -> Tensor:
        """Return the gradient's sign."""
        return gradient.sign()

    def project(self, point: Tensor) -> Tensor:
        """Return the nearest point of the set (in place)."""
        return torch.clamp(point, self.lower, self.upper, out=point)

    def finish(self, point: Tensor) -> Tensor:
        """Return the point: its bounds are exact already."""
        return point


class L2Ball:
    """All x' in [0, 1] with ‖x' - x‖₂ <= eps per sample."""

    def __init__(self, images: Tensor, eps: float) -> None:
        self.images = images
        self.eps = float32_floor(eps)

    def start(self, seed: int, ids: Tensor) -> Tensor:
        """Return x + eps·u^(1/d)·g/‖g‖ with g normal: uniform in the ball, then cut."""
        shape = self.images.shape[1:]
        direction = gaussian(seed, ids, shape).double()
        radius = (uniform(derive_seed(seed, 1), ids, (1,)).double().add_(1)) / 2
        radius = self.eps * radius.pow(1 / max(1, shape.numel()))
        delta = direction * (per_sample(radius, direction) / _norm(direction).clamp_(min=TINY))
        return (self.images + delta.float()).clamp_(0, 1)

    def step(self, point: Tensor, gradient: Tensor, size: float) -> Tensor:
        """Move by ``size`` along the gradient scaled to length 1 per sample."""
        scale = size / _norm(gradient).clamp_(min=TINY)
        return self.project(torch.addcmul(point, gradient, scale.expand_as(gradient)))

    def direction(self, gradient: Tensor) -> Tensor:
        """Return the gradient at length 1 per sample."""
        return gradient / _norm(gradient).clamp_(min=TINY)

    def project(self, point: Tensor) -> Tensor:
        """Scale the perturbation back onto the ball, then cut to [0, 1] (which shortens it)."""
        delta = point - self.images
        scale = (self.eps / _norm(delta).clamp_(min=TINY)).clamp_(max=1)
        return torch.addcmul(self.images, delta, scale.expand_as(delta)).clamp_(0, 1)

    def finish(self, point: Tensor) -> Tensor:
        """Shorten what rounding made longer than eps, rounding every value towards the image."""
        delta = point.double() - self.images.double()
        norm = _norm(delta)
        # the margin covers the rounding of the norm itself (d·2⁻⁵³ relative)
        shrink = torch.where(norm > self.eps, self.eps / norm.clamp(min=TINY) * (1 - 1e-9), 1.0)
        return _towards(self.images, self.images.double() + delta * shrink)


BALLS: dict[str, type[LinfBall] | type[L2Ball]] = {"linf": LinfBall, "l2": L2Ball}


def float32_floor(value: float) -> float:
    """Return the largest float32 number that is not above ``value``."""
    nearest = np.float32(value)
    if float(nearest) > value:
        nearest = np.nextafter(nearest, np.float32(-np.inf))
    return float(nearest)


def _towards(images: Tensor, target: Tensor) -> Tensor:
    """Round float64 ``target`` to float32 so that it comes no further from ``images``."""
    rounded = target.float()
    overshoot = (rounded.double() - target) * (target - images.double()) > 0
    return torch.where(overshoot, torch.nextafter(rounded, images), rounded)


def _norm(delta: Tensor) -> Tensor:
    """Return the L2 norm per sample, shaped to broadcast over ``delta``."""
    return per_sample(delta.flatten(1).norm(dim=1), delta)


def per_sample(values: Tensor, like: Tensor) -> Tensor:
    """Return (N,) values shaped to broadcast over ``like``."""
    return values.reshape(-1, *[1] * (like.dim() - 1))
