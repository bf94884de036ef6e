"""What every structure family offers, and the limits that keep a hostile description harmless."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from sepdeploy.errors import BadInput
from sepdeploy.records import MAX_FEATURES

Array = NDArray[Any]

MAX_MODES = 12
MAX_TERMS = 1024


@dataclass(frozen=True)
class Projection:
    """The closest member of a family to a dense weight.

    ``relative_error`` = ‖W − W'‖_F / ‖W‖_F, 0 for a zero weight.
    """

    factors: tuple[Array, ...]
    relative_error: float


@dataclass(frozen=True)
class Spectrum:
    """Extreme singular values of the operator a set of factors stands for.

    ``structural_rank`` is the largest rank that the shapes allow; ``sigma_min`` is the singular
    value of that index, so a factor that lost rank shows as a condition number of infinity.
    ``exact`` is False where only ``sigma_max`` is known (a sum of Kronecker terms): then
    ``sigma_min`` and ``condition_number`` are None.
    """

    sigma_max: float
    sigma_min: float | None
    condition_number: float | None
    structural_rank: int
    exact: bool


class Structure(Protocol):
    """A family's description of one linear map y = x Wᵀ + b, W of shape (n_out, n_in)."""

    structure: ClassVar[str]

    @property
    def in_features(self) -> int:
        """n_in."""
        ...

    @property
    def out_features(self) -> int:
        """n_out."""
        ...

    @property
    def factor_shapes(self) -> tuple[tuple[int, ...], ...]:
        """Shape of each stored array, in the order of ``factors`` arguments."""
        ...

    @property
    def weight_params(self) -> int:
        """Numbers stored, bias left out."""
        ...

    @property
    def macs(self) -> int:
        """Multiply-accumulates per sample in the cheapest contraction order."""
        ...

    @property
    def dense_macs(self) -> int:
        """Multiply-accumulates per sample of the dense layer of the same size."""
        ...

    def params(self, bias: bool) -> int:
        """Numbers stored."""
        ...

    def dense_params(self, bias: bool) -> int:
        """Numbers stored by the dense layer of the same size."""
        ...

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; ``spec_from_json`` reads them back."""
        ...

    def dense_matrix(self, factors: Sequence[Array]) -> Array:
        """The (n_out, n_in) matrix the factors stand for."""
        ...

    def apply(self, x: Array, factors: Sequence[Array]) -> Array:
        """Compute x Wᵀ for x of shape (M, n_in), without forming W."""
        ...

    def project(self, weight: Array) -> Projection:
        """The closest factors to a dense (n_out, n_in) weight."""
        ...

    def spectrum(self, factors: Sequence[Array]) -> Spectrum:
        """Extreme singular values from the factors."""
        ...


class Counted:
    """The counts that follow from a spec's others in the same way for every family."""

    @property
    def dense_macs(self: Structure) -> int:
        """n_in · n_out."""
        return self.in_features * self.out_features

    def params(self: Structure, bias: bool) -> int:
        """Weights, plus n_out with a bias."""
        return self.weight_params + (self.out_features if bias else 0)

    def dense_params(self: Structure, bias: bool) -> int:
        """Weights of the dense layer, plus n_out with a bias."""
        return self.dense_macs + (self.out_features if bias else 0)


def check_count(value: Any, what: str, limit: int = MAX_FEATURES) -> int:
    """Return ``value`` as an int within 1 … limit.

    Raises:
        BadInput: Not an integer, below 1 or above ``limit``.
    """
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise BadInput(f"{what} must be a whole number, found {value!r:.40}")
    if not 1 <= value <= limit:
        raise BadInput(f"{what} {value!r:.40} is outside 1 … {limit}")
    return int(value)


def check_factors(spec: Structure, factors: Sequence[Array]) -> tuple[Array, ...]:
    """Return the factors as float arrays of the shapes the spec says.

    Raises:
        BadInput: Wrong number of factors or wrong shapes.
    """
    arrays = tuple(np.asarray(f) for f in factors)
    found = tuple(a.shape for a in arrays)
    if found != spec.factor_shapes:
        raise BadInput(
            f"{spec.structure} factors have shapes {list(found)}, "
            f"expected {list(spec.factor_shapes)}"
        )
    return tuple(a if a.dtype.kind == "f" else a.astype(np.float64) for a in arrays)


def check_weight(spec: Structure, weight: Array) -> Array:
    """Return a dense weight in double precision.

    Raises:
        BadInput: Not of shape (n_out, n_in), or it holds NaN or infinities.
    """
    matrix = np.asarray(weight, dtype=np.float64)
    expected = (spec.out_features, spec.in_features)
    if matrix.shape != expected:
        raise BadInput(f"weight has shape {matrix.shape}, expected {expected}")
    if not np.isfinite(matrix).all():
        raise BadInput("weight holds NaN or infinite values and cannot be projected")
    return matrix
