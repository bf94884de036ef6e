"""Random numbers that belong to a sample, not to a batch.

Every value is a hash of (seed, sample id, position), so the start of an attack on one image is
the same whatever batch, order, process or device the image appears in. The hash is SplitMix64
(Steele, Lea, Flood 2014) on 64-bit integers; its exact integer arithmetic makes the uniform
numbers bit-identical everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from sepdeploy.attacks.draws import FIRST, GOLDEN, SECOND, derive_seed

BITS = 23  # of a uniform number: 2k+1 < 2**24 is still exact in float32


def uniform(seed: int, ids: Tensor, shape: Sequence[int]) -> Tensor:
    """Return float32 numbers uniform in (-1, 1), one block of ``shape`` per sample.

    Args:
        seed: Any integer.
        ids: (N,) int64 sample ids; the device of the result is theirs.
        shape: Shape of one sample.

    Returns:
        (N, *shape); row n depends on ``seed`` and ``ids[n]`` only. Symmetric about 0, which
        itself never occurs.
    """
    odd = _odd_integers(seed, ids, math.prod(shape))
    return odd.sub_(1 << BITS).to(torch.float32).mul_(2.0**-BITS).reshape(-1, *shape)


def gaussian(seed: int, ids: Tensor, shape: Sequence[int]) -> Tensor:
    """Return float32 standard normal numbers, one block of ``shape`` per sample (Box-Muller)."""
    count = math.prod(shape)
    half = (count + 1) // 2
    u = _odd_integers(seed, ids, 2 * half).to(torch.float64).mul_(2.0 ** -(BITS + 1))
    radius = torch.sqrt(-2 * torch.log(u[:, :half]))
    angle = 2 * math.pi * u[:, half:]
    both = torch.cat([radius * torch.cos(angle), radius * torch.sin(angle)], dim=1)
    return both[:, :count].to(torch.float32).reshape(-1, *shape)


def _odd_integers(seed: int, ids: Tensor, count: int) -> Tensor:
    """Return (N, count) odd int64 numbers in 1 .. 2**24 - 1; two from each 64-bit hash."""
    key = _mix(_mix((ids + _signed(derive_seed(seed))) * _signed(GOLDEN)))
    half = (count + 1) // 2
    counter = torch.arange(1, half + 1, dtype=torch.int64, device=ids.device) * _signed(GOLDEN)
    word = _mix(key[:, None] + counter)
    mask = ((1 << BITS) - 1) << 1
    pair = torch.cat([_shift(word, 64 - BITS - 1), _shift(word, 64 - 2 * BITS - 2)], dim=1)
    return pair.bitwise_and_(mask).bitwise_or_(1)[:, :count]


def _mix(z: Tensor) -> Tensor:
    z = z.bitwise_xor(_shift(z, 30)).mul_(_signed(FIRST))
    z.bitwise_xor_(_shift(z, 27)).mul_(_signed(SECOND))
    return z.bitwise_xor_(_shift(z, 31))


def _shift(z: Tensor, by: int) -> Tensor:
    """Logical right shift; torch's own shift of int64 copies the sign bit."""
    return z.bitwise_right_shift(by).bitwise_and_((1 << (64 - by)) - 1)


def _signed(word: int) -> int:
    return word - (1 << 64) if word >= 1 << 63 else word
