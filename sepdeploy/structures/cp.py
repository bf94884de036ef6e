"""Canonical polyadic decomposition by alternating least squares, for three modes and more."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from sepdeploy.structures.base import Array

MAX_SWEEPS = 300
SMALLEST_GAIN = 1e-10  # of the fit, per sweep


def decompose(
    tensor: Array, rank: int, sweeps: int = MAX_SWEEPS, *, seed: int = 0
) -> tuple[list[Array], float]:
    """The tensor as a sum of ``rank`` outer products, T ≈ Σ_k a_1k ∘ … ∘ a_dk.

    Starts from the leading singular vectors of the unfoldings (HOSVD) and solves for one mode
    after the other. The result is a local optimum; for rank 1 the start is close to the best.

    Args:
        tensor: d-dimensional array.
        rank: Number of terms.
        sweeps: At most so many; fewer where the fit gains no more.
        seed: For the directions that the unfoldings cannot give (rank above a mode's size).

    Returns:
        One (n_m, rank) matrix per mode, and ‖T − T'‖_F / ‖T‖_F (0 for a zero tensor).
    """
    total = float(np.vdot(tensor, tensor))
    if total == 0:
        return [np.zeros((n, rank)) for n in tensor.shape], 0.0
    rng = np.random.default_rng(seed)
    matrices = [_start(tensor, mode, rank, rng) for mode in range(tensor.ndim)]
    fit = -math.inf
    for _ in range(sweeps):
        for mode in range(tensor.ndim):
            others = [m.T @ m for k, m in enumerate(matrices) if k != mode]
            gram = math.prod(others[1:], start=others[0])
            projected = _project_but_one(tensor, matrices, mode)
            matrices[mode] = projected @ np.linalg.pinv(gram, hermitian=True)
        overlap = float(np.vdot(projected, matrices[-1]))  # <T, T'>, at the solution = ‖T'‖²
        before, fit = fit, overlap / total
        if fit - before < SMALLEST_GAIN:
            break
    return matrices, _residual(tensor, matrices, total, fit)


def _start(tensor: Array, mode: int, rank: int, rng: np.random.Generator) -> Array:
    unfolded = np.moveaxis(tensor, mode, 0).reshape(tensor.shape[mode], -1)
    vectors = np.linalg.eigh(unfolded @ unfolded.T)[1][:, ::-1][:, :rank]
    missing = rank - vectors.shape[1]
    return np.hstack([vectors, rng.standard_normal((len(vectors), missing))])


def _project_but_one(tensor: Array, matrices: Sequence[Array], mode: int) -> Array:
    """Contract every mode but one with its matrix, term by term: (n_mode, rank)."""
    d = tensor.ndim
    if d == 3 and mode < 2:  # one product with all pairs of the others, the last of them short
        first, last = matrices[1 - mode], matrices[2]
        pairs = (first[:, None, :] * last[None, :, :]).reshape(-1, last.shape[1])
        return np.asarray(np.moveaxis(tensor, mode, 0).reshape(len(matrices[mode]), -1) @ pairs)
    if mode < d - 1:  # the first contraction sees the whole tensor: make it a flat product
        state = tensor.reshape(-1, tensor.shape[-1]) @ matrices[-1]
        left = list(range(d - 1))
    else:
        state = tensor.reshape(tensor.shape[0], -1).T @ matrices[0]
        left = list(range(1, d))
    rank = state.shape[-1]
    for other in reversed([m for m in left if m != mode]):
        axis = left.index(other)
        sizes = [tensor.shape[m] for m in left]
        parts = state.reshape(math.prod(sizes[:axis]), sizes[axis], -1, rank)
        state = (parts * matrices[other][None, :, None, :]).sum(axis=1)
        left.remove(other)
    return state.reshape(tensor.shape[mode], rank)


def _residual(tensor: Array, matrices: Sequence[Array], total: float, fit: float) -> float:
    if 1 - fit > 1e-6:
        return math.sqrt(1 - fit)
    product = matrices[0]  # near an exact fit 1 − fit has lost its digits: form the difference
    for matrix in matrices[1:]:
        product = (product[:, None, :] * matrix[None, :, :]).reshape(-1, matrix.shape[1])
    difference: Array = tensor.reshape(-1) - product.sum(axis=1)
    return math.sqrt(float(np.vdot(difference, difference)) / total)
