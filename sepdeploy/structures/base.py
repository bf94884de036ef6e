"""What every structure family offers, and the limits that keep a hostile description harmless."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from sepdeploy.codec import to_json
from sepdeploy.errors import ARRAYS, FINITE, FORMS, BadInput
from sepdeploy.records import MAX_FEATURES

Array = NDArray[Any]

MAX_MODES = 12
MAX_TERMS = 1024


@dataclass(frozen=True)
class Projection:
    """The closest member of a family to a dense weight.

    ``relative_error`` = ‖W − W'‖_F / ‖W‖_F, 0 for a zero weight; ``sweeps`` has it at the start and
    after each sweep of a family that iterates.
    """

    factors: tuple[Array, ...]
    relative_error: float
    sweeps: tuple[float, ...] = ()


@dataclass(frozen=True)
class Spectrum:
    """Extreme singular values of the operator a set of factors stands for.

    ``structural_rank`` is the largest rank that the shapes allow; ``sigma_min`` is the singular
    value of that index, so a factor that lost rank shows as a condition number of infinity.
    ``exact`` is False where values are iterated for; where only ``sigma_max`` is known (a sum of
    Kronecker terms, a large chain) ``sigma_min`` and ``condition_number`` are None.
    """

    sigma_max: float
    sigma_min: float | None
    condition_number: float | None
    structural_rank: int
    exact: bool


class Form(Protocol):
    """What one layer could become: how it is written in a recipe, and what it costs."""

    structure: ClassVar[str]

    @property
    def text(self) -> str:
        """The structure string that means exactly this, "lowrank:40"."""
        ...

    def params(self, bias: bool) -> int:
        """Numbers stored."""
        ...

    def macs_at(self, inputs: int, outputs: int) -> int:
        """Multiply-accumulates of a sample with so many places before and after the layer."""
        ...

    def to_json(self) -> dict[str, object]:
        """Plain JSON values."""
        ...


class Convolution(Form, Protocol):
    """A family's description of a convolution that is made of ordinary ones, one after the other.

    Attributes:
        grammar: Examples of its structure strings, for error messages.
        takes_groups: Whether a grouped convolution has such a form.
    """

    grammar: ClassVar[tuple[str, ...]] = ()
    takes_groups: ClassVar[bool] = False

    @classmethod
    def parse(cls, text: str, in_channels: int, out_channels: int, kernel: tuple[int, ...]) -> Self:
        """Read a structure string with the family's name."""
        ...

    @classmethod
    def from_factors(cls, shapes: Sequence[tuple[int, ...]]) -> Self:
        """Read the sizes from the shapes of the kernels that it is made of."""
        ...

    @classmethod
    def parse_any(
        cls, text: str, in_channels: int, out_channels: int, kernel: tuple[int, ...]
    ) -> Self:
        """As ``parse``, for networks made of this family alone: what comes nearest, never none."""
        return cls.parse(text, in_channels, out_channels, kernel)

    def grouped(self, groups: int) -> Self:
        """As it is in each of so many groups; only asked of a family that ``takes_groups``."""
        return self

    def to_json(self) -> dict[str, object]:
        """The fields as plain JSON values."""
        return dict(to_json(self))

    @property
    def saved(self) -> Any:
        """What a model file keeps of it: the structure string."""
        return self.text

    @classmethod
    def read(
        cls, saved: Any, in_channels: int, out_channels: int, kernel: tuple[int, ...]
    ) -> Self | None:
        """Read what a model file keeps; None where that is of another family."""
        if not isinstance(saved, str) or saved.partition(":")[0] != cls.structure:
            return None
        return cls.parse(saved, in_channels, out_channels, kernel)


class Linear(Form, Protocol):
    """What follows for a spec from its other properties, unless the family says otherwise.

    Attributes:
        structure: The family's name, its key in ``STRUCTURES``.
        grammar: Examples of its structure strings, for error messages.
        open_rank: Whether the bare name leaves a rank open that a planner has to fill in.
        takes_modes: Whether modes "in-out" can be written behind the colon.
        planned: What a planner that chooses widths writes for the bare name; "" = the name.
        planned_head: Structure of the classifier where a budget leaves no room for a dense one.
    """

    grammar: ClassVar[tuple[str, ...]] = ()
    open_rank: ClassVar[bool] = False
    takes_modes: ClassVar[bool] = False
    planned: ClassVar[str] = ""
    planned_head: ClassVar[str] = ""

    @classmethod
    def parse_any(cls, options: str, in_shape: Sequence[int], out_features: int) -> Structure:
        """As ``parse``, for networks made of this family alone: what comes nearest, never none."""
        family: Any = cls
        found: Structure = family.parse(options, in_shape, out_features)
        return found

    @classmethod
    def written_width(cls, options: str) -> int:
        """n_out where the options behind the name spell it out, else 0."""
        return 0

    @staticmethod
    def shown(shapes: Sequence[tuple[int, ...]]) -> str:
        """The shapes of the factors for readers."""
        return " ".join("×".join(map(str, shape)) for shape in shapes)

    @property
    def in_modes(self: Structure) -> tuple[int, ...]:
        """Shape of a sample as the layer likes it best: flat."""
        return (self.in_features,)

    @property
    def out_modes(self: Structure) -> tuple[int, ...]:
        """Shape of a result for a sample of ``in_modes``: flat."""
        return (self.out_features,)

    @property
    def exact_spectrum(self) -> bool:
        """Whether ``spectrum`` is exact, and cheap."""
        return True

    @property
    def macs(self: Structure) -> int:
        """Multiply-accumulates per sample in the cheapest contraction order: one a weight."""
        return self.weight_params

    def macs_at(self: Structure, inputs: int, outputs: int) -> int:
        """Once per place of the result."""
        return outputs * self.macs

    @property
    def dense_macs(self: Structure) -> int:
        """Multiply-accumulates per sample of the dense layer of the same size, n_in · n_out."""
        return self.in_features * self.out_features

    @property
    def bias_params(self: Structure) -> int:
        """Numbers that a bias is made of: n_out."""
        return self.out_features

    def params(self: Structure, bias: bool) -> int:
        """Weights, plus those of a bias."""
        return self.weight_params + (self.bias_params if bias else 0)

    def dense_params(self: Structure, bias: bool) -> int:
        """Weights of the dense layer of the same size, plus n_out with a bias."""
        return self.dense_macs + (self.out_features if bias else 0)

    def to_json(self) -> dict[str, object]:
        """The name and the fields as plain JSON values."""
        return {"structure": self.structure, **to_json(self)}


class Structure(Linear, Protocol):
    """A family's description of one linear map y = x Wᵀ + b, W of shape (n_out, n_in)."""

    @classmethod
    def parse(cls, options: str, in_shape: Sequence[int], out_features: int) -> Self:
        """Read what stands behind the name in a structure string, "" where nothing does."""
        ...

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


def check_count(value: Any, what: str, limit: int = MAX_FEATURES) -> int:
    """Return ``value`` as an int within 1 … limit.

    Raises:
        BadInput: Not an integer, below 1 or above ``limit``.
    """
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise BadInput(f"{what} must be a whole number, found {value!r:.40}", hint=ARRAYS)
    if not 1 <= value <= limit:
        raise BadInput(f"{what} {value!r:.40} is outside 1 … {limit}", hint=FORMS)
    return int(value)


def whole_number(text: str) -> int:
    """Read a number of a structure string.

    Raises:
        BadInput: Anything but up to nine digits.
    """
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise BadInput(f"'{text[:20]}' is not a whole number", hint=FORMS)
    return int(text)


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
            f"expected {list(spec.factor_shapes)}",
            hint=ARRAYS,
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
        raise BadInput(f"weight has shape {matrix.shape}, expected {expected}", hint=ARRAYS)
    if not np.isfinite(matrix).all():
        raise BadInput("weight holds NaN or infinite values and cannot be projected", hint=FINITE)
    return matrix
