"""Structured layers as single nodes of a traced graph.

Inside ``graph_nodes()`` a structured layer calls one custom op of the ``sepdeploy`` namespace
instead of its plain PyTorch operations, so that a tracer sees one node per layer. The ops take
and return 2-D tensors (M, n_in) → (M, n_out) and have no gradient: they are for tracing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from sepdeploy.layers.contract import kron_apply, lowrank_apply
from sepdeploy.structures.contraction import best_order

_tracing = False


@contextmanager
def graph_nodes() -> Iterator[None]:
    """Make structured layers appear as one node each while the context is open."""
    global _tracing  # a plain flag: every tracer reads it as a constant
    before, _tracing = _tracing, True
    try:
        yield
    finally:
        _tracing = before


def is_tracing() -> bool:
    """Whether ``graph_nodes()`` is open."""
    return _tracing


@torch.library.custom_op("sepdeploy::kron_linear", mutates_args=())
def kron_linear(
    x: Tensor,
    factors: Sequence[Tensor],
    bias: Tensor | None,
    in_shape: Sequence[int],
    out_shape: Sequence[int],
    terms: int,
) -> Tensor:
    """Compute x Wᵀ + bias with W = Σ_k A_1k ⊗ … ⊗ A_dk.

    Args:
        x: (M, Π in_shape).
        factors: One tensor (terms, o_m, i_m) per mode.
        bias: (Π out_shape,) or None.
        in_shape: i_1 … i_d.
        out_shape: o_1 … o_d.
        terms: Number of summed Kronecker products.
    """
    modes = tuple(in_shape), tuple(out_shape)
    y = kron_apply(x, factors, *modes, best_order(*modes))
    # The result may not alias an input, which the identity of a 1×1 factor could do.
    return y.clone() if bias is None else y + bias


@kron_linear.register_fake
def _(
    x: Tensor,
    factors: Sequence[Tensor],
    bias: Tensor | None,
    in_shape: Sequence[int],
    out_shape: Sequence[int],
    terms: int,
) -> Tensor:
    features = 1
    for n in out_shape:
        features *= n
    return x.new_empty((x.shape[0], features))


@torch.library.custom_op("sepdeploy::lowrank_linear", mutates_args=())
def lowrank_linear(x: Tensor, U: Tensor, V: Tensor, bias: Tensor | None) -> Tensor:
    """(x U) Vᵀ + bias.

    Args:
        x: (M, n_in).
        U: (n_in, r).
        V: (n_out, r), the core folded in.
        bias: (n_out,) or None.
    """
    return lowrank_apply(x, U, V, bias)


@lowrank_linear.register_fake
def _(x: Tensor, U: Tensor, V: Tensor, bias: Tensor | None) -> Tensor:
    return x.new_empty((x.shape[0], V.shape[0]))
