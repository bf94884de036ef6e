"""Square attack: random search that sees nothing but logits (Andriushchenko et al. 2020).

No gradient: it attacks a file through its runtime, on a device too, and finds out where gradients
mislead. One query a step: a square of the perturbation is replaced (L∞) or gets the length of
another one (L2), and the change is kept where the margin falls. Squares shrink on a fixed schedule.

This file and ``draws`` are sent to devices with the runner: numpy and Python 3.9 alone.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sepdeploy.attacks.draws import Draws

Array = NDArray[np.float32]
Predict = Callable[[Array], Array]

# After these queries the share of pixels in a square halves.
HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
TILES = 5  # of the first L2 perturbation, a side


@dataclass(frozen=True)
class Search:
    """What decides a search beside the images.

    Attributes:
        norm: "linf" or "l2".
        eps: Radius.
        queries: Of each image and restart, the first point included.
        restarts: Of the images that stand.
        seed: Of everything random.
        share: Of the pixels that the first square covers.
    """

    norm: str
    eps: float
    queries: int
    restarts: int = 1
    seed: int = 0
    share: float = 0.8

    def run(
        self, predict: Predict, images: Array, labels: NDArray[np.int64], ids: NDArray[np.int64]
    ) -> Array:
        """Attack images that only a function of them is known of.

        Args:
            predict: Maps (M, ...) float32 to logits (M, classes).
            images: (N, ...) float32 in [0, 1]; the last two axes are the picture's.
            labels: (N,) of the true classes.
            ids: (N,), what the random numbers of each image are drawn for.

        Returns:
            (N, ...) float32 within the radius exactly: points that are classified wrongly, and
            the images that none was found for.
        """
        found = images.copy()
        standing = np.flatnonzero(_margin(predict(images), labels) > 0)
        for start in range(self.restarts):
            if not len(standing):
                break
            draws = Draws(self.seed + start, ids[standing])
            patches = PATCHES[self.norm](_as_pictures(images[standing]), self.eps, draws)
            fell, points = self._descend(predict, patches, labels[standing], images.shape[1:])
            found[standing[fell]] = points.reshape(-1, *images.shape[1:])
            standing = standing[~fell]
        return found

    def _descend(
        self,
        predict: Predict,
        patches: Patches,
        labels: NDArray[np.int64],
        shape: tuple[int, ...],
    ) -> tuple[NDArray[np.bool_], Array]:
        """Return which images fell, and their points in that order."""

        def margin(points: Array, rows: NDArray[np.int64]) -> Array:
            return _margin(predict(points.reshape(len(points), *shape)), labels[rows])

        count = len(labels)
        rows = np.arange(count)
        fell, points = np.zeros(count, bool), patches.point.copy()
        best = margin(patches.point, rows)
        for query in range(1, self.queries):
            down = best <= 0
            if down.any():
                fell[rows[down]] = True
                points[rows[down]] = patches.point[down]
                patches.keep(~down)
                rows, best = rows[~down], best[~down]
                if not len(rows):
                    break
            proposal = patches.propose(self.share / 2 ** bisect_left(HALVINGS, query))
            value = margin(proposal, rows)
            better = value < best
            patches.accept(better, proposal)
            best = np.where(better, value, best)
        else:
            down = best <= 0
            fell[rows[down]] = True
            points[rows[down]] = patches.point[down]
        return fell, points[fell]


class Patches(ABC):
    """The best points so far and how they are changed; rows are images.

    Args:
        images: (N, C, H, W) float32.
        eps: Radius.
        draws: Random numbers of the images.
    """

    point: Array

    def __init__(self, images: Array, eps: float, draws: Draws) -> None:
        self.images, self.eps, self.draws = images, eps, draws
        self.point = self.start()

    @abstractmethod
    def start(self) -> Array:
        """Return the first points."""

    @abstractmethod
    def propose(self, share: float) -> Array:
        """Return changed points; ``share`` of the pixels lie in a square."""

    def accept(self, rows: NDArray[np.bool_], proposal: Array) -> None:
        """Go on from the proposals of some rows."""
        self.point = np.where(rows[:, None, None, None], proposal, self.point)

    def keep(self, rows: NDArray[np.bool_]) -> None:
        """Go on with some rows alone."""
        self.images, self.point = self.images[rows], self.point[rows]
        self.draws.keep(rows)

    def window(self, side: int) -> tuple[NDArray[np.int64], ...]:
        """Return indices of a random square a row, which index (N, C, H, W) arrays."""
        _, channels, height, width = self.images.shape
        tall, wide = min(side, height), min(side, width)
        top = self.draws.below(height - tall + 1)
        left = self.draws.below(width - wide + 1)
        rows = np.arange(len(self.images))[:, None, None, None]
        down = (top[:, None] + np.arange(tall))[:, None, :, None]
        along = (left[:, None] + np.arange(wide))[:, None, None, :]
        return rows, np.arange(channels)[None, :, None, None], down, along

    def side(self, share: float) -> int:
        """Return the side of a square that covers a share of the picture."""
        height, width = self.images.shape[2:]
        return max(1, round(math.sqrt(share * height * width)))


class LinfPatches(Patches):
    """Every value stands at a border of the ball; a square flips to one border a channel."""

    def start(self) -> Array:
        """Vertical stripes."""
        self.low, self.high = bounds(self.images, self.eps)
        _, channels, _, width = self.images.shape
        up = self.draws.signs((channels, 1, width)) > 0
        return np.where(up, self.high, self.low)

    def propose(self, share: float) -> Array:
        """Put a square on the upper or the lower border."""
        at = self.window(self.side(share))
        up = self.draws.signs((self.images.shape[1], 1, 1)) > 0
        changed = self.point.copy()
        changed[at] = np.where(up, self.high[at], self.low[at])
        return changed

    def keep(self, rows: NDArray[np.bool_]) -> None:
        """As above, with the borders."""
        super().keep(rows)
        self.low, self.high = self.low[rows], self.high[rows]


class L2Patches(Patches):
    """The perturbation's length moves from one square to another (section 3.3 of the paper)."""

    def start(self) -> Array:
        """Tiles of bumps, one random sign a tile and channel."""
        _, channels, height, width = self.images.shape
        delta = np.zeros(self.images.shape, np.float32)
        tall, wide = max(1, height // TILES), max(1, width // TILES)
        bump = _bump(tall, wide)
        for top in range(0, height - tall + 1, tall):
            for left in range(0, width - wide + 1, wide):
                signs = self.draws.signs((channels, 1, 1))
                delta[:, :, top : top + tall, left : left + wide] = bump * signs
        return self._at(delta)

    def propose(self, share: float) -> Array:
        """Empty one square and give its length, and what the cut left unused, to another."""
        delta = self.point - self.images
        side = max(3, self.side(share)) | 1
        source, target = self.window(side), self.window(side)
        channels = self.images.shape[1]
        unused = np.maximum(self.eps**2 - _square_sum(delta, (1, 2, 3)), 0) / channels
        within = np.zeros(self.images.shape, bool)
        within[source] = within[target] = True
        moved = _square_sum(delta * within, (2, 3))
        old = delta[target]
        shape = _bump(*old.shape[2:]) * self.draws.signs((channels, 1, 1))
        shape = shape + old / (1e-12 + np.sqrt(_square_sum(old, (2, 3))))
        shape = shape / (1e-12 + np.sqrt(_square_sum(shape, (2, 3))))
        delta[source] = 0
        delta[target] = shape * np.sqrt(unused + moved)
        return self._at(delta)

    def _at(self, delta: Array) -> Array:
        """Return the point at length eps along a perturbation, cut to [0, 1]."""
        length = np.sqrt(_square_sum(delta, (1, 2, 3)))
        point = np.clip(self.images + delta / np.maximum(length, 1e-12) * self.eps, 0, 1)
        return shortened(self.images, point.astype(np.float32), self.eps)


PATCHES: dict[str, type[Patches]] = {"linf": LinfPatches, "l2": L2Patches}


def bounds(images: Array, eps: float) -> tuple[Array, Array]:
    """Return the least and the greatest float32 point of the L∞ ball cut with [0, 1]."""
    exact = images.astype(np.float64)
    radius = float(np.nextafter(np.float32(eps), np.float32(0)))
    radius = float(np.float32(eps)) if float(np.float32(eps)) <= eps else radius
    low, high = np.maximum(exact - radius, 0), np.minimum(exact + radius, 1)
    return _towards(images, low), _towards(images, high)


def shortened(images: Array, points: Array, eps: float) -> Array:
    """Return points whose L2 distance to the images, in float64, is not above eps."""
    delta = points.astype(np.float64) - images
    length = np.sqrt(_square_sum(delta, (1, 2, 3)))
    factor = np.where(length > eps, eps / np.maximum(length, 1e-300) * (1 - 1e-9), 1.0)
    return _towards(images, images + delta * factor)


def _towards(images: Array, target: NDArray[np.float64]) -> Array:
    """Round to float32 without coming further from the images."""
    rounded = target.astype(np.float32)
    beyond = (rounded - target) * (target - images) > 0
    return np.where(beyond, np.nextafter(rounded, images), rounded)


def _as_pictures(images: Array) -> Array:
    """Return (N, C, H, W); flat samples are one row of pixels."""
    if images.ndim == 4:
        return images
    return (
        images.reshape(len(images), -1, *images.shape[-2:])
        if images.ndim == 3
        else (images.reshape(len(images), 1, 1, -1))
    )


def _square_sum(values: NDArray[Any], axes: tuple[int, ...]) -> NDArray[Any]:
    total: NDArray[Any] = np.sum(np.square(values), axis=axes, keepdims=True)
    return total


def _bump(tall: int, wide: int) -> Array:
    """Return a square whose first half points up and whose second points down, of length 1.

    Each half is a sum of nested rectangles around its middle, the k-th of weight 1/k² from the
    outside, as η of the paper.
    """
    first = _hill(tall // 2, wide)
    both = np.concatenate([first, -_hill(tall - tall // 2, wide)]) if tall > 1 else _hill(1, wide)
    return (both / max(float(np.sqrt(np.sum(both**2))), 1e-12)).astype(np.float32)


def _hill(tall: int, wide: int) -> NDArray[np.float64]:
    hill = np.zeros((tall, wide))
    middle, centre = tall // 2, wide // 2
    for ring in range(max(middle, centre) + 1):
        rows = slice(max(0, middle - ring), middle + ring + 1)
        columns = slice(max(0, centre - ring), centre + ring + 1)
        hill[rows, columns] += 1.0 / (ring + 1) ** 2
    return hill


def _margin(logits: Array, labels: NDArray[np.int64]) -> Array:
    """Return z_y − max_{i≠y} z_i; not above 0 where the image is classified wrongly."""
    rows = np.arange(len(logits))
    own = logits[rows, labels]
    others = logits.copy()
    others[rows, labels] = -np.inf
    margins: Array = own - others.max(axis=1)
    return margins
