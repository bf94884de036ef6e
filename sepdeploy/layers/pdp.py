"""The pointwise-depthwise-pointwise convolution."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Self, cast

import numpy as np
import torch
from torch import Tensor, nn

from sepdeploy.errors import GROUPED, BadInput
from sepdeploy.layers.base import StructuredConv2d, finite_weight, mixing, shaped_like
from sepdeploy.structures import PdpSpec
from sepdeploy.structures.cp import decompose

SWEEPS = 300
LOOK_SWEEPS, LOOK_WORK = (3, 25), 2e10  # to rank forms: fewer where a sweep is long
RANKS = (0.9, 0.7, 0.5, 0.36, 0.25, 0.18, 0.125, 0.09, 0.0625, 0.03)  # shares of the weights


class PdpConv2d(StructuredConv2d):
    """A convolution with W[o,c,h,w] = Σ_ρ a_ρ[o] b_ρ[c] d_ρ[h,w].

    ``before`` (1×1, c → R) holds b, ``taps`` (depthwise, with stride, padding and dilation) d,
    ``after`` (1×1, R → o, with the bias) a: three ordinary convolutions.

    Args:
        conv: The plain convolution, for its geometry; nothing is projected.
        spec: The structure.

    Raises:
        BadInput: A grouped convolution.
    """

    def __init__(self, conv: nn.Conv2d, spec: PdpSpec) -> None:
        super().__init__()
        if conv.groups != 1:
            raise BadInput("a grouped convolution has no pdp form", hint=GROUPED)
        rank = spec.rank
        self.before = mixing(conv, (conv.in_channels, rank))
        self.taps = shaped_like(conv, (rank, rank), groups=rank)
        self.after = mixing(conv, (rank, conv.out_channels), bias=conv.bias is not None)

    @property
    def spec(self) -> PdpSpec:
        """The structure as a record."""
        return PdpSpec.from_factors([tuple(part.weight.shape) for part in self._convolutions()])

    def _convolutions(self) -> tuple[nn.Conv2d, nn.Conv2d, nn.Conv2d]:
        return self.before, self.taps, self.after

    def parts(self) -> dict[nn.Module, int]:
        """The three convolutions; the depthwise one stands for all dense weights."""
        return {self.before: 0, self.taps: self.dense_weights, self.after: 0}

    def regularized(self) -> list[Tensor]:
        """The matrices of the 1×1 convolutions."""
        return [self.before.weight.flatten(1), self.after.weight.flatten(1)]

    @property
    def dense_weights(self) -> int:
        """Weights of the plain convolution this layer stands for."""
        return self.after.out_channels * self.before.in_channels * self.taps.weight[0].numel()

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer to (N, c, H, W)."""
        return cast(Tensor, self.after(self.taps(self.before(x))))

    def dense_weight(self) -> Tensor:
        """The (o, c, kh, kw) weight this layer stands for; differentiable."""
        b, d, a = (part.weight for part in self._convolutions())
        whole: Tensor = torch.einsum("or,rc,rhw->ochw", a[..., 0, 0], b[..., 0, 0], d[:, 0])
        return whole

    @classmethod
    def from_conv(cls, conv: nn.Conv2d, spec: PdpSpec) -> Self:
        """A fresh layer of a structure with the geometry of a plain convolution."""
        return cls(conv, spec)

    @classmethod
    def project(cls, conv: nn.Conv2d, spec: PdpSpec) -> Self:
        """The nearest layer that alternating least squares find; its bias is copied.

        Every component has the same norm in all three parts, which rounds best.
        """
        layer = cls(conv, spec)
        factors, error = decompose(finite_weight(conv).flatten(2).numpy(), spec.rank, SWEEPS)
        norms = [np.maximum(np.linalg.norm(f, axis=0), np.finfo(float).tiny) for f in factors]
        share = np.cbrt(norms[0] * norms[1] * norms[2])
        a, b, d = (torch.from_numpy(f / n * share) for f, n in zip(factors, norms, strict=True))
        with torch.no_grad():
            layer.before.weight.copy_(b.t()[:, :, None, None])
            layer.taps.weight.copy_(d.t().reshape(layer.taps.weight.shape))
            layer.after.weight.copy_(a[:, :, None, None])
            if conv.bias is not None and layer.after.bias is not None:
                layer.after.bias.copy_(conv.bias)
        layer.projection_error = error
        return layer

    @classmethod
    def forms(cls, conv: nn.Conv2d) -> Iterator[tuple[PdpSpec, float]]:
        """Ranks at shares of the weights, with what a few sweeps leave."""
        taps = conv.weight[0, 0].numel()
        if conv.groups != 1 or taps == 1:
            return
        channels, kernel = (conv.in_channels, conv.out_channels), tuple(conv.kernel_size)
        tensor = conv.weight.detach().cpu().double().flatten(2).numpy()
        size = sum(channels) + taps
        most = np.sort([*channels, taps])[:2].prod()
        ranks = {max(1, min(int(most), int(share * tensor.size / size))) for share in RANKS}
        for rank in sorted(ranks):
            sweeps = int(np.clip(LOOK_WORK / (6 * tensor.size * rank), *LOOK_SWEEPS))
            _, error = decompose(tensor, rank, sweeps)
            yield PdpSpec(*channels, kernel, rank), error**2

    def extra_repr(self) -> str:
        """Rank for ``print(model)``."""
        return self.spec.text
