"""Random numbers that belong to a sample, in numpy: see ``noise``, whose hash this is."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sepdeploy.attacks.seeds import FIRST, GOLDEN, SECOND, derive_seed


class Draws:
    """Streams of random numbers, one an image, the same whatever batch the image is in.

    Args:
        seed: Of all streams.
        ids: (N,), one stream each.
    """

    def __init__(self, seed: int, ids: NDArray[np.int64]) -> None:
        start = np.uint64(derive_seed(seed))
        self._keys = _mix(_mix((ids.astype(np.uint64) + start) * np.uint64(GOLDEN)))
        self._count = 0

    def keep(self, rows: NDArray[np.bool_]) -> None:
        """Go on with some streams alone."""
        self._keys = self._keys[rows]

    def words(self, count: int) -> NDArray[np.uint64]:
        """Return (N, count) 64-bit numbers."""
        places = np.arange(self._count + 1, self._count + count + 1, dtype=np.uint64)
        self._count += count
        return _mix(self._keys[:, None] + places * np.uint64(GOLDEN))

    def below(self, bound: int) -> NDArray[np.int64]:
        """Return (N,) whole numbers in 0 .. bound - 1."""
        return (self.words(1)[:, 0] % np.uint64(bound)).astype(np.int64)

    def signs(self, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """Return (N, *shape) numbers that are -1 or 1."""
        bits = self.words(int(np.prod(shape))) >> np.uint64(63)
        return (bits.astype(np.float32) * 2 - 1).reshape(-1, *shape)


def _mix(z: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64's finaliser; products wrap around as they are meant to."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(FIRST)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(SECOND)
    return z ^ (z >> np.uint64(31))
