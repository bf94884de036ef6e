"""The chain nearest to a dense matrix: singular vectors of two-factor splits, then polished.

Every entry of a product that densifies is one path through the chain: it is a product of one
entry of each factor, never a sum. So a chain cut in two makes many sub-matrices that are of rank
one each, whose best approximation is a leading singular pair; both halves are cut again. The
least-squares problem of one factor, all others held, falls apart into one number an entry.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from sepdeploy.structures.base import Array
from sepdeploy.structures.debut.chain import Chain, merge_all, with_steps
from sepdeploy.structures.singular import relative_residual

SWEEPS = 10
SMALLEST_GAIN = 1e-4  # of the error, per sweep


def project_matrix(
    matrix: Array, chain: Chain, sweeps: int = SWEEPS
) -> tuple[list[Array], tuple[float, ...]]:
    """The factors of a chain nearest to a matrix, a local optimum.

    Args:
        matrix: (p, q) of the chain's own sizes, finite.
        chain: The factors' shapes.
        sweeps: Largest number of alternating sweeps, forth and back each.

    Returns:
        The factors (G·t, r, s), input side first, and ‖F − F̂‖/‖F‖ after the splits and after each
        sweep; it never rises.
    """
    total = float(np.vdot(matrix, matrix))
    factors = [f[0] for f in _split(matrix[None], chain)]
    errors = [_error(matrix, chain, factors)]
    for _ in range(sweeps if len(chain) > 1 and total else 0):
        kept = _sweep(matrix, chain, factors)
        rest = max(0.0, 1 - kept / total)
        errors.append(math.sqrt(rest) if rest > 1e-6 else _error(matrix, chain, factors))
        if errors[-2] - errors[-1] < SMALLEST_GAIN * errors[-2]:
            break
    return factors, tuple(errors)


def _split(stack: Array, chain: Chain) -> list[Array]:
    """Factors of a stack of matrices (m, p, q), each with a leading axis m."""
    if len(chain) == 1:
        return [stack[:, None]]
    middle = _balanced_cut(chain)
    right, left = (with_steps([f[:2] for f in part]) for part in (chain[:middle], chain[middle:]))
    r_in, s_in, r_out, s_out = (
        math.prod(f[place] for f in part) for part in (right, left) for place in (0, 1)
    )
    m = len(stack)
    # rows are (d, b), columns (c, a): one sub-matrix over d and a for each b and c
    parts = stack.reshape(m, r_out, r_in, s_out, s_in).transpose(0, 2, 3, 1, 4)
    outer, inner = _leading_pairs(parts)
    lefts = outer.transpose(0, 1, 3, 2)  # (m, b, d, c): a matrix for each b
    rights = inner.transpose(0, 2, 1, 3)  # (m, c, b, a): one for each c
    low = _split(np.ascontiguousarray(rights).reshape(m * s_out, r_in, s_in), right)
    high = _split(np.ascontiguousarray(lefts).reshape(m * r_in, r_out, s_out), left)
    lower = [f.reshape(m, -1, *f.shape[2:]) for f in low]
    upper = [
        f.reshape(m, r_in, *f.shape[1:]).swapaxes(1, 2).reshape(m, -1, *f.shape[2:]) for f in high
    ]
    return [*lower, *upper]


def _balanced_cut(chain: Chain) -> int:
    """Where the two halves store least, as single factors."""

    def stored(cut: int) -> int:
        (r1, s1), (r2, s2) = (
            [math.prod(f[place] for f in part) for place in (0, 1)]
            for part in (chain[:cut], chain[cut:])
        )
        return r1 * s2 * (s1 + r2)

    return min(range(1, len(chain)), key=stored)


def _leading_pairs(parts: Array) -> tuple[Array, Array]:
    """Vectors u (…, d) and v (…, a) of the best u vᵀ that share its scale, by the Gram matrix."""
    rows, columns = parts.shape[-2:]
    if rows == 1:
        return np.ones(parts.shape[:-1]), parts[..., 0, :]
    if columns == 1:
        return parts[..., 0], np.ones((*parts.shape[:-2], 1))
    if rows > columns:
        inner, outer = _leading_pairs(parts.swapaxes(-1, -2))
        return outer, inner
    left = np.linalg.eigh(parts @ parts.swapaxes(-1, -2))[1][..., -1]
    right = np.einsum("...d,...da->...a", left, parts)
    sigma = np.linalg.norm(right, axis=-1, keepdims=True)
    root = np.sqrt(sigma)
    return left * root, right / np.maximum(root, np.finfo(float).tiny)


def _sweep(matrix: Array, chain: Chain, factors: list[Array]) -> float:
    """Solve for every factor forth and back, in place; return <F, F̂> = ‖F̂‖² at the end."""
    count = len(chain)
    behind = _behind(chain, factors)
    before: list[Array | None] = [None]
    for k in range(count - 1):
        _solve(matrix, chain, factors, k, before[k], behind[k + 1])
        before.append(merge_all(chain, factors[: k + 1]))
    after: Array | None = None
    for k in reversed(range(count)):
        kept = _solve(matrix, chain, factors, k, before[k], after)
        if k:
            after = factors[k] if after is None else _join(chain, factors[k], after, k)
    return kept


def _behind(chain: Chain, factors: Sequence[Array]) -> list[Array | None]:
    """The product of the factors from k on, for each k, and None behind the last."""
    found: list[Array | None] = [None] * (len(chain) + 1)
    found[-2] = factors[-1]
    for k in reversed(range(1, len(chain) - 1)):
        product = found[k + 1]
        assert product is not None, "made before"
        found[k] = _join(chain, factors[k], product, k)
    return found


def _join(chain: Chain, factor: Array, product: Array, k: int) -> Array:
    return merge_all((chain[k],), [factor, product])


def _solve(
    matrix: Array,
    chain: Chain,
    factors: list[Array],
    k: int,
    before: Array | None,
    behind: Array | None,
) -> float:
    """The best factor k with the others held; returns <F, F̂>.

    F[(d,b,τ), (g,a,j)] ≈ L[(b,τ),d,g] · W[g,τ,b,a] · R[(g,a),τ,j].
    """
    r, s, t = chain[k]
    stack = len(factors[k])
    groups = stack // t
    left = np.ones((r * t, 1, groups)) if behind is None else behind
    right = np.ones((groups * s, t, 1)) if before is None else before.reshape(groups * s, t, -1)
    d, j = left.shape[1], right.shape[2]
    L = left.reshape(r, t, d, groups)
    R = right.reshape(groups, s, t, j)
    F = matrix.reshape(d, r, t, groups, s, j)
    # contract j first, which is contiguous: (g, a, τ) batches of (d·b, j) with (j,)
    parts = F.transpose(3, 4, 2, 0, 1, 5).reshape(groups, s, t, d * r, j)
    seen = (parts @ R[..., None])[..., 0].reshape(groups, s, t, d, r)
    dot = np.einsum("gatdb,btdg->gtba", seen, L, optimize=True)
    norms = np.einsum("btg,gat->gtba", (L * L).sum(axis=2), (R * R).sum(axis=3))
    solved = dot / np.where(norms > 0, norms, 1)
    solved = np.where(norms > 0, solved, factors[k].reshape(groups, t, r, s))
    factors[k] = solved.reshape(stack, r, s)
    return float(np.vdot(dot, solved))


def _error(matrix: Array, chain: Chain, factors: Sequence[Array]) -> float:
    product = merge_all(chain, factors)[0]
    return relative_residual(matrix, product, np.eye(matrix.shape[1]), np.zeros(1))
