"""Tucker-2 of a kernel: the leading directions of its channels, and what they keep."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from sepdeploy.layers.energies import ROUNDING, STEPS, Values, tail
from sepdeploy.structures import LowRankConvSpec

ITERATIONS = 8  # of the alternating refinement; the start is already quasi-optimal


def balanced(conv: nn.Conv2d) -> Iterator[tuple[LowRankConvSpec, float]]:
    """Ranks of both modes that lose about the same share, ever fewer, with the share lost."""
    channels, kernel = (conv.in_channels, conv.out_channels), tuple(conv.kernel_size)
    kernels = torch.stack(conv.weight.detach().double().chunk(conv.groups))
    into, out, kept = _channel_energy(kernels)
    seen = set()
    for step in range(1, STEPS + 1):
        wanted = (1 - step / STEPS) ** 2  # share of energy that either mode may lose
        q, p = (max(1, int(np.argmax(lost <= wanted + 1e-12))) for lost in (into, out))
        if (q, p) in seen:
            continue
        seen.add((q, p))
        lost = max(0.0, 1.0 - float(kept[p - 1, q - 1]))
        spec = LowRankConvSpec(*channels, kernel, (q, p), conv.groups)
        yield spec, lost if lost > ROUNDING else 0.0


def tucker(W: Tensor, ranks: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """Factorise (o, c, kh, kw) into U (c, q), S (p, q, kh, kw), V (o, p); U and V orthonormal.

    Higher-order SVD of the channel modes, refined by alternating iterations.
    """
    q, p = ranks
    V = _leading(W.flatten(1), p)
    U = V[:, :0]
    for _ in range(ITERATIONS):
        seen = torch.tensordot(V, W, dims=([0], [0]))  # (p, c, kh, kw)
        U = _leading(seen.transpose(0, 1).flatten(1), q)
        V = _leading(torch.tensordot(W, U, dims=([1], [0])).flatten(1), p)
    S = torch.tensordot(torch.tensordot(V, W, dims=([0], [0])), U, dims=([1], [0]))
    return U, S.permute(0, 3, 1, 2), V


def residual(W: Tensor, S: Tensor) -> float:
    """‖W − W'‖_F / ‖W‖_F of an orthogonal projection W' with core S, 0 for a zero weight."""
    total = float(W.square().sum())
    lost = total - float(S.square().sum())
    return (max(lost, 0.0) / total) ** 0.5 if total else 0.0


def _leading(unfolded: Tensor, count: int) -> Tensor:
    """The leading left singular vectors of a wide matrix, from its Gram matrix."""
    vectors: Tensor = torch.linalg.eigh(unfolded @ unfolded.t()).eigenvectors
    return vectors[:, -count:].flip(1)


def _channel_energy(kernels: Tensor) -> tuple[Values, Values, Values]:
    """What a higher-order SVD of the channels of a stack of kernels (G, o, c, kh, kw) keeps.

    Returns:
        Shares lost by the first 0, 1, 2 … directions of the input channels and of the output
        channels of every kernel, and the share kept by the first p + 1 and q + 1 of both, at
        [p, q].
    """
    core, tails = kernels, []
    for mode in (1, 2):
        unfolded = kernels.transpose(1, mode).flatten(2)
        squares, vectors = torch.linalg.eigh(unfolded @ unfolded.mT)
        together = squares.flip(1).clamp_min(0).sum(0)
        tails.append(tail(np.append(together.cpu().numpy(), 0.0)))
        turned = core.transpose(1, mode)
        turned = (vectors.flip(2).mT @ turned.flatten(2)).reshape(turned.shape)
        core = turned.transpose(1, mode)
    energy = core.square().sum((0, 3, 4))
    kept = energy.cumsum(0).cumsum(1) / energy.sum().clamp_min(torch.finfo(torch.double).tiny)
    return tails[1], tails[0], np.asarray(kept.cpu().numpy())
