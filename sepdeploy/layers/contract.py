"""Products with a Kronecker operator by plain matrix multiplications.

No einsum and no transposed copy: a contraction of the last mode is one flat matrix product, any
other one a batched product with a shared left factor. With two modes the Kronecker terms are
stacked into the same two products.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def kron_apply(
    x: Tensor,
    factors: Sequence[Tensor],
    in_shape: tuple[int, ...],
    out_shape: tuple[int, ...],
    order: Sequence[int],
) -> Tensor:
    """Compute x Wᵀ with W = Σ_k A_1k ⊗ … ⊗ A_dk.

    Args:
        x: (M, Π in_shape).
        factors: One tensor (terms, o_m, i_m) per mode.
        in_shape: i_1 … i_d.
        out_shape: o_1 … o_d.
        order: Modes in the order of contraction.

    Returns:
        (M, Π out_shape).
    """
    if len(in_shape) == 2:
        return _two_modes(x, factors[0], factors[1], last_first=order[0] == 1)
    # With three modes and more the terms cannot be stacked into the products between the first
    # and the last; one pass per term is quicker than a batched product over (term, sample).
    y = _one_term(x, [f[0] for f in factors], in_shape, order)
    for k in range(1, factors[0].shape[0]):
        y = y + _one_term(x, [f[k] for f in factors], in_shape, order)
    return y


def _two_modes(x: Tensor, A: Tensor, B: Tensor, *, last_first: bool) -> Tensor:
    """Σ_k A_k X B_kᵀ as two products; the terms are stacked so that the second one sums them."""
    terms, p, i = A.shape
    _, q, j = B.shape
    if last_first:
        # rows of the intermediate run over (i, k): no copy between the two products
        stacked = A if terms == 1 else A.permute(1, 2, 0)
        t = x.reshape(-1, j) @ B.reshape(terms * q, j).t()
        y = shared_left(stacked.reshape(p, i * terms), t.reshape(-1, i * terms, q))
    else:
        stacked = A if terms == 1 else A.transpose(0, 1)
        t = shared_left(stacked.reshape(p * terms, i), x.reshape(-1, i, j))
        right = B if terms == 1 else B.transpose(0, 1)
        y = t.reshape(-1, terms * j) @ right.reshape(q, terms * j).t()
    return y.reshape(-1, p * q)


def shared_left(A: Tensor, X: Tensor) -> Tensor:
    """A X_n for every n: (p, i) and (N, i, q) give (N, p, q)."""
    return torch.bmm(A.expand(X.shape[0], -1, -1), X)


def _one_term(
    x: Tensor, factors: Sequence[Tensor], in_shape: tuple[int, ...], order: Sequence[int]
) -> Tensor:
    shape = list(in_shape)
    for mode in order:
        A = factors[mode]
        right = math.prod(shape[mode + 1 :])
        if right == 1:
            x = x.reshape(-1, shape[mode]) @ A.t()
        else:
            x = shared_left(A, x.reshape(-1, shape[mode], right))
        shape[mode] = A.shape[0]
    return x.reshape(-1, math.prod(shape))
