"""In which order the modes of a Kronecker product are contracted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction


def contraction_macs(
    in_shape: Sequence[int], out_shape: Sequence[int], order: Sequence[int]
) -> int:
    """Multiply-accumulates of contracting the modes one after the other.

    For order π: Σ_k o_{π_k} · Π_{l<k} o_{π_l} · Π_{l≥k} i_{π_l}.
    """
    size = math.prod(in_shape)
    total = 0
    for mode in order:
        total += size * out_shape[mode]
        size = size // in_shape[mode] * out_shape[mode]
    return total


def best_order(in_shape: Sequence[int], out_shape: Sequence[int]) -> tuple[int, ...]:
    """The order of fewest multiply-accumulates, found by sorting instead of trying all d! orders.

    On a state of size S two neighbouring modes cost S·o_j + S·(o_j/i_j)·o_k with j first and
    S·o_k + S·(o_k/i_k)·o_j with k first, and the cost of all others does not depend on which.
    Dividing by S·o_j·o_k, j first is cheaper iff 1/i_j − 1/o_j < 1/i_k − 1/o_k. As this does not
    depend on S, sorting by 1/i − 1/o is optimal for any number of modes.

    On a tie the last mode goes first: it is contiguous in memory, so that starting there needs
    no transposition of the input.
    """

    def key(mode: int) -> tuple[Fraction, int]:
        return Fraction(1, in_shape[mode]) - Fraction(1, out_shape[mode]), -mode

    return tuple(sorted(range(len(in_shape)), key=key))
