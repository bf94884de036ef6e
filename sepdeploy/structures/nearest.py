"""The leading singular triplets of a matrix, without a full decomposition where it is large."""

from __future__ import annotations

import math

import numpy as np

from sepdeploy.structures.base import Array


def leading_triplets(matrix: Array, count: int) -> tuple[Array, Array, Array]:
    """Return (left (m, count), sigma (count,), right (n, count)), largest first."""
    left, sigma, right = np.linalg.svd(matrix, full_matrices=False)
    return left[:, :count], sigma[:count], right[:count].T


def relative_residual(matrix: Array, left: Array, right: Array, sigma: Array) -> float:
    """‖M − left·rightᵀ‖_F / ‖M‖_F, where ``sigma`` are the kept singular values.

    The closed form sqrt(1 − Σσ²_kept / ‖M‖²_F) loses all digits near an exact fit, where the
    residual is formed instead.
    """
    total = float(np.sum(matrix * matrix))
    if total == 0:
        return 0.0
    rest = 1 - float(np.sum(sigma * sigma)) / total
    if rest > 1e-6:
        return math.sqrt(rest)
    difference = matrix - left @ right.T
    return math.sqrt(float(np.sum(difference * difference)) / total)
