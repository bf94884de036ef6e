"""Seeds, and random numbers that belong to a sample, in numpy; ``noise`` has them in torch.

The hash is SplitMix64 (Steele, Lea, Flood 2014).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

GOLDEN = 0x9E3779B97F4A7C15
FIRST = 0xBF58476D1CE4E5B9
SECOND = 0x94D049BB133111EB
WORD = (1 << 64) - 1


def derive_seed(*parts: int) -> int:
    """Hash integers (a seed, an epoch, a restart, ...) into one seed, 0 <= seed < 2**63."""
    state = 0
    for part in parts:
        z = (state + GOLDEN + (part & WORD)) & WORD
        z = ((z ^ (z >> 30)) * FIRST) & WORD
        z = ((z ^ (z >> 27)) * SECOND) & WORD
        state = z ^ (z >> 31)
    return state >> 1


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
