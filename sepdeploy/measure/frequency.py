"""Images in the Fourier plane: where their energy lies, what filters keep, what stripes mislead.

The plane holds the two-dimensional discrete Fourier transform of a channel. The radius of a
frequency is its distance from zero, the centre, where 1 is the finest wave along one axis (one
pixel up, one down) and √2 a chessboard; so it means the same on images of unequal sides. Bands by
distance from the centre are those of Wang et al. 2020 (arXiv 1905.13545), who have two; the
limits at one and two thirds are ours. Of a fine grid they hold 9, 26 and 65 % of all frequencies.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sepdeploy.measure.accuracy import rightly

Floats = npt.NDArray[np.float32]
Plane = npt.NDArray[np.float64]
Values = Floats | Plane
Answers = Callable[[Floats], Floats]

THIRD = 1 / 3
BANDS = {"low": (-1.0, THIRD), "mid": (THIRD, 2 * THIRD), "high": (2 * THIRD, math.inf)}
ROUNDING = 1e-9  # of a radius that lies on a border
MOST_A_SIDE = 32  # frequencies of a map along one axis; of larger images every so manieth is tried
CHUNK_VALUES = 1 << 21  # of images that are transformed at once


@dataclass(frozen=True)
class Grid:
    """The frequencies of a map, zero in the middle.

    Attributes:
        shape: (height, width) of the images.
        vertical: Waves from top to bottom, one number a row; negative ones lean the other way.
        horizontal: Waves from left to right, one a column.
    """

    shape: tuple[int, int]
    vertical: tuple[int, ...]
    horizontal: tuple[int, ...]

    def radii(self) -> Plane:
        """Return the radius of every frequency, (rows, columns)."""
        high, wide = self.shape
        v = 2 * np.array(self.vertical, dtype=np.float64)[:, None] / high
        return np.hypot(v, 2 * np.array(self.horizontal, dtype=np.float64) / wide)

    def of(self, plane: Plane) -> Plane:
        """Return the values at these frequencies of a plane (height, width) in NumPy's order."""
        taken: Plane = plane[np.ix_(self.vertical, self.horizontal)]
        return taken

    def twin(self, v: int, u: int) -> tuple[int, int]:
        """Return the frequency that stands for (v, u) and its opposite, which real waves share."""
        high, wide = self.shape
        return min((v % high, u % wide), (-v % high, -u % wide))


def grid_of(shape: tuple[int, int], most: int = MOST_A_SIDE) -> Grid:
    """Return the frequencies of images (height, width), at most some along each axis."""

    def along(n: int) -> tuple[int, ...]:
        apart = math.ceil(n / most)
        return tuple(k for k in range(-(n // 2), n - n // 2) if k % apart == 0)

    return Grid(shape, along(shape[0]), along(shape[1]))


def radii(shape: tuple[int, int]) -> Plane:
    """Return the radius of every frequency of images (height, width), in NumPy's order."""
    return np.hypot(2 * np.fft.fftfreq(shape[0])[:, None], 2 * np.fft.fftfreq(shape[1]))


def band(name: str, radius: Plane) -> npt.NDArray[np.bool_]:
    """Return which radii lie in a band; its inner border belongs to the band before it."""
    inner, outer = BANDS[name]
    return (radius > inner + ROUNDING) & (radius <= outer + ROUNDING)


def mean_spectrum(images: Values) -> tuple[Plane, int]:
    """Return the share of the energy at each frequency, as the mean over images.

    The energy of all channels is added. By Parseval's theorem it is that of the pixels.

    Args:
        images: (N, C, H, W), or differences of images.

    Returns:
        (H, W) in NumPy's order, with sum 1; and how many images had any energy. The others are
        left out; where all are, the shares are 0.
    """
    total, counted = np.zeros(images.shape[2:]), 0
    for part in _parts(images):
        power = (np.abs(np.fft.fft2(images[part].astype(np.float64))) ** 2).sum(axis=1)
        energy = power.sum(axis=(1, 2))
        some = energy > 0
        total += (power[some] / energy[some, None, None]).sum(axis=0)
        counted += int(some.sum())
    return total / max(counted, 1), counted


def low_pass(images: Values, cutoff: float) -> Floats:
    """Return images with the frequencies up to a radius alone, held in [0, 1].

    Args:
        images: (N, C, H, W) in [0, 1].
        cutoff: The largest radius that is kept.
    """
    return _filtered(images, radii(_sides(images)) <= cutoff + ROUNDING)


def high_pass(images: Values, cutoff: float) -> Floats:
    """Return images with the frequencies above a radius alone, held in [0, 1].

    The mean of each channel stays: pixels cannot be negative, so that without it half of every
    wave would be cut off.

    Args:
        images: (N, C, H, W) in [0, 1].
        cutoff: The largest radius that is taken out.
    """
    radius = radii(_sides(images))
    return _filtered(images, (radius > cutoff + ROUNDING) | (radius == 0))


def wave(shape: tuple[int, int], v: int, u: int) -> Plane:
    """Return the real image of Euclidean norm 1 whose transform is 0 but at ±(v, u).

    Args:
        shape: (height, width).
        v: Periods from top to bottom.
        u: Periods from left to right.
    """
    rows, columns = (np.arange(n) / n for n in shape)
    found: Plane = np.cos(2 * np.pi * (v * rows[:, None] + u * columns))
    return found / np.linalg.norm(found)


def heat_map(
    answers: Answers,
    images: Floats,
    labels: npt.NDArray[np.int64],
    norm: float,
    *,
    seed: int = 0,
    on_step: Callable[[int, int], None] = lambda done, of: None,
) -> tuple[Grid, Plane]:
    """Return the share of images that are misclassified with one wave added, for every frequency.

    The Fourier heat map of Yin et al. 2019 (arXiv 1906.08988): to each channel ±``norm`` times
    ``wave`` is added, the sign drawn per image and channel and the same for all frequencies;
    pixels are held in [0, 1].

    Args:
        answers: Maps images to logits (N, classes).
        images: (N, C, H, W) in [0, 1].
        labels: (N,) of the true classes.
        norm: Euclidean norm of what is added to a channel, pixels in [0, 1].
        seed: Of the signs.
        on_step: Told how many frequencies are done, and of how many.

    Returns:
        The frequencies, and the error at each, (rows, columns).
    """
    grid = grid_of(_sides(images))
    signs = np.random.default_rng(seed).choice((-norm, norm), (*images.shape[:2], 1, 1))
    asked = {grid.twin(v, u) for v in grid.vertical for u in grid.horizontal}
    errors: dict[tuple[int, int], float] = {}
    for v, u in sorted(asked):
        added, found = wave(grid.shape, v, u), 0
        for part in _parts(images):
            shifted = np.clip(images[part] + signs[part] * added, 0, 1).astype(np.float32)
            found += int(rightly(answers(shifted), labels[part]).sum())
        errors[v, u] = 1 - found / len(images)
        on_step(len(errors), len(asked))
    rows = [[errors[grid.twin(v, u)] for u in grid.horizontal] for v in grid.vertical]
    return grid, np.array(rows)


def _filtered(images: Values, kept: npt.NDArray[np.bool_]) -> Floats:
    parts = []
    for part in _parts(images):
        left = np.fft.ifft2(np.fft.fft2(images[part].astype(np.float64)) * kept).real
        parts.append(np.clip(left, 0, 1).astype(np.float32))
    return np.concatenate(parts)


def _parts(images: Values) -> Iterator[slice]:
    """Give the images in parts that fit the memory."""
    size = max(1, CHUNK_VALUES // math.prod(images.shape[1:]))
    for start in range(0, len(images), size):
        yield slice(start, start + size)


def _sides(images: Values) -> tuple[int, int]:
    high, wide = images.shape[2:]
    return high, wide
