"""The low-rank convolution: 1×1, k×k, 1×1, a Tucker factorisation of the two channel modes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, Self, cast

import torch
from torch import Tensor, nn

from sepdeploy.errors import FINITE, GROUPED, BadInput
from sepdeploy.layers.base import AdaptiveRanks, StructuredConv2d
from sepdeploy.layers.fixed_rank import FixedRankConv2d
from sepdeploy.layers.tucker import balanced, residual, tucker
from sepdeploy.structures import LowRankConvSpec

PaddingMode = Literal["zeros", "reflect", "replicate", "circular"]


class LowRankConv2d(StructuredConv2d, AdaptiveRanks):
    """A convolution with W[o,c,h,w] = Σ_pq V[o,p] S[p,q,h,w] U[c,q].

    Made of three ordinary convolutions without anything in between, so it is deployed as it
    stands: ``reduce`` (1×1, c → q) holds Uᵀ, ``core`` (k×k, q → p) holds S with stride, padding
    and dilation, ``expand`` (1×1, p → o) holds V and the bias, which is added once.

    Args:
        in_channels: c.
        out_channels: o.
        kernel_size: (height, width).
        ranks: (q, p) with q ≤ c, p ≤ o.
        stride: As of ``nn.Conv2d``.
        padding: As of ``nn.Conv2d``; "same" and "valid" too.
        dilation: As of ``nn.Conv2d``.
        bias: Whether to add a bias of o values.
        padding_mode: As of ``nn.Conv2d``; padding commutes with ``reduce``, which has no bias.
        device: As of ``nn.Conv2d``.
        dtype: As of ``nn.Conv2d``.

    Attributes:
        projection_error: Relative error of ``from_dense``, None for a layer made from scratch.

    Raises:
        BadInput: Ranks outside 1 … channels.
    """

    factor_keys = ("reduce.weight", "core.weight", "expand.weight")
    square_core = False
    outputs_first = True

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: tuple[int, int],
        ranks: tuple[int, int],
        *,
        stride: tuple[int, int] = (1, 1),
        padding: str | tuple[int, int] = (0, 0),
        dilation: tuple[int, int] = (1, 1),
        bias: bool = True,
        padding_mode: PaddingMode = "zeros",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        q, p = ranks
        if not (1 <= q <= in_channels and 1 <= p <= out_channels):
            raise BadInput(
                f"ranks {q}, {p} of a {in_channels} → {out_channels} convolution "
                f"are outside 1 … {in_channels} and 1 … {out_channels}",
                hint="choose ranks within these bounds, or leave it out",
            )
        self.reduce = nn.Conv2d(in_channels, q, 1, bias=False, device=device, dtype=dtype)
        self.core = nn.Conv2d(
            q,
            p,
            kernel_size,
            stride=stride,
            padding=padding,
            dilation=dilation,
            bias=False,
            padding_mode=padding_mode,
            device=device,
            dtype=dtype,
        )
        self.expand = nn.Conv2d(p, out_channels, 1, bias=bias, device=device, dtype=dtype)

    @property
    def ranks(self) -> tuple[int, int]:
        """(q, p): channels that the core sees and gives."""
        return self.core.in_channels, self.core.out_channels

    @property
    def spec(self) -> LowRankConvSpec:
        """The structure as a record."""
        kernel = tuple(self.core.weight.shape[2:])
        channels = self.reduce.in_channels, self.expand.out_channels
        return LowRankConvSpec(*channels, kernel, self.ranks)

    def parts(self) -> dict[nn.Module, int]:
        """The three convolutions; the core stands for all dense weights."""
        return {self.reduce: 0, self.core: self.dense_weights, self.expand: 0}

    def regularized(self) -> list[Tensor]:
        """The output unfolding (p, q·k²) of the core."""
        return [self.core.weight.flatten(1)]

    @property
    def dense_weights(self) -> int:
        """Weights of the plain convolution this layer stands for."""
        core = self.core.weight
        return self.expand.out_channels * self.reduce.in_channels * core.shape[2] * core.shape[3]

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer to (N, c, H, W)."""
        return cast(Tensor, self.expand(self.core(self.reduce(x))))

    def dense_weight(self) -> Tensor:
        """The (o, c, kh, kw) weight this layer stands for; differentiable."""
        V, U = self.expand.weight[:, :, 0, 0], self.reduce.weight[:, :, 0, 0]
        inner = torch.tensordot(V, self.core.weight, dims=([1], [0]))
        weight: Tensor = torch.tensordot(inner, U, dims=([1], [0])).permute(0, 3, 1, 2)
        return weight

    def set_factors(self, U: Tensor, S: Tensor, V: Tensor) -> None:
        """Put other factors in place; ranks follow their shapes, parameters keep their identity.

        Args:
            U: (c, q).
            S: (p, q, kh, kw).
            V: (o, p).
        """
        p, q = S.shape[:2]
        for convolution, value in (
            (self.reduce, U.t()[:, :, None, None]),
            (self.core, S),
            (self.expand, V[:, :, None, None]),
        ):
            weight = convolution.weight
            weight.grad = None
            weight.data = value.to(weight.device, weight.dtype).contiguous()
        self.reduce.out_channels = self.core.in_channels = q
        self.core.out_channels = self.expand.in_channels = p

    @classmethod
    def like(cls, conv: nn.Conv2d, ranks: tuple[int, int]) -> Self:
        """A fresh layer with the geometry of a plain convolution.

        Raises:
            BadInput: A grouped convolution, or ranks that do not fit.
        """
        if conv.groups != 1:
            raise BadInput("a grouped convolution has no low-rank form here", hint=GROUPED)
        return cls(
            conv.in_channels,
            conv.out_channels,
            cast(tuple[int, int], conv.kernel_size),
            ranks,
            stride=cast(tuple[int, int], conv.stride),
            padding=cast(str | tuple[int, int], conv.padding),
            dilation=cast(tuple[int, int], conv.dilation),
            bias=conv.bias is not None,
            padding_mode=conv.padding_mode,
        )

    @classmethod
    def from_conv(cls, conv: nn.Conv2d, spec: LowRankConvSpec) -> StructuredConv2d:
        """A fresh layer of a structure with the geometry of a plain convolution."""
        return cls.like(conv, spec.ranks) if spec.adapts else FixedRankConv2d(conv, spec)

    @classmethod
    def project(cls, conv: nn.Conv2d, spec: LowRankConvSpec) -> StructuredConv2d:
        """The layer closest to a plain convolution; its bias is copied."""
        if spec.adapts:
            return cls.from_dense(conv, spec.ranks)
        return FixedRankConv2d.project(conv, spec)

    @classmethod
    def forms(cls, conv: nn.Conv2d) -> Iterator[tuple[LowRankConvSpec, float]]:
        """Ranks of both modes that lose about the same share, or the one of 1×1 kernels."""
        one = max(conv.kernel_size) == 1
        return FixedRankConv2d.forms(conv) if conv.groups != 1 or one else balanced(conv)

    @classmethod
    def from_dense(cls, conv: nn.Conv2d, ranks: tuple[int, int] | None = None) -> Self:
        """A Tucker approximation of a plain convolution; its bias is copied.

        Higher-order SVD of the channel modes, refined by alternating iterations.

        Args:
            conv: The plain convolution.
            ranks: As of the class; None takes those that lose least with at most half the
                weights.

        Raises:
            BadInput: A grouped convolution, ranks that do not fit, or a weight that is not finite.
        """
        W = conv.weight.detach().double()
        layer = cls.like(conv, ranks or (1, 1)).to(conv.weight.device, conv.weight.dtype)
        if not bool(torch.isfinite(W).all()):
            raise BadInput(
                "weight holds NaN or infinite values and cannot be projected", hint=FINITE
            )
        U, S, V = tucker(W, ranks or _half(conv))
        with torch.no_grad():
            layer.set_factors(U, S, V)
            if conv.bias is not None and layer.expand.bias is not None:
                layer.expand.bias.copy_(conv.bias)
        layer.projection_error = residual(W, S)
        return layer

    @classmethod
    def fresh(cls, conv: nn.Conv2d, ranks: tuple[int, int]) -> Self:
        """The layer to begin with in the place of a convolution that nobody has trained.

        The core is scaled up so that the weight keeps the norm it was drawn with: a random kernel
        loses most of it when it is truncated. On the meta device nothing is projected.
        """
        if conv.weight.is_meta:
            return cls.like(conv, ranks).to("meta")
        layer = cls.from_dense(conv, ranks)
        with torch.no_grad():
            kept = layer.core.weight.norm().clamp_min(torch.finfo(torch.float32).tiny)
            layer.core.weight.mul_(conv.weight.norm() / kept)
        layer.projection_error = None
        return layer

    def extra_repr(self) -> str:
        """Ranks for ``print(model)``."""
        return f"ranks={self.ranks}"


def _half(conv: nn.Conv2d) -> tuple[int, int]:
    """The ranks that lose least with at most half the weights; (1, 1) if none are that small."""
    small = [f for f in balanced(conv) if 2 * f[0].params(bias=False) <= conv.weight.numel()]
    return min(small, key=lambda form: form[1])[0].ranks if small else (1, 1)
