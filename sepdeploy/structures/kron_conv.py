"""The Kronecker convolution: W = Σ_k A_k ⊗ B_k, A over modes of channels, B a smaller kernel."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

from sepdeploy.errors import FORMS, BadInput
from sepdeploy.structures.base import MAX_TERMS, Convolution, check_count
from sepdeploy.structures.kron import KronSpec
from sepdeploy.structures.shapes import factor_pairs


@dataclass(frozen=True)
class KronConvSpec(Convolution):
    """Channels c = (a_in, b_in) → o = (a_out, b_out): W[(p,q),(i,j)] = Σ_k A_k[p,i] B_k[q,j].

    A_k is a matrix of numbers, B_k one of k×k kernels. A 1×1 kernel makes it the Kronecker layer
    at every pixel.
    """

    in_shape: tuple[int, int]
    out_shape: tuple[int, int]
    kernel: tuple[int, ...]
    terms: int = 1
    structure: ClassVar[str] = "kron"
    grammar: ClassVar[tuple[str, ...]] = ("kron:4x8-8x8*2",)

    def __post_init__(self) -> None:
        object.__setattr__(self, "terms", check_count(self.terms, "terms", MAX_TERMS))
        if len(self.in_shape) != 2 or len(self.out_shape) != 2:
            raise BadInput("channels of a convolution are split into two modes", hint=FORMS)

    @classmethod
    def parse(cls, text: str, in_channels: int, out_channels: int, kernel: tuple[int, ...]) -> Self:
        """Modes and terms as of linear layers; without modes the smallest form of the layer.

        Raises:
            BadInput: Malformed, or modes that do not multiply to the channels.
        """
        options = text.strip().removeprefix(cls.structure).removeprefix(":")
        if not options[:1].isdigit():
            small = min(
                kron_shapes(in_channels, out_channels, kernel), key=lambda s: s.params(bias=False)
            )
            modes = "-".join("x".join(map(str, s)) for s in (small.in_shape, small.out_shape))
            options = modes + options
        found = KronSpec.parse(options, (in_channels,), out_channels)
        if found != KronSpec(found.in_shape, found.out_shape, found.terms):
            raise BadInput("a convolution has one bias per channel", hint="leave +sumbias out")
        into, out = tuple(found.in_shape), tuple(found.out_shape)
        return cls(into, out, kernel, found.terms)  # type: ignore[arg-type]

    @classmethod
    def from_factors(cls, shapes: Sequence[tuple[int, ...]]) -> Self:
        """Read the shapes of B (terms·b_out, b_in, k, k) and A (a_out, a_in, terms, 1)."""
        (stacked, b_in, *kernel), (a_out, a_in, terms, _) = shapes
        return cls((a_in, b_in), (a_out, stacked // terms), tuple(kernel), terms)

    @property
    def text(self) -> str:
        """As of linear layers."""
        return KronSpec(self.in_shape, self.out_shape, self.terms).text

    @property
    def _weights(self) -> tuple[int, int]:
        (a_in, b_in), (a_out, b_out) = self.in_shape, self.out_shape
        return self.terms * b_out * b_in * math.prod(self.kernel), self.terms * a_out * a_in

    def params(self, bias: bool) -> int:
        """Weights of both parts, and a bias per channel."""
        return sum(self._weights) + (math.prod(self.out_shape) if bias else 0)

    def macs_at(self, inputs: int, outputs: int) -> int:
        """B once per mode a_in, then A once per mode b_out, at every place of the result."""
        inner, outer = self._weights
        return outputs * (self.in_shape[0] * inner + self.out_shape[1] * outer)


def kron_shapes(
    in_channels: int, out_channels: int, kernel: tuple[int, ...]
) -> Iterator[KronConvSpec]:
    """Every split of the channels into two modes with one term, but the layer itself."""
    for into in factor_pairs(in_channels):
        for out in factor_pairs(out_channels):
            if into[0] > 1 or out[0] > 1 or in_channels == out_channels == 1:
                yield KronConvSpec(into, out, kernel)
