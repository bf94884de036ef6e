"""Pointwise, depthwise, pointwise: W[o,c,h,w] = Σ_ρ a_ρ[o] b_ρ[c] d_ρ[h,w]."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

from sepdeploy.errors import BadInput
from sepdeploy.structures.base import Convolution, check_count, whole_number


@dataclass(frozen=True)
class PdpSpec(Convolution):
    """A canonical polyadic decomposition of o × c × k²: 1×1 (c → R), depthwise k×k, 1×1 (R → o).

    Raises:
        BadInput: A kernel of one place, which has nothing for the depthwise part.
    """

    in_channels: int
    out_channels: int
    kernel: tuple[int, ...]
    rank: int
    structure: ClassVar[str] = "pdp"
    grammar: ClassVar[tuple[str, ...]] = ("pdp:64",)

    def __post_init__(self) -> None:
        object.__setattr__(self, "rank", check_count(self.rank, "rank"))
        if math.prod(self.kernel) == 1:
            raise BadInput("a 1×1 convolution has no pdp form", hint="lowrank is its like")
        sizes = sorted((self.in_channels, self.out_channels, math.prod(self.kernel)))
        if self.rank > sizes[0] * sizes[1]:
            raise BadInput(
                f"rank {self.rank} is above {sizes[0] * sizes[1]}, which any kernel can do with",
                hint="a rank below half of the channels is where it gets small",
            )

    @classmethod
    def parse(cls, text: str, in_channels: int, out_channels: int, kernel: tuple[int, ...]) -> Self:
        """Read "pdp:64".

        Raises:
            BadInput: Anything else.
        """
        return cls(in_channels, out_channels, kernel, whole_number(text.partition(":")[2]))

    @classmethod
    def from_factors(cls, shapes: Sequence[tuple[int, ...]]) -> Self:
        """Read the sizes from the shapes of the three kernels."""
        (rank, into, *_), (_, _, *kernel), (out, *_) = shapes
        return cls(into, out, tuple(kernel), rank)

    @property
    def text(self) -> str:
        """Name and rank."""
        return f"{self.structure}:{self.rank}"

    def params(self, bias: bool) -> int:
        """R (c + k² + o), and one bias."""
        weights = self.rank * (self.in_channels + math.prod(self.kernel) + self.out_channels)
        return weights + (self.out_channels if bias else 0)

    def macs_at(self, inputs: int, outputs: int) -> int:
        """The first part sees the layer's input, the others its result."""
        later = math.prod(self.kernel) + self.out_channels
        return self.rank * (inputs * self.in_channels + outputs * later)
