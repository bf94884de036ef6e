"""Low-rank convolutions whose ranks do not adapt: those of 1×1 kernels, and grouped ones."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Self, cast

import numpy as np
import torch
from torch import Tensor, nn

from sepdeploy.errors import GROUPED, BadInput
from sepdeploy.layers.base import StructuredConv2d, finite_weight, mixing, shaped_like
from sepdeploy.layers.energies import spaced, squares, tail
from sepdeploy.layers.tucker import balanced, tucker
from sepdeploy.structures import LowRankConvSpec


class FixedRankConv2d(StructuredConv2d):
    """A grouped convolution with a low-rank kernel in each group, or a pair of 1×1 convolutions.

    ``reduce`` (1×1), ``core`` (k×k; none where the kernel is 1×1) and ``expand`` (1×1, with the
    bias) are ordinary convolutions of the same groups. Without a core ``reduce`` has the stride.

    Args:
        conv: The plain convolution, for its geometry; nothing is projected.
        spec: Ranks.

    Raises:
        BadInput: A depthwise convolution, or ranks outside 1 … channels of a group.
    """

    def __init__(self, conv: nn.Conv2d, spec: LowRankConvSpec) -> None:
        super().__init__()
        (q, p), groups = spec.ranks, conv.groups
        into, out = conv.in_channels // groups, conv.out_channels // groups
        if into == 1 < groups:
            raise BadInput("a depthwise convolution has no low-rank form", hint=GROUPED)
        if not (1 <= q <= into and 1 <= p <= out):
            raise BadInput(
                f"rank {spec.text.partition(':')[2]} of a group of {into} → {out} channels is "
                f"outside 1 … {into} and 1 … {out}",
                hint="choose ranks within these bounds, or leave it out",
            )
        inner = conv.in_channels, q * groups
        self.reduce = (
            mixing(conv, inner, groups=groups)
            if spec.core
            else shaped_like(conv, inner, groups=groups)
        )
        middle = (q * groups, p * groups)
        self.core = shaped_like(conv, middle, groups=groups) if spec.core else None
        outer = p * groups, conv.out_channels
        self.expand = mixing(conv, outer, groups=groups, bias=conv.bias is not None)

    @property
    def spec(self) -> LowRankConvSpec:
        """The structure as a record."""
        return LowRankConvSpec.from_factors([tuple(p.weight.shape) for p in self._convolutions()])

    def _convolutions(self) -> list[nn.Conv2d]:
        found = (self.reduce, self.core, self.expand)
        return [part for part in found if part is not None]

    def parts(self) -> dict[nn.Module, int]:
        """The convolutions; the one with the kernel stands for all dense weights."""
        owner = self.core or self.reduce
        return {p: self.dense_weights if p is owner else 0 for p in self._convolutions()}

    def regularized(self) -> list[Tensor]:
        """The output unfolding of what has the kernel, group by group."""
        return list((self.core or self.reduce).weight.flatten(1).chunk(self.reduce.groups))

    @property
    def dense_weights(self) -> int:
        """Weights of the plain convolution this layer stands for."""
        kernel = self.core.weight[0, 0].numel() if self.core else 1
        return self.expand.out_channels * self.reduce.weight.shape[1] * kernel

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer to (N, c, H, W)."""
        for part in self._convolutions():
            x = part(x)
        return x

    def dense_weight(self) -> Tensor:
        """The (o, c / groups, kh, kw) weight this layer stands for; differentiable."""
        groups = range(self.reduce.groups)
        split = [part.weight.chunk(len(groups)) for part in self._convolutions()]
        return torch.cat([_product([parts[g] for parts in split]) for g in groups])

    @classmethod
    def from_conv(cls, conv: nn.Conv2d, spec: LowRankConvSpec) -> Self:
        """A fresh layer of a structure with the geometry of a plain convolution."""
        return cls(conv, spec)

    @classmethod
    def project(cls, conv: nn.Conv2d, spec: LowRankConvSpec) -> Self:
        """The layer closest to a plain convolution, group by group; its bias is copied."""
        layer, weight = cls(conv, spec), finite_weight(conv)
        factors = [_factors(W, spec) for W in weight.chunk(conv.groups)]
        kernels = [torch.cat(parts) for parts in zip(*factors, strict=True)]
        with torch.no_grad():
            for part, kernel in zip(layer._convolutions(), kernels, strict=True):
                part.weight.copy_(kernel)
            if conv.bias is not None:
                cast(nn.Parameter, layer.expand.bias).copy_(conv.bias)
            lost = (layer.dense_weight().cpu().double() - weight).norm()
        total = float(weight.norm())
        layer.projection_error = float(lost) / total if total else 0.0
        return layer

    @classmethod
    def forms(cls, conv: nn.Conv2d) -> Iterator[tuple[LowRankConvSpec, float]]:
        """Ranks of every group, none of depthwise convolutions, which have nothing to share."""
        if conv.weight.shape[1] == 1:
            return
        if max(conv.kernel_size) > 1:
            yield from balanced(conv)
            return
        channels = conv.in_channels, conv.out_channels
        matrices = conv.weight.detach().double().flatten(1).chunk(conv.groups)
        lost = tail(np.sum([squares(matrix) for matrix in matrices], axis=0))
        for rank in spaced(len(lost) - 1):
            spec = LowRankConvSpec(*channels, (1, 1), (rank, rank), conv.groups, core=False)
            yield spec, float(lost[rank])

    def extra_repr(self) -> str:
        """Ranks for ``print(model)``."""
        return self.spec.text


def _product(kernels: list[Tensor]) -> Tensor:
    """The kernel (o, c, kh, kw) of one group."""
    first, *others = kernels
    for kernel in others:
        if first.shape[2:].numel() > 1:  # the core before the last part
            first = torch.einsum("op,pchw->ochw", kernel[:, :, 0, 0], first)
        else:
            first = torch.einsum("pqhw,qc->pchw", kernel, first[:, :, 0, 0])
    return first


def _factors(W: Tensor, spec: LowRankConvSpec) -> tuple[Tensor, ...]:
    """The kernels of one group's parts."""
    if spec.core:
        U, S, V = tucker(W, spec.ranks)
        return U.t()[:, :, None, None], S, V[:, :, None, None]
    left, sigma, right = torch.linalg.svd(W.flatten(1), full_matrices=False)
    rank = spec.ranks[0]
    root = sigma[:rank].sqrt()  # both parts alike, which rounds best
    return (root[:, None] * right[:rank])[:, :, None, None], (left[:, :rank] * root)[
        ..., None, None
    ]
