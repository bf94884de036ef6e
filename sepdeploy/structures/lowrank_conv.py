"""The low-rank convolution: W[o,c,h,w] = Σ_pq V[o,p] S[p,q,h,w] U[c,q]."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from sepdeploy.errors import BadInput
from sepdeploy.structures.base import Convolution


@dataclass(frozen=True)
class LowRankConvSpec(Convolution):
    """A Tucker factorisation of the two channel modes: 1×1 (c → q), k×k (q → p), 1×1 (p → o)."""

    in_channels: int
    out_channels: int
    kernel: tuple[int, ...]
    ranks: tuple[int, int]
    structure: ClassVar[str] = "lowrank"
    grammar: ClassVar[tuple[str, ...]] = ("lowrank:24x32, which is the same as tucker:24x32",)

    @classmethod
    def parse(cls, text: str, in_channels: int, out_channels: int, kernel: tuple[int, ...]) -> Self:
        """Read "lowrank:24x32", q = 24 and p = 32; one number is both; "tucker" names it too.

        Raises:
            BadInput: Anything else.
        """
        _, _, options = text.strip().partition(":")
        ranks = options.split("x")
        if len(ranks) > 2 or not all(r.isdecimal() and len(r) < 7 for r in ranks):
            raise BadInput(
                f"structure '{text[:60]}' is no form of a convolution",
                hint=f"for example {cls.grammar[0]}",
            )
        return cls(in_channels, out_channels, kernel, (int(ranks[0]), int(ranks[-1])))

    @classmethod
    def from_factors(cls, shapes: Sequence[tuple[int, ...]]) -> Self:
        """Read the sizes from the shapes of the three kernels."""
        (q, into, *_), (_, _, *kernel), (out, p, *_) = shapes
        return cls(into, out, tuple(kernel), (q, p))

    @property
    def saved(self) -> list[int]:
        """[q, p], as the first model files had it."""
        return list(self.ranks)

    @classmethod
    def read(
        cls, saved: Any, in_channels: int, out_channels: int, kernel: tuple[int, ...]
    ) -> Self | None:
        """Read [q, p]."""
        if not isinstance(saved, list) or [type(r) for r in saved] != [int, int]:
            return None
        return cls(in_channels, out_channels, kernel, (saved[0], saved[1]))

    @property
    def text(self) -> str:
        """Name and both ranks."""
        return f"{self.structure}:{self.ranks[0]}x{self.ranks[1]}"

    @property
    def _weights(self) -> tuple[int, int, int]:
        q, p = self.ranks
        return self.in_channels * q, math.prod(self.kernel) * q * p, p * self.out_channels

    def params(self, bias: bool) -> int:
        """Weights of the three parts, and one bias."""
        return sum(self._weights) + (self.out_channels if bias else 0)

    def macs_at(self, inputs: int, outputs: int) -> int:
        """The first part sees the layer's input, the others its result."""
        first, *others = self._weights
        return inputs * first + outputs * sum(others)
