"""The deformable butterfly layer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import zip_longest
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sepdeploy.layers.base import StructuredLinear
from sepdeploy.layers.initial import RELU_GAIN, orthogonal_stack_
from sepdeploy.layers.kron import FactorList
from sepdeploy.structures import DebutSpec
from sepdeploy.structures.debut.chain import Chain, with_steps
from sepdeploy.structures.debut.search import chains

MOST_FORMS = 8  # chains that are projected to compare what they lose
LARGEST_PROJECTED = 1 << 24  # weights of a layer, above which what a chain loses is only estimated


def chain_apply(columns: Tensor, factors: Sequence[Tensor], chain: Chain) -> Tensor:
    """Compute R_N ⋯ R_1 X, each factor as one batched product of its small matrices.

    Samples stay last in memory, so that what is moved between two factors moves in whole rows.

    Args:
        columns: X, (q, M).
        factors: (G·t, r, s) each, input side first.
        chain: Their (r, s, t).

    Returns:
        (p, M).
    """
    samples = columns.shape[1]
    for factor, (r, s, t) in zip(factors, chain, strict=True):
        groups = factor.shape[0] // t
        parts = columns.reshape(groups, s, t, samples).transpose(1, 2)
        done = torch.bmm(factor, parts.reshape(groups * t, s, samples))
        moved = done.reshape(groups, t, r, samples).transpose(1, 2)
        columns = moved.reshape(groups * r * t, samples)
    return columns


class DebutLinear(StructuredLinear):
    """y = R_N ⋯ R_1 x + b with block-diagonal factors of grids of diagonal matrices.

    Args:
        chain: (r, s, t) of each factor from the input to the output: t is 1 in the first factor
            and r·t of the one before in all others.
        in_features: n_in, 0 = the chain's own; a smaller layer pads its input with zeros.
        out_features: n_out, likewise; the rest of the result is cropped.
        bias: Whether to add a bias of n_out values.
        device: Where the parameters are made, as of ``nn.Linear``.
        dtype: Their type, as of ``nn.Linear``.

    Attributes:
        spec: The structure as a record.
        factors: One parameter (G·t, r, s) per factor; ``factors()`` gives them as a tuple.
        projection_error: Relative error of ``from_dense``, None for a layer made from scratch.
        sweep_errors: The same at the projection's start and after each of its sweeps.

    Raises:
        BadInput: The chain does not densify, or is narrower than the layer.
    """

    spec: DebutSpec
    factors: FactorList

    def __init__(
        self,
        chain: Sequence[tuple[int, int, int]],
        in_features: int = 0,
        out_features: int = 0,
        bias: bool = True,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        empty = partial(torch.empty, device=device, dtype=dtype)
        self.spec = DebutSpec.of(chain, in_features, out_features)
        self.factors = FactorList(nn.Parameter(empty(shape)) for shape in self.spec.factor_shapes)
        self.bias = nn.Parameter(empty(self.spec.out_features)) if bias else None
        self.reset_parameters()

    def reset_parameters(self, gain: float = RELU_GAIN) -> None:
        """Draw factors with mean square entry 1/s, the gain shared by all; zero the bias.

        Every small matrix has equal singular values, so a chain of square ones starts at condition
        number 1, and no factor changes the variance of the signal but for its share of the gain.
        """
        share = gain ** (1 / len(self.spec.chain))
        for factor in self.factors:
            orthogonal_stack_(factor, share)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def compute(self, rows: Tensor) -> Tensor:
        """Factor by factor."""
        spec = self.spec
        spare = spec.widths[0] - spec.in_features
        columns = (F.pad(rows, (0, spare)) if spare else rows).t()
        y = chain_apply(columns, self.factors(), spec.chain)[: spec.out_features].t()
        return y if self.bias is None else y + self.bias

    @classmethod
    def from_spec(cls, spec: DebutSpec, bias: bool = True) -> Self:
        """A freshly initialised layer of a structure."""
        return cls(spec.chain, spec.in_features, spec.out_features, bias)

    @classmethod
    def from_dense(cls, linear: nn.Linear, chain: Sequence[tuple[int, int, int]] = ()) -> Self:
        """The layer closest to a dense one in Frobenius norm; its bias is copied.

        Args:
            linear: The dense layer.
            chain: As of the class; none takes the best one with 16 times fewer weights.

        Raises:
            BadInput: The chain is narrower than the layer, or its weight is not finite.
        """
        n_out, n_in = linear.weight.shape
        spec = DebutSpec.of(chain, n_in, n_out) if chain else DebutSpec.parse("", (n_in,), n_out)
        return cls.project(linear, spec)

    def take_factors(self, factors: tuple[Tensor, ...]) -> None:
        """Copy factors into the parameters."""
        for parameter, factor in zip(self.factors, factors, strict=True):
            parameter.copy_(factor)

    def regularized(self) -> list[Tensor]:
        """All factors, as the stacks of small matrices they are made of."""
        return list(self.factors)

    def prunable(self) -> dict[str, Tensor]:
        """All factors."""
        return {f"factors.{k}": factor for k, factor in enumerate(self.factors)}

    @classmethod
    def forms(cls, weight: Tensor) -> Iterator[tuple[DebutSpec, float]]:
        """Chains, monotone and bulging, with what their projection loses; last, one factor."""
        n_out, n_in = weight.shape
        for chain in offered(n_in, n_out):
            spec = DebutSpec(chain, n_in, n_out)
            yield spec, lost(spec, weight)
        yield DebutSpec.of(with_steps([(n_out, n_in)])), 0.0

    def extra_repr(self) -> str:
        """Chain for ``print(model)``."""
        spec = self.spec
        sides = f"{spec.in_features} → {spec.out_features}"
        return f"{sides}, {spec.text.partition(':')[2]}, bias={self.bias is not None}"


def offered(n_in: int, n_out: int, first: int = 0) -> list[Chain]:
    """Some chains of either kind, spread evenly over the sizes they come in."""
    kinds = (chains(n_in, n_out, kind, first) for kind in ("monotone", "bulging"))
    spread = [found[:: max(1, 2 * len(found) // MOST_FORMS)] for found in kinds]
    return [chain for pair in zip_longest(*spread) for chain in pair if chain is not None]


def lost(spec: DebutSpec, weight: Tensor) -> float:
    """Share of energy that a chain loses; of a large layer what it would lose of noise."""
    if weight.numel() > LARGEST_PROJECTED:
        return max(0.0, 1.0 - spec.weight_params / spec.dense_macs)
    return spec.project(weight.numpy()).relative_error ** 2
