"""A bias with a number per place of each mode: b = p ⊕ q, that is b_ij = p_i + q_j.

Wide Kronecker layers store few weights, and a bias per output can outweigh them: 64×64 outputs
have 4,096 numbers, or 64 + 64.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import reduce

import numpy as np

from sepdeploy.structures.base import Array


def spread_bias(parts: Sequence[Array]) -> Array:
    """The bias per output, (Π o_m,), of one vector (o_m,) per mode."""
    return np.asarray(reduce(np.add.outer, parts)).reshape(-1)


def nearest_bias(bias: Array, out_shape: Sequence[int]) -> tuple[Array, ...]:
    """The vectors whose sum over the modes is nearest to a bias per output, by least squares.

    They are the means over all other modes, from which the mean of all is taken away but for an
    equal share each; constants that could move between the vectors are so spread evenly.

    Args:
        bias: (Π out_shape,).
        out_shape: o_1 … o_d.
    """
    grid = np.asarray(bias, dtype=np.float64).reshape(tuple(out_shape))
    modes = range(grid.ndim)
    twice = grid.mean() * (1 - 1 / grid.ndim)
    return tuple(grid.mean(axis=tuple(m for m in modes if m != mode)) - twice for mode in modes)


def bias_copies(out_shape: Sequence[int]) -> tuple[int, ...]:
    """How many outputs each number of a mode's vector is added to."""
    return tuple(math.prod(out_shape) // o for o in out_shape)
