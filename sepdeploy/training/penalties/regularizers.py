"""Penalties on weight matrices: conditioning, spectrum, size and sparsity.

Pure functions of matrices (or stacks of them), evaluated in double precision whatever the
training runs in: determinants of 64×64 Gram matrices leave the range of float32, and a spectral
spread computed in bfloat16 is noise. Spectral terms work on the smaller Gram matrix, whose
eigenvalues are the squared singular values without structural zeros.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

TINY = 1e-60  # a zero matrix has a finite penalty and gradient
JITTER = 1e-6  # relative to the mean eigenvalue; keeps a singular matrix's penalty finite

Term = Callable[[Tensor], Tensor]
Matrices = Mapping[str, Sequence[Tensor]]


def condition_term(matrix: Tensor) -> Tensor:
    """Return φ(A) = log(tr G / k) − log det(G + δI) / k, averaged over a stack of matrices.

    G is the smaller Gram matrix of A and k its size; δ = 1e-6 · tr G / k. φ is the log of the
    ratio of the arithmetic to the geometric mean of the squared singular values: at least 0 (up
    to δ), 0 exactly when all singular values are equal, and the same for c·A. While δ is
    negligible it bounds the condition number: κ(A)² ≤ 4·exp(k·φ).

    Args:
        matrix: (..., m, n).
    """
    with torch.autocast(device_type=matrix.device.type, enabled=False):
        G = _gram(matrix)
        return -(_scaled_logdet(G, _mean_eigenvalue(G)) / G.shape[-1]).mean()


def logdet_term(matrix: Tensor) -> Tensor:
    """Return log²det(G + δI) / (2k), averaged over a stack of matrices.

    The squared log-determinant of ARLST (Wei et al. 2022) in a form that survives floating point:
    the smaller Gram matrix G, δ = 1e-6 · tr G / k, never the determinant itself. It pulls the
    geometric mean of the singular values to 1; only together with the Frobenius term does it
    bound the condition number, κ < 2/|det A| · (‖A‖_F/√n)ⁿ for square A.

    Args:
        matrix: (..., m, n).
    """
    with torch.autocast(device_type=matrix.device.type, enabled=False):
        G = _gram(matrix)
        k, mean = G.shape[-1], _mean_eigenvalue(G)
        logdet = _scaled_logdet(G, mean) + k * mean.clamp_min(TINY).log()
        return (logdet.square() / (2 * k)).mean()


def frobenius_term(matrix: Tensor) -> Tensor:
    """Return ‖A‖_F², averaged over a stack of matrices.

    Args:
        matrix: (..., m, n).
    """
    with torch.autocast(device_type=matrix.device.type, enabled=False):
        return matrix.double().square().sum(dim=(-2, -1)).mean()


def spectral_term(matrix: Tensor) -> Tensor:
    """Return R(S) = ‖G − α²I‖_F with α² = tr G / k, averaged over a stack of matrices.

    The spectral regulariser of robust dynamical low-rank training (Schotthöfer et al. 2025).
    R = √k times the standard deviation of the squared singular values: 0 exactly for scaled
    orthogonal S, of degree 2 in S, and κ(S) ≤ exp(R / (√2 σ_k²)). At R = 0 the gradient is 0.

    Args:
        matrix: (..., m, n).
    """
    return _spread(matrix).mean()


def spectral_squared_term(matrix: Tensor) -> Tensor:
    """Return R(S)², averaged over a stack of matrices: smooth at 0, of degree 4 in S."""
    return _spread(matrix).square().mean()


def spectral_relative_term(matrix: Tensor) -> Tensor:
    """Return R(S)/α², averaged over a stack of matrices: the same for c·S; 0 for a zero matrix."""
    with torch.autocast(device_type=matrix.device.type, enabled=False):
        return (_spread(matrix) / _mean_eigenvalue(_gram(matrix)).clamp_min(TINY)).mean()


def l1_term(matrix: Tensor) -> Tensor:
    """Return the mean absolute value of all entries: ‖A‖₁ over the matrix's own size."""
    with torch.autocast(device_type=matrix.device.type, enabled=False):
        return matrix.double().abs().mean()


# The keys are fields of a recipe: each term's coefficient.
TERMS: dict[str, Term] = {
    "condition": condition_term,
    "logdet": logdet_term,
    "frobenius": frobenius_term,
    "spectral": spectral_term,
    "spectral_squared": spectral_squared_term,
    "spectral_relative": spectral_relative_term,
    "l1": l1_term,
}


def _gram(matrix: Tensor) -> Tensor:
    A = matrix.double()
    rows, columns = A.shape[-2:]
    return A @ A.mT if rows <= columns else A.mT @ A


def _mean_eigenvalue(G: Tensor) -> Tensor:
    return G.diagonal(dim1=-2, dim2=-1).sum(-1) / G.shape[-1]


def _identity(G: Tensor) -> Tensor:
    return torch.eye(G.shape[-1], dtype=G.dtype, device=G.device)


def _scaled_logdet(G: Tensor, mean: Tensor) -> Tensor:
    # dividing by the mean eigenvalue first keeps the determinant in range and the jitter relative
    scaled = G / mean.clamp_min(TINY)[..., None, None]
    logdet: Tensor = torch.linalg.slogdet(scaled + JITTER * _identity(G)).logabsdet
    return logdet


def _spread(matrix: Tensor) -> Tensor:
    with torch.autocast(device_type=matrix.device.type, enabled=False):
        G = _gram(matrix)
        centred = G - _mean_eigenvalue(G)[..., None, None] * _identity(G)
        # the norm's own derivative at 0 is 0; a root of a sum of squares would give NaN
        spread: Tensor = torch.linalg.vector_norm(centred, dim=(-2, -1))
        return spread


def penalty(matrices: Matrices, coefficients: Mapping[str, float]) -> Tensor | None:
    """Return Σ coefficient · term, summed within a layer and averaged over layers.

    Averaging makes the coefficients independent of depth.

    Args:
        matrices: Per layer, the matrices that penalties act on.
        coefficients: By the names of ``TERMS``.

    Returns:
        A float32 scalar, or None where all coefficients are 0.
    """
    if not matrices:
        return None
    values = [c * layer_mean(matrices, TERMS[name]) for name, c in coefficients.items() if c]
    return torch.stack(values).sum() if values else None


def layer_mean(matrices: Matrices, term: Term) -> Tensor:
    """Return a term summed over each layer's matrices and averaged over the layers."""
    sums = [torch.stack([term(A) for A in group]).sum() for group in matrices.values()]
    return torch.stack([s.float() for s in sums]).mean()


def term_values(matrices: Matrices, coefficients: Mapping[str, float]) -> dict[str, float]:
    """Return the value of every term that is cheap or has a coefficient, for the history.

    The scale-free condition term and ℓ1 are always there, 0 for a network without matrices.
    """
    wanted = [name for name in TERMS if coefficients.get(name) or name in ("condition", "l1")]
    with torch.no_grad():
        return {
            name: float(layer_mean(matrices, TERMS[name])) if matrices else 0.0 for name in wanted
        }
