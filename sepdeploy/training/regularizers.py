"""Penalties on weight matrices: conditioning and sparsity.

Pure functions of matrices (or stacks of them), evaluated in double precision whatever the
training runs in: determinants of 64×64 Gram matrices leave the range of float32.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from sepdeploy.layers import KronLinear, LowRankLinear, is_structured

TINY = 1e-60  # a zero matrix has a finite penalty and gradient
JITTER = 1e-6  # relative to the mean eigenvalue; keeps a singular matrix's penalty finite


def condition_term(matrix: Tensor) -> Tensor:
    """Return φ(A) = log(tr G / k) − log det(G + δI) / k, averaged over a stack of matrices.

    G is the smaller Gram matrix of A and k its size; δ = 1e-6 · tr G / k. φ is the log of the
    ratio of the arithmetic to the geometric mean of the squared singular values: at least 0 (up
    to δ), 0 exactly when all singular values are equal, and the same for c·A. While δ is
    negligible it bounds the condition number: κ(A)² ≤ 4·exp(k·φ).

    Args:
        matrix: (..., m, n).
    """
    return _condition(matrix).mean()


def _condition(matrix: Tensor) -> Tensor:
    with torch.autocast(device_type=matrix.device.type, enabled=False):
        A = matrix.double()
        rows, columns = A.shape[-2:]
        G = A @ A.mT if rows <= columns else A.mT @ A
        k = G.shape[-1]
        mean = G.diagonal(dim1=-2, dim2=-1).sum(-1) / k
        # dividing by the mean eigenvalue first keeps the determinant in range and φ scale-free
        scaled = G / mean.clamp_min(TINY)[..., None, None]
        identity = torch.eye(k, dtype=G.dtype, device=G.device)
        logdet: Tensor = torch.linalg.slogdet(scaled + JITTER * identity).logabsdet
        return -logdet / k


def l1_term(matrix: Tensor) -> Tensor:
    """Return the mean absolute value of all entries: ‖A‖₁ over the matrix's own size."""
    return matrix.abs().mean()


def regularized_matrices(net: nn.Module) -> dict[str, list[Tensor]]:
    """Return, per layer, the matrices that penalties act on.

    Kronecker factors and low-rank cores of structured layers; a network without any structured
    layer gives the weights of its linear layers.
    """
    layers = {name or "net": module for name, module in net.named_modules()}
    structured = {name: _matrices(m) for name, m in layers.items() if is_structured(m)}
    if structured:
        return structured
    return {name: [m.weight] for name, m in layers.items() if isinstance(m, nn.Linear)}


def _matrices(module: nn.Module) -> list[Tensor]:
    if isinstance(module, KronLinear):
        return list(module.factors)
    if isinstance(module, LowRankLinear):
        return [module.S]
    return []


def penalty(
    matrices: Mapping[str, Sequence[Tensor]], *, condition: float, l1: float
) -> Tensor | None:
    """Return condition · φ + l1 · mean|A|, summed within a layer and averaged over layers.

    Averaging makes the coefficients independent of depth.

    Returns:
        A float32 scalar, or None where both coefficients are 0.
    """
    total: Tensor | None = None
    for factor, term in ((condition, condition_term), (l1, l1_term)):
        if factor and matrices:
            value = factor * layer_mean(matrices, term)
            total = value if total is None else total + value
    return total


def layer_mean(
    matrices: Mapping[str, Sequence[Tensor]], term: Callable[[Tensor], Tensor]
) -> Tensor:
    """Return a term summed over each layer's matrices and averaged over the layers."""
    sums = [torch.stack([term(A) for A in group]).sum() for group in matrices.values()]
    return torch.stack([s.float() for s in sums]).mean()
