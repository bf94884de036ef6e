"""The dense layer, in the same words as the structured families."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from sepdeploy.errors import FORMS, BadInput
from sepdeploy.structures.base import (
    Array,
    Linear,
    Projection,
    Spectrum,
    check_count,
    check_factors,
    check_weight,
)
from sepdeploy.structures.spectra import full_rank_spectrum


@dataclass(frozen=True)
class DenseSpec(Linear):
    """W stored as it is, shape (n_out, n_in)."""

    in_features: int
    out_features: int
    structure: ClassVar[str] = "dense"
    grammar: ClassVar[tuple[str, ...]] = ("dense",)

    def __post_init__(self) -> None:
        object.__setattr__(self, "in_features", check_count(self.in_features, "in_features"))
        object.__setattr__(self, "out_features", check_count(self.out_features, "out_features"))

    @classmethod
    def parse(cls, options: str, in_shape: Sequence[int], out_features: int) -> Self:
        """The name alone."""
        if options:
            raise BadInput("dense takes no options", hint=FORMS)
        return cls(math.prod(in_shape), out_features)

    @property
    def text(self) -> str:
        """The name."""
        return self.structure

    @property
    def factor_shapes(self) -> tuple[tuple[int, ...], ...]:
        """One array: W."""
        return ((self.out_features, self.in_features),)

    @property
    def weight_params(self) -> int:
        """n_in · n_out."""
        return self.in_features * self.out_features

    def dense_matrix(self, factors: Sequence[Array]) -> Array:
        """W itself."""
        (weight,) = check_factors(self, factors)
        return weight

    def apply(self, x: Array, factors: Sequence[Array]) -> Array:
        """Compute x Wᵀ."""
        (weight,) = check_factors(self, factors)
        return np.asarray(x @ weight.T)

    def project(self, weight: Array) -> Projection:
        """W itself, without error."""
        return Projection((check_weight(self, weight),), 0.0)

    def spectrum(self, factors: Sequence[Array]) -> Spectrum:
        """Exact, by a full singular value decomposition."""
        (weight,) = check_factors(self, factors)
        return full_rank_spectrum(np.linalg.svd(weight.astype(np.float64), compute_uv=False))
