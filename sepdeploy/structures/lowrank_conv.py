"""The low-rank convolution: W[o,c,h,w] = Σ_pq V[o,p] S[p,q,h,w] U[c,q], group by group."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from sepdeploy.errors import BadInput
from sepdeploy.structures.base import Convolution


@dataclass(frozen=True)
class LowRankConvSpec(Convolution):
    """A Tucker factorisation of the two channel modes: 1×1 (c → q), k×k (q → p), 1×1 (p → o).

    A 1×1 kernel needs no ``core``: it is a matrix of one rank, 1×1 (c → r), 1×1 (r → o). In a
    grouped convolution ranks are those of each group.
    """

    in_channels: int
    out_channels: int
    kernel: tuple[int, ...]
    ranks: tuple[int, int]
    groups: int = 1
    core: bool = True
    structure: ClassVar[str] = "lowrank"
    takes_groups: ClassVar[bool] = True
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
        core = len(ranks) > 1 or math.prod(kernel) > 1
        both = int(ranks[0]), int(ranks[-1])
        return cls(in_channels, out_channels, kernel, both, core=core)

    def grouped(self, groups: int) -> Self:
        """The same ranks in each group."""
        return dataclasses.replace(self, groups=groups)

    @classmethod
    def from_factors(cls, shapes: Sequence[tuple[int, ...]]) -> Self:
        """Read the sizes from the shapes of the kernels, the core's between the two others."""
        (all_q, into, *outside), *between, (out, p, *_) = shapes
        if math.prod(outside) != 1 or len(between) > 1:
            raise ValueError(f"{shapes} are not the kernels of a low-rank convolution")
        q, kernel = (between[0][1], between[0][2:]) if between else (p, (1, 1))
        groups = all_q // q
        return cls(into * groups, out, tuple(kernel), (q, p), groups, len(shapes) > 2)

    def to_json(self) -> dict[str, object]:
        """As of every family; what a plain k×k convolution has is left out, as in older files."""
        usual = {"groups": 1, "core": True}
        return {k: v for k, v in super().to_json().items() if k not in usual or v != usual[k]}

    @property
    def adapts(self) -> bool:
        """Whether its ranks may change while it trains."""
        return self.core and self.groups == 1

    @property
    def saved(self) -> Any:
        """[q, p], as the first model files had it; else the structure string."""
        return list(self.ranks) if self.adapts else self.text

    @classmethod
    def read(
        cls, saved: Any, in_channels: int, out_channels: int, kernel: tuple[int, ...]
    ) -> Self | None:
        """Read [q, p] or a structure string."""
        if not isinstance(saved, list) or [type(r) for r in saved] != [int, int]:
            return super().read(saved, in_channels, out_channels, kernel)
        return cls(in_channels, out_channels, kernel, (saved[0], saved[1]))

    @property
    def text(self) -> str:
        """Name and both ranks, or the one of a pair."""
        return f"{self.structure}:{'x'.join(map(str, self.ranks if self.core else self.ranks[:1]))}"

    @property
    def _weights(self) -> tuple[int, int, int]:
        q, p = self.ranks
        core = self.groups * math.prod(self.kernel) * q * p if self.core else 0
        return self.in_channels * q, core, p * self.out_channels

    def params(self, bias: bool) -> int:
        """Weights of the parts, and one bias."""
        return sum(self._weights) + (self.out_channels if bias else 0)

    def macs_at(self, inputs: int, outputs: int) -> int:
        """The first of three parts sees the layer's input, the others its result."""
        first, *others = self._weights
        return (inputs if self.core else outputs) * first + outputs * sum(others)
