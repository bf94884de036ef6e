"""Deformable butterfly: W = R_N ⋯ R_1, each factor a block-diagonal grid of diagonal matrices."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Self

import numpy as np

from sepdeploy.errors import BadInput
from sepdeploy.structures.base import (
    Array,
    Linear,
    Projection,
    Spectrum,
    check_count,
    check_factors,
    check_weight,
)
from sepdeploy.structures.debut.chain import (
    Chain,
    checked,
    merge_all,
    read_chain,
    stack_shapes,
    widths,
    write_chain,
)
from sepdeploy.structures.debut.projection import project_matrix
from sepdeploy.structures.debut.search import best_chain, nearest_chain, suggestion
from sepdeploy.structures.singular import block_lanczos
from sepdeploy.structures.spectra import condition_number, full_rank_spectrum

EXACT_FEATURES = 512  # of the smaller side, up to which all singular values are computed
LARGEST_GRAM = 2048  # the same for the smallest one of a chain that cannot be inverted
TOLERANCE = 1e-6  # of iterated singular values: ‖Wᵀu − σv‖ ≤ tolerance · σ_1
USUAL_RATIO = 16.0  # what plain "debut" means
RATIO = re.compile(r"(\d{1,6}(?:\.\d{1,3})?)x")
PADDED = "+pad"


@dataclass(frozen=True)
class DebutSpec(Linear):
    """y = x (R_N ⋯ R_1)ᵀ + b, ``chain`` from the input to the output.

    A chain wider than the layer pads the input with zeros and crops the result.
    """

    chain: Chain
    in_features: int
    out_features: int
    structure: ClassVar[str] = "debut"
    grammar: ClassVar[tuple[str, ...]] = ("debut", "debut:30x", "debut:(2,2,64)…(16,25,1)")

    def __post_init__(self) -> None:
        object.__setattr__(self, "chain", checked(self.chain))
        object.__setattr__(self, "in_features", check_count(self.in_features, "in_features"))
        object.__setattr__(self, "out_features", check_count(self.out_features, "out_features"))
        wide = self.widths
        if wide[0] < self.in_features or wide[-1] < self.out_features:
            raise self._misfit()

    def _misfit(self) -> BadInput:
        wide, n_in, n_out = self.widths, self.in_features, self.out_features
        return BadInput(
            f"the chain maps {wide[0]} → {wide[-1]}, the layer is {n_in} → {n_out}",
            hint=f"for example debut:{suggestion(self.chain, n_in, n_out)}",
        )

    @classmethod
    def of(cls, chain: Sequence[Sequence[int]], n_in: int = 0, n_out: int = 0) -> Self:
        """A chain with its own widths where none are given."""
        wide = widths(checked(tuple(chain)))
        return cls(checked(tuple(chain)), n_in or wide[0], n_out or wide[-1])

    @classmethod
    def parse(cls, options: str, in_shape: Sequence[int], out_features: int) -> Self:
        """A chain from the output to the input, "30x" for the best one so much smaller, or "".

        Without options a layer too small for the usual ratio gets its smallest chain.
        """
        n_in = math.prod(in_shape)
        if not options:
            return cls(nearest_chain(n_in, out_features, USUAL_RATIO), n_in, out_features)
        if ratio := RATIO.fullmatch(options):
            return cls(best_chain(n_in, out_features, float(ratio[1]))[0], n_in, out_features)
        chain = read_chain(options.removesuffix(PADDED))
        spec = cls(chain, n_in, out_features)
        if spec.padded and not options.endswith(PADDED):
            raise spec._misfit()
        return spec

    @classmethod
    def parse_any(cls, options: str, in_shape: Sequence[int], out_features: int) -> Self:
        """As ``parse``; a budget that no chain of this layer reaches gives the smallest chain."""
        n_in, ratio = math.prod(in_shape), RATIO.fullmatch(options)
        if options and not ratio:
            return cls.parse(options, in_shape, out_features)
        wanted = float(ratio[1]) if ratio else USUAL_RATIO
        return cls(nearest_chain(n_in, out_features, wanted), n_in, out_features)

    @property
    def text(self) -> str:
        """Name, factors in the paper's order, and whether the layer is smaller than the chain."""
        return f"{self.structure}:{write_chain(self.chain)}{PADDED if self.padded else ''}"

    @staticmethod
    def shown(shapes: Sequence[tuple[int, ...]]) -> str:
        """The stacks from the output to the input, "64 of 2×2 · 16 of 16×25"; kernels as usual."""
        if any(len(shape) != 3 for shape in shapes):
            return Linear.shown(shapes)
        return " · ".join(f"{n} of {r}×{s}" for n, r, s in reversed([*shapes]))

    @cached_property
    def widths(self) -> tuple[int, ...]:
        """q, p_1 … p_N: features before the chain and behind each factor."""
        return widths(self.chain)

    @property
    def padded(self) -> bool:
        """Whether the chain is wider than the layer."""
        return (self.widths[0], self.widths[-1]) != (self.in_features, self.out_features)

    @property
    def exact_spectrum(self) -> bool:
        """Up to 512 features on the smaller side."""
        return min(self.in_features, self.out_features) <= EXACT_FEATURES

    @property
    def factor_shapes(self) -> tuple[tuple[int, ...], ...]:
        """(G·t, r, s) of each factor, input side first."""
        return stack_shapes(self.chain)

    @property
    def structural_rank(self) -> int:
        """The narrowest place of the chain."""
        return min(*self.widths, self.in_features, self.out_features)

    @property
    def weight_params(self) -> int:
        """Σ_i (Π_{j≤i} r_j)(Π_{j≥i} s_j)."""
        return sum(math.prod(shape) for shape in self.factor_shapes)

    def dense_matrix(self, factors: Sequence[Array]) -> Array:
        """R_N ⋯ R_1, cropped to (n_out, n_in)."""
        whole = merge_all(self.chain, check_factors(self, factors))[0]
        return np.asarray(whole[: self.out_features, : self.in_features])

    def apply(self, x: Array, factors: Sequence[Array]) -> Array:
        """Compute x Wᵀ factor by factor, each a batched product of small matrices."""
        arrays = check_factors(self, factors)
        spare = self.widths[0] - self.in_features
        state = np.pad(x, ((0, 0), (0, spare))).T if spare else x.T
        for factor, (r, s, t) in zip(arrays, self.chain, strict=True):
            groups = len(factor) // t
            parts = state.reshape(groups, s, t, len(x)).swapaxes(1, 2)
            done = factor.reshape(groups, t, r, s) @ parts
            state = done.swapaxes(1, 2).reshape(groups * r * t, len(x))
        return np.asarray(state[: self.out_features].T)

    def _adjoint(self, y: Array, factors: Sequence[Array]) -> Array:
        """Y W: the transposed factors in the other order."""
        state = np.pad(y, ((0, 0), (0, self.widths[-1] - self.out_features))).T
        for factor, (r, s, t) in reversed([*zip(factors, self.chain, strict=True)]):
            groups = len(factor) // t
            parts = state.reshape(groups, r, t, len(y)).swapaxes(1, 2)
            done = factor.reshape(groups, t, r, s).swapaxes(2, 3) @ parts
            state = done.swapaxes(1, 2).reshape(groups * s * t, len(y))
        return np.asarray(state[: self.in_features].T)

    def project(self, weight: Array) -> Projection:
        """Two-factor splits by singular vectors, polished by alternating sweeps: a local optimum.

        Padding is fitted to zeros.

        Raises:
            BadInput: The weight has another shape or is not finite.
        """
        matrix = check_weight(self, weight)
        extra = ((0, self.widths[-1] - self.out_features), (0, self.widths[0] - self.in_features))
        factors, errors = project_matrix(np.pad(matrix, extra), self.chain)
        found = matrix - self.dense_matrix(factors)
        norm = float(np.linalg.norm(matrix))
        error = float(np.linalg.norm(found)) / norm if norm else 0.0
        return Projection(self.balance(factors), error, errors)

    def balance(self, factors: Sequence[Array]) -> tuple[Array, ...]:
        """Rescale the factors to an equal size per input, ‖R_i‖_F/√(G·r·t); W stays the same."""
        arrays = check_factors(self, factors)
        sizes = [float(np.linalg.norm(a)) / math.sqrt(len(a) * a.shape[1]) for a in arrays]
        if not all(sizes):
            return tuple(np.zeros_like(a) for a in arrays)
        common = math.exp(sum(map(math.log, sizes)) / len(sizes))
        return tuple(a * (common / size) for a, size in zip(arrays, sizes, strict=True))

    def spectrum(self, factors: Sequence[Array]) -> Spectrum:
        """Exact up to 512 features; above, iterated to a relative residual of 1e-6.

        The smallest singular value then is that of the inverse chain, where all blocks are square,
        or of the Gram matrix up to 2048 features; of larger ones it stays unknown.
        """
        arrays = [a.astype(np.float64) for a in check_factors(self, factors)]
        rank = self.structural_rank
        if self.exact_spectrum:
            sigma = np.linalg.svd(self.dense_matrix(arrays), compute_uv=False)
            return full_rank_spectrum(sigma[:rank])
        largest = self._largest(arrays)
        smallest = self._smallest(arrays)
        kappa = None if smallest is None else condition_number(largest, smallest)
        return Spectrum(largest, smallest, kappa, rank, exact=False)

    def _largest(self, arrays: Sequence[Array]) -> float:
        _, sigma, _, _ = block_lanczos(
            lambda x: self.apply(x.T, arrays).T,
            lambda y: self._adjoint(y.T, arrays).T,
            self.in_features,
            1,
            tolerance=TOLERANCE,
        )
        return float(sigma[0])

    def _smallest(self, arrays: Sequence[Array]) -> float | None:
        if not self.padded and all(r == s for r, s, _ in self.chain):
            try:  # (R_N ⋯ R_1)⁻ᵀ is a chain of the same shape: R_i⁻ᵀ in the place of R_i
                inverse = [np.linalg.inv(a).swapaxes(1, 2) for a in arrays]
            except np.linalg.LinAlgError:
                return 0.0
            return 1 / self._largest(inverse)
        if min(self.in_features, self.out_features) > LARGEST_GRAM:
            return None
        matrix = self.dense_matrix(arrays)
        small = matrix @ matrix.T if len(matrix) <= matrix.shape[1] else matrix.T @ matrix
        values = np.linalg.eigvalsh(small)[::-1]
        return math.sqrt(max(0.0, float(values[self.structural_rank - 1])))
