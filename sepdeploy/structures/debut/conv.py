"""A convolution as a chain on its patches: depthwise k×k, then grouped 1×1 convolutions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

from sepdeploy.errors import BadInput
from sepdeploy.structures.base import Convolution
from sepdeploy.structures.debut.chain import (
    Chain,
    checked,
    read_chain,
    widths,
    with_steps,
    write_chain,
)
from sepdeploy.structures.debut.search import best_chain, nearest_chain, suggestion, weights
from sepdeploy.structures.debut.spec import RATIO, USUAL_RATIO

TAPS_FIRST = "+taps"


@dataclass(frozen=True)
class DebutConvSpec(Convolution):
    """W unfolded to (out, in·k²) as a chain, all taps of a channel side by side.

    ``tap_major`` lists all channels of a tap side by side, as the released code does: for one chain
    the two are different operators.
    """

    in_channels: int
    out_channels: int
    kernel: tuple[int, ...]
    chain: Chain
    tap_major: bool = False
    structure: ClassVar[str] = "debut"
    grammar: ClassVar[tuple[str, ...]] = ("debut:30x", "debut:(2,4,16)…(8,9,1)")

    def __post_init__(self) -> None:
        object.__setattr__(self, "chain", checked(self.chain))
        object.__setattr__(self, "kernel", tuple(self.kernel))
        sizes = self.in_channels * self.taps, self.out_channels
        wide = widths(self.chain)
        if (wide[0], wide[-1]) != sizes:
            raise BadInput(
                f"the chain maps {wide[0]} → {wide[-1]}, the convolution "
                f"{self.in_channels}·{self.taps} → {self.out_channels}",
                hint=f"for example debut:{suggestion(self.chain, *sizes)}",
            )

    @property
    def taps(self) -> int:
        """Places of the kernel."""
        return math.prod(self.kernel)

    @property
    def depthwise(self) -> bool:
        """Whether the first factor is a depthwise convolution: channel by channel, all taps."""
        return not self.tap_major and self.taps > 1 and self.chain[0][1] == self.taps

    @classmethod
    def parse(cls, text: str, in_channels: int, out_channels: int, kernel: tuple[int, ...]) -> Self:
        """A chain from the output to the input, "30x" for the best one so much smaller, or "".

        Raises:
            BadInput: Malformed, or a chain of other sizes.
        """
        _, _, options = text.strip().partition(":")
        taps = math.prod(kernel)
        plain = options.removesuffix(TAPS_FIRST)
        ratio = RATIO.fullmatch(plain)
        if ratio or not plain:
            first = taps if taps > 1 else 0
            wanted = float(ratio[1]) if ratio else USUAL_RATIO
            chain, *_ = best_chain(in_channels * taps, out_channels, wanted, first)
        else:
            chain = read_chain(plain)
        return cls(in_channels, out_channels, kernel, chain, options.endswith(TAPS_FIRST))

    @classmethod
    def parse_any(
        cls, text: str, in_channels: int, out_channels: int, kernel: tuple[int, ...]
    ) -> Self:
        """As ``parse``; a budget that no chain of this layer reaches gives the smallest chain."""
        _, _, options = text.strip().partition(":")
        ratio, taps = RATIO.fullmatch(options), math.prod(kernel)
        if options and not ratio:
            return cls.parse(text, in_channels, out_channels, kernel)
        wanted, first = float(ratio[1]) if ratio else USUAL_RATIO, taps if taps > 1 else 0
        chain = nearest_chain(in_channels * taps, out_channels, wanted, first)
        if (widths(chain)[0], widths(chain)[-1]) != (in_channels * taps, out_channels):
            chain = with_steps([(out_channels, in_channels * taps)])  # channels are not padded
        return cls(in_channels, out_channels, kernel, chain)

    @classmethod
    def from_factors(cls, shapes: Sequence[tuple[int, ...]]) -> Self:
        """Read the chain from the shapes of the kernels that it is made of.

        Where no kernel is a depthwise one the taps were taken apart before: channels then are those
        of the patches.
        """
        outs = [shape[0] for shape in shapes]
        pairs = []
        for before, (out, s, *_) in zip(outs[:-1], shapes[1:], strict=True):
            pairs.append((out // (before // s), s))
        stack = outs[-2] // shapes[-1][1] if len(outs) > 1 else 1  # t of the last: Π r before it
        inner = math.prod(r for r, _ in pairs[:-1])
        first = stack // inner if pairs else outs[0]
        kernel = tuple(shapes[0][2:])
        s = shapes[0][1] * math.prod(kernel)
        chain = with_steps([(first, s), *pairs])
        return cls(widths(chain)[0] // math.prod(kernel), outs[-1], kernel, chain)

    @property
    def text(self) -> str:
        """Name, factors in the paper's order, and the order of the patches if it is not ours."""
        return f"{self.structure}:{write_chain(self.chain)}{TAPS_FIRST if self.tap_major else ''}"

    def params(self, bias: bool) -> int:
        """Weights of all factors, and one bias."""
        return weights(self.chain) + (self.out_channels if bias else 0)

    def macs_at(self, inputs: int, outputs: int) -> int:
        """Every factor once per place of the result."""
        return outputs * weights(self.chain)
