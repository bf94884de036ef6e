"""Leading singular triplets, of matrices and of operators that are only applied."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from sepdeploy.structures.base import Array

Product = Callable[[Array], Array]

FULL_DECOMPOSITION = 600  # up to this smaller side a full SVD is as quick as iterating
SMALL_MATRIX = 128  # up to this smaller side one singular value costs no less than all of them
GRAM_DECOMPOSITION = 1500  # above this one the full SVD goes through the smaller Gram matrix
SPARE_COLUMNS = 7  # a block wider than the count converges past clustered singular values
LARGEST_BASIS = 800


def block_lanczos(
    apply: Product,
    adjoint: Product,
    size_in: int,
    count: int,
    *,
    tolerance: float = 1e-9,
    seed: int = 0,
) -> tuple[Array, Array, Array, bool]:
    """The leading singular triplets of a linear operator by block Lanczos with Rayleigh-Ritz.

    The basis of the Krylov space of AᵀA is kept orthonormal in full; a block, not one vector,
    is started from, so that repeated singular values are found too.

    Args:
        apply: X (size_in, b) → A X (size_out, b).
        adjoint: Y (size_out, b) → Aᵀ Y (size_in, b).
        size_in: Number of columns of A.
        count: How many triplets.
        tolerance: ‖Aᵀu − σv‖ ≤ tolerance · σ_1 for all of them.
        seed: Of the random start.

    Returns:
        (left (m, count), sigma (count,), right (n, count), whether the tolerance was met).
    """
    rng = np.random.default_rng(seed)
    width = min(count + SPARE_COLUMNS, size_in)
    basis = np.linalg.qr(rng.standard_normal((size_in, width)))[0]
    image = apply(basis)
    while True:
        small, sigma, turn = np.linalg.svd(image, full_matrices=False)
        left, right = small[:, :count], basis @ turn[:count].T
        residual = adjoint(left) - right * sigma[:count]
        met = bool(np.linalg.norm(residual, axis=0).max() <= tolerance * sigma[0])
        if met or basis.shape[1] >= min(size_in, LARGEST_BASIS):
            return left, sigma[:count], right, met or basis.shape[1] >= size_in
        # Several blocks are added between two of the decompositions above, ever more of them.
        goal = min(2 * basis.shape[1], basis.shape[1] + 128, size_in)
        while basis.shape[1] < goal:
            added = _orthonormal_rest(adjoint(image[:, -width:]), basis, goal, rng)
            basis = np.hstack([basis, added])
            image = np.hstack([image, apply(added)])


def _orthonormal_rest(block: Array, basis: Array, goal: int, rng: np.random.Generator) -> Array:
    block = block[:, : goal - basis.shape[1]]
    norms = np.linalg.norm(block, axis=0)
    for _ in range(2):  # once is not enough in floating point, twice is
        block = block - basis @ (basis.T @ block)
    # Where the Krylov space is exhausted only rounding is left: go on with random directions.
    spent = np.linalg.norm(block, axis=0) <= 1e-13 * np.maximum(norms, np.finfo(float).tiny)
    block[:, spent] = rng.standard_normal((len(block), int(spent.sum())))
    block = np.linalg.qr(block - basis @ (basis.T @ block))[0]
    return np.linalg.qr(block - basis @ (basis.T @ block))[0]


def leading_triplets(matrix: Array, count: int) -> tuple[Array, Array, Array]:
    """Return (left (m, count), sigma (count,), right (n, count)) of a matrix, largest first.

    A few triplets of a large matrix are iterated for; where that does not converge, or many are
    wanted, all are computed.
    """
    smaller = min(matrix.shape)
    if smaller > FULL_DECOMPOSITION and count <= smaller // 16:
        found = block_lanczos(
            lambda x: matrix @ x, lambda y: matrix.T @ y, matrix.shape[1], count, tolerance=1e-7
        )
        if found[3]:
            return found[:3]
    if smaller > GRAM_DECOMPOSITION:
        return _through_gram(matrix, count)
    left, sigma, right = np.linalg.svd(matrix, full_matrices=False)
    return left[:, :count], sigma[:count], right[:count].T


def largest_singular_value(matrix: Array) -> float:
    """‖M‖₂ to about six digits; a large matrix is iterated with, in its own precision."""
    if min(matrix.shape) <= SMALL_MATRIX:
        sigma = np.linalg.svd(np.asarray(matrix, dtype=np.float64), compute_uv=False)
        return float(sigma[0])
    # a residual of 3e-4 leaves an error of its square where neighbours are not closer than that
    found = block_lanczos(
        lambda x: np.asarray(matrix @ x.astype(matrix.dtype), dtype=np.float64),
        lambda y: np.asarray(matrix.T @ y.astype(matrix.dtype), dtype=np.float64),
        matrix.shape[1],
        1,
        tolerance=3e-4,
    )
    return float(found[1][0])


def _through_gram(matrix: Array, count: int) -> tuple[Array, Array, Array]:
    """All eigenvectors of the smaller Gram matrix; a fraction of the time of a full SVD.

    Singular values below 1e-8 of the largest are not resolved, which matters to nobody who
    truncates.
    """
    if matrix.shape[0] < matrix.shape[1]:
        right, sigma, left = _through_gram(matrix.T, count)
        return left, sigma, right
    values, vectors = np.linalg.eigh(matrix.T @ matrix)
    right = np.ascontiguousarray(vectors[:, ::-1][:, :count])
    left = matrix @ right
    sigma = np.sqrt(np.maximum(values[::-1][:count], 0))
    return left / np.maximum(sigma, np.finfo(float).tiny), sigma, right


def relative_residual(matrix: Array, left: Array, right: Array, sigma: Array) -> float:
    """‖M − left·rightᵀ‖_F / ‖M‖_F, where ``sigma`` are the kept singular values.

    The closed form sqrt(1 − Σσ²_kept / ‖M‖²_F) loses all digits near an exact fit, where the
    residual is formed instead.
    """
    total = float(np.vdot(matrix, matrix))
    if total == 0:
        return 0.0
    rest = 1 - float(np.vdot(sigma, sigma)) / total
    if rest > 1e-6:
        return math.sqrt(rest)
    difference: Array = matrix - left @ right.T
    return math.sqrt(float(np.vdot(difference, difference)) / total)
