"""How much of a matrix's energy a number of singular values keeps: what forms are compared by.

Errors come from singular values alone, so that hundreds of forms of a layer are compared for the
price of a few decompositions; nothing is projected before a plan is made.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Values = npt.NDArray[np.float64]

DOUBLE_SPECTRUM = 1500  # smaller side up to which all singular values are computed
SINGLE_SPECTRUM = 4600  # the same in single precision, good to 1e-3 of the largest: for ranking
LEADING, SPARE, POWERS = 40, 8, 2  # otherwise so many, by a randomised range finder
ROUNDING = 1e-12  # share of energy that is none
STEPS = 64  # ranks tried per layer


def lost_energy(matrix: Tensor) -> Values:
    """Share of energy lost when the first 0, 1, 2 … singular values are kept."""
    return tail(squares(matrix))


def squares(matrix: Tensor) -> Values:
    """Squared singular values, largest first, and what is left of the squared norm, last."""
    total = float(matrix.square().sum())
    small = min(matrix.shape)
    if small > SINGLE_SPECTRUM:
        squares = _leading_squares(matrix.float())
    else:
        M = matrix if small <= DOUBLE_SPECTRUM else matrix.float()
        G = M @ M.t() if M.shape[0] <= M.shape[1] else M.t() @ M
        squares = torch.linalg.eigvalsh(G).flip(0).clamp_min(0)
    found = squares.double().numpy()
    rest = max(0.0, total - float(found.sum())) if len(found) < small else 0.0
    return np.append(found, rest)


def _leading_squares(matrix: Tensor) -> Tensor:
    """A few squared singular values, from below, by subspace iteration with a fixed start."""
    start = torch.Generator().manual_seed(0)
    basis = torch.randn(matrix.shape[1], LEADING + SPARE, generator=start)
    for _ in range(POWERS):
        basis = torch.linalg.qr(matrix.t() @ (matrix @ basis)).Q
    squares: Tensor = torch.linalg.svdvals(matrix @ basis)[:LEADING].square()
    return squares


def tail(squares: Values) -> Values:
    """Share of energy lost when the first 0, 1, 2 … values are kept."""
    total = float(squares.sum()) or 1.0
    shares = np.cumsum(squares[::-1])[::-1] / total
    return np.where(shares > ROUNDING, shares, 0.0)


def spaced(largest: int) -> list[int]:
    """Whole numbers from 1 to ``largest``, all of the small ones and ever fewer of the others."""
    steps = np.geomspace(1, max(1, largest), STEPS).round().astype(int)
    return sorted({int(n) for n in steps} | set(range(1, min(largest, 8) + 1)))
