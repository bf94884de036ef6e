"""Low rank: W = V Uᵀ with U (n_in, r) and V (n_out, r)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
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
    whole_number,
)
from sepdeploy.structures.singular import leading_triplets, relative_residual
from sepdeploy.structures.spectra import full_rank_spectrum


@dataclass(frozen=True)
class LowRankSpec(Linear):
    """y = (x U) Vᵀ + b.

    In training the layer keeps U S Vᵀ with a free core S; this is the deployed form, S folded
    into V, and all counts are of this form.
    """

    in_features: int
    out_features: int
    rank: int
    structure: ClassVar[str] = "lowrank"
    grammar: ClassVar[tuple[str, ...]] = ("lowrank:40",)
    open_rank: ClassVar[bool] = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "in_features", check_count(self.in_features, "in_features"))
        object.__setattr__(self, "out_features", check_count(self.out_features, "out_features"))
        object.__setattr__(self, "rank", check_count(self.rank, "rank"))
        largest = min(self.in_features, self.out_features)
        if self.rank > largest:
            raise BadInput(
                f"rank {self.rank} of a {self.in_features} → {self.out_features} layer "
                f"is above the largest possible, {largest}",
                hint=f"at most {largest}; below half of that it is smaller than the dense layer",
            )

    @classmethod
    def parse(cls, options: str, in_shape: Sequence[int], out_features: int) -> Self:
        """A rank."""
        return cls(math.prod(in_shape), out_features, whole_number(options))

    @property
    def text(self) -> str:
        """Name and rank."""
        return f"{self.structure}:{self.rank}"

    @property
    def factor_shapes(self) -> tuple[tuple[int, ...], ...]:
        """U (n_in, r) and V (n_out, r)."""
        return ((self.in_features, self.rank), (self.out_features, self.rank))

    @property
    def weight_params(self) -> int:
        """The rank times n_in + n_out."""
        return self.rank * (self.in_features + self.out_features)

    def dense_matrix(self, factors: Sequence[Array]) -> Array:
        """V Uᵀ."""
        u, v = check_factors(self, factors)
        return np.asarray(v @ u.T)

    def apply(self, x: Array, factors: Sequence[Array]) -> Array:
        """(x U) Vᵀ."""
        u, v = check_factors(self, factors)
        return np.asarray((x @ u) @ v.T)

    def project(self, weight: Array) -> Projection:
        """The best rank-r approximation (Eckart-Young): U orthonormal, σ carried by V."""
        matrix = check_weight(self, weight)
        left, sigma, right = leading_triplets(matrix, self.rank)
        v = left * sigma
        return Projection((right, v), relative_residual(matrix, v, right, sigma))

    def spectrum(self, factors: Sequence[Array]) -> Spectrum:
        """Exact: with U = Q_u R_u and V = Q_v R_v the singular values are those of R_v R_uᵀ."""
        u, v = (f.astype(np.float64) for f in check_factors(self, factors))
        r_u, r_v = np.linalg.qr(u)[1], np.linalg.qr(v)[1]
        return full_rank_spectrum(np.linalg.svd(r_v @ r_u.T, compute_uv=False))
