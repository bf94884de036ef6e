"""The deformable butterfly convolution: depthwise k×k, then grouped 1×1 convolutions."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Self, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sepdeploy.errors import GROUPED, BadInput
from sepdeploy.layers.base import StructuredConv2d
from sepdeploy.layers.debut import chain_apply, lost, offered
from sepdeploy.layers.initial import RELU_GAIN, orthogonal_stack_
from sepdeploy.structures import DebutConvSpec, DebutSpec
from sepdeploy.structures.debut.chain import stack_shapes, with_steps

Geometry = tuple[tuple[int, int], str | tuple[int, int], tuple[int, int], str]


class Patches(nn.Module):
    """The k² pixels under a kernel as channels: a depthwise convolution with one-hot kernels.

    Args:
        channels: c; the result has c·k², all pixels of a channel side by side.
        kernel: (height, width).
        geometry: Stride, padding, dilation and padding mode, as of ``nn.Conv2d``.
    """

    def __init__(self, channels: int, kernel: tuple[int, ...], geometry: Geometry) -> None:
        super().__init__()
        self.channels, self.geometry = channels, geometry
        taps = kernel[0] * kernel[1]
        one_hot = torch.eye(taps).reshape(taps, 1, *kernel).repeat(channels, 1, 1, 1)
        self.register_buffer("pixels", one_hot, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, c, H, W) to (N, c·k², H', W')."""
        stride, padding, dilation, mode = self.geometry
        pixels = cast(Tensor, self.pixels)
        if mode != "zeros":
            x = F.pad(x, _borders(padding, dilation, tuple(pixels.shape[2:])), mode)
            padding = (0, 0)
        return F.conv2d(x, pixels, None, stride, padding, dilation, self.channels)


class DebutConv2d(StructuredConv2d):
    """A convolution whose weight, unfolded to (out, in·k²), is a chain of butterfly factors.

    Made of ordinary convolutions with channels shuffled between them, so it is deployed as it
    stands. The first factor is a depthwise convolution where its s is k² (and channels are listed
    before taps); else a fixed convolution takes the patches apart.

    Args:
        spec: The structure.
        stride: As of ``nn.Conv2d``.
        padding: As of ``nn.Conv2d``; "same" and "valid" too.
        dilation: As of ``nn.Conv2d``.
        bias: Whether to add a bias of o values.
        padding_mode: As of ``nn.Conv2d``.

    Attributes:
        factors: The convolutions, input side first; the last one has the bias, in the order of
            its own channels, which are shuffled once more behind it.
    """

    def __init__(
        self,
        spec: DebutConvSpec,
        *,
        stride: tuple[int, int] = (1, 1),
        padding: str | tuple[int, int] = (0, 0),
        dilation: tuple[int, int] = (1, 1),
        bias: bool = True,
        padding_mode: str = "zeros",
    ) -> None:
        super().__init__()
        self._spec = spec
        geometry = (stride, padding, dilation, padding_mode)
        moves = geometry != ((1, 1), (0, 0), (1, 1), padding_mode)
        apart = not spec.depthwise and (spec.taps > 1 or moves)
        self.patches = Patches(spec.in_channels, spec.kernel, geometry) if apart else None
        if apart:  # a pixel is in at most k² patches; one that is repeated at a border in more
            self.spread = math.sqrt(spec.taps) if padding_mode == "zeros" else None
        shapes = stack_shapes(spec.chain)
        made = []
        for number, (n, r, s) in enumerate(shapes):
            last = bias and number == len(shapes) - 1
            if number == 0 and spec.depthwise:
                first = nn.Conv2d(
                    n,
                    n * r,
                    cast(tuple[int, int], spec.kernel),
                    stride=stride,
                    padding=padding,
                    dilation=dilation,
                    groups=n,
                    bias=last,
                    padding_mode=padding_mode,  # type: ignore[arg-type]
                )
                made.append(first)
            else:
                made.append(nn.Conv2d(n * s, n * r, 1, groups=n, bias=last))
        self.factors = nn.ModuleList(made)
        self.reset_parameters()

    @property
    def spec(self) -> DebutConvSpec:
        """The structure as a record."""
        return self._spec

    def reset_parameters(self, gain: float = RELU_GAIN) -> None:
        """Draw factors as ``DebutLinear`` does; zero the bias."""
        share = gain ** (1 / len(self.factors))
        for part, stack in zip(self._convolutions(), self.stacks(), strict=True):
            orthogonal_stack_(stack, share)
            if part.bias is not None:
                nn.init.zeros_(part.bias)

    def _convolutions(self) -> list[nn.Conv2d]:
        return [cast(nn.Conv2d, part) for part in self.factors]

    def stacks(self) -> list[Tensor]:
        """The weights as stacks (G·t, r, s), views."""
        shapes = stack_shapes(self._spec.chain)
        parts = zip(self._convolutions(), shapes, strict=True)
        return [part.weight.view(shape) for part, shape in parts]

    def parts(self) -> dict[nn.Module, int]:
        """The convolutions; the first one stands for all dense weights."""
        first, *others = self._convolutions()
        return {first: self.dense_weights, **dict.fromkeys(others, 0)}

    def regularized(self) -> list[Tensor]:
        """All factors, as the stacks of small matrices they are made of."""
        return self.stacks()

    @property
    def dense_weights(self) -> int:
        """Weights of the plain convolution this layer stands for."""
        return self._spec.out_channels * self._spec.in_channels * self._spec.taps

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer to (N, c, H, W)."""
        spec = self._spec
        x = x if self.patches is None else self.patches(x)
        if spec.tap_major and spec.taps > 1:
            x = _shuffled(x, (spec.in_channels, spec.taps), (1, 0))
        t_before, r_before = 1, 1
        for part, (n, r, s), (_, _, t) in zip(
            self._convolutions(), stack_shapes(spec.chain), spec.chain, strict=True
        ):
            # (g, c, τ, b) of the factor before is (g, c, (b, τ)) of this one, which wants c last
            if t > 1:
                x = _shuffled(x, (n // t, s, t_before, r_before), (0, 3, 2, 1))
            x = part(x)
            t_before, r_before = t, r
        return _shuffled(x, (t_before, r_before), (1, 0))

    def dense_weight(self) -> Tensor:
        """The (o, c, kh, kw) weight this layer stands for; differentiable."""
        spec, stacks = self._spec, self.stacks()
        unit = torch.eye(spec.in_channels * spec.taps, dtype=stacks[0].dtype).to(stacks[0].device)
        return _folded(chain_apply(unit, stacks, spec.chain), spec)

    @classmethod
    def from_conv(cls, conv: nn.Conv2d, spec: DebutConvSpec) -> Self:
        """A fresh layer of a structure with the geometry of a plain convolution.

        Raises:
            BadInput: A grouped convolution.
        """
        if conv.groups != 1:
            raise BadInput("a grouped convolution has no butterfly form here", hint=GROUPED)
        layer = cls(
            spec,
            stride=cast(tuple[int, int], conv.stride),
            padding=cast(str | tuple[int, int], conv.padding),
            dilation=cast(tuple[int, int], conv.dilation),
            bias=conv.bias is not None,
            padding_mode=conv.padding_mode,
        )
        return layer.to(conv.weight.device, conv.weight.dtype)

    @classmethod
    def project(cls, conv: nn.Conv2d, spec: DebutConvSpec) -> Self:
        """The layer closest to a plain convolution; its bias is copied.

        Raises:
            BadInput: A grouped convolution, or a weight that is not finite.
        """
        layer = cls.from_conv(conv, spec)
        matrix = _unfolded(conv.weight.detach().double().cpu(), spec)
        found = DebutSpec.of(spec.chain).project(matrix.numpy())
        with torch.no_grad():
            for stack, factor in zip(layer.stacks(), found.factors, strict=True):
                stack.copy_(torch.from_numpy(factor))
            if conv.bias is not None:
                r, _, t = spec.chain[-1]
                own = conv.bias.reshape(r, t).t().flatten()
                cast(nn.Parameter, layer._convolutions()[-1].bias).copy_(own)
        layer.projection_error, layer.sweep_errors = found.relative_error, found.sweeps
        return layer

    @classmethod
    def forms(cls, conv: nn.Conv2d) -> Iterator[tuple[DebutConvSpec, float]]:
        """Chains that begin with a depthwise factor, with what they lose; last, one factor."""
        if conv.groups != 1:
            return
        channels, kernel = (conv.in_channels, conv.out_channels), tuple(conv.kernel_size)
        taps = conv.weight[0, 0].numel()
        matrix = conv.weight.detach().double().cpu().flatten(1)
        for chain in offered(matrix.shape[1], channels[1], taps if taps > 1 else 0):
            plain = DebutSpec.of(chain)
            if (plain.in_features, plain.out_features) == (matrix.shape[1], channels[1]):
                yield DebutConvSpec(*channels, kernel, chain), lost(plain, matrix)
        yield (
            DebutConvSpec(*channels, kernel, with_steps([(matrix.shape[0], matrix.shape[1])])),
            0.0,
        )

    def extra_repr(self) -> str:
        """Chain for ``print(model)``."""
        return self._spec.text.partition(":")[2]


def _borders(
    padding: str | tuple[int, int], dilation: tuple[int, int], kernel: tuple[int, ...]
) -> list[int]:
    """What ``F.pad`` takes: left, right, top, bottom."""
    if isinstance(padding, str):
        spans = [d * (k - 1) * (padding == "same") for d, k in zip(dilation, kernel, strict=True)]
    else:
        spans = [2 * p for p in padding]
    return [side for span in reversed(spans) for side in (span // 2, span - span // 2)]


def _shuffled(x: Tensor, sizes: tuple[int, ...], order: tuple[int, ...]) -> Tensor:
    """Channels read as a grid of these sizes, its axes permuted; ones cost nothing."""
    kept = [k for k, size in enumerate(sizes) if size > 1]
    moved = [k for k in order if k in kept]
    if moved == kept:
        return x
    grid = x.reshape(x.shape[0], *(sizes[k] for k in kept), x.shape[2:].numel())
    axes = [0, *(1 + kept.index(k) for k in moved), 1 + len(kept)]
    return grid.permute(axes).reshape(x.shape)


def _unfolded(weight: Tensor, spec: DebutConvSpec) -> Tensor:
    ordered = weight.permute(0, 2, 3, 1) if spec.tap_major else weight
    return ordered.flatten(1)


def _folded(matrix: Tensor, spec: DebutConvSpec) -> Tensor:
    if spec.tap_major:
        grid = matrix.reshape(spec.out_channels, *spec.kernel, spec.in_channels)
        return grid.permute(0, 3, 1, 2)
    return matrix.reshape(spec.out_channels, spec.in_channels, *spec.kernel)
