"""Kronecker: W = Σ_k A_1k ⊗ … ⊗ A_dk, applied mode by mode to a sample that keeps its shape.

For one term and d = 2 the layer is Y = A X Bᵀ with X of shape (a_in, b_in) and row-major
flattening; in general Y = Σ_k X ×_1 A_1k … ×_d A_dk.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from sepdeploy.errors import FORMS, BadInput
from sepdeploy.records import MAX_FEATURES
from sepdeploy.structures import cp
from sepdeploy.structures.base import (
    MAX_MODES,
    MAX_TERMS,
    Array,
    Linear,
    Projection,
    Spectrum,
    check_count,
    check_factors,
    check_weight,
    whole_number,
)
from sepdeploy.structures.contraction import best_order, contraction_macs
from sepdeploy.structures.shapes import factor_pairs, mode_products, two_modes
from sepdeploy.structures.singular import block_lanczos, leading_triplets, relative_residual
from sepdeploy.structures.spectra import full_rank_spectrum

FULL, SUM = BIASES = ("full", "sum")
SUM_MARK = "+sumbias"
_MODES = r"\d+(?:x\d+)+"
_OPTIONS = re.compile(
    rf"(?:(?P<aligned>aligned)|(?P<inner>{_MODES})-(?P<outer>{_MODES}))?(?:\*(?P<terms>\d+))?"
    rf"(?P<sum>{re.escape(SUM_MARK)})?"
)


def _check_shape(shape: Any, what: str) -> tuple[int, ...]:
    if not isinstance(shape, (tuple, list)) or not 2 <= len(shape) <= MAX_MODES:
        raise BadInput(f"{what} {shape!r:.60} must list 2 … {MAX_MODES} modes", hint=FORMS)
    modes = tuple(check_count(n, f"{what} mode") for n in shape)
    check_count(math.prod(modes), f"{what} size", MAX_FEATURES)
    return modes


@dataclass(frozen=True)
class KronSpec(Linear):
    """A sum of ``terms`` Kronecker products with factors A_m of shape (terms, o_m, i_m).

    ``bias`` says what a bias is made of where the layer has one: "full", a number per output, or
    "sum", a number per place of each mode, which are added up (``structures.mode_bias``).
    """

    in_shape: tuple[int, ...]
    out_shape: tuple[int, ...]
    terms: int = 1
    bias: str = FULL
    structure: ClassVar[str] = "kron"
    grammar: ClassVar[tuple[str, ...]] = (
        "kron", "kron*2", "kron:aligned", "kron:28x28-64x64", "kron:28x28-64x64*2",
        "kron+sumbias",
    )  # fmt: skip
    takes_modes: ClassVar[bool] = True
    planned: ClassVar[str] = f"kron{SUM_MARK}"
    planned_head: ClassVar[str] = "kron*4"  # with one term it was 5 points worse

    def __post_init__(self) -> None:
        object.__setattr__(self, "in_shape", _check_shape(self.in_shape, "in_shape"))
        object.__setattr__(self, "out_shape", _check_shape(self.out_shape, "out_shape"))
        object.__setattr__(self, "terms", check_count(self.terms, "terms", MAX_TERMS))
        if self.bias not in BIASES:
            raise BadInput(f"bias {self.bias!r:.40} is none of {', '.join(BIASES)}", hint=FORMS)
        if len(self.in_shape) != len(self.out_shape):
            raise BadInput(
                f"in_shape {self.in_shape} and out_shape {self.out_shape} "
                "must have the same number of modes",
                hint=FORMS,
            )

    @classmethod
    def parse(cls, options: str, in_shape: Sequence[int], out_features: int) -> KronSpec:
        """Modes or which ones to take ("aligned", nothing), ``*K`` for K terms, ``+sumbias``."""
        match = _OPTIONS.fullmatch(options)
        if match is None:
            raise BadInput("the modes are not written like 28x28-64x64", hint=FORMS)
        terms = whole_number(match["terms"]) if match["terms"] else 1
        bias = SUM if match["sum"] else FULL
        if match["inner"] is None:
            shape = (aligned_shape if match["aligned"] else own_shape)(in_shape, out_features)
            return dataclasses.replace(shape, terms=terms, bias=bias)
        modes = [tuple(map(whole_number, match[g].split("x"))) for g in ("inner", "outer")]
        spec = KronSpec(modes[0], modes[1], terms, bias)
        n_in = math.prod(in_shape)
        if (spec.in_features, spec.out_features) != (n_in, out_features):
            fitting = nearest_shapes(modes[0], modes[1], n_in, out_features)
            raise BadInput(
                f"it maps {spec.in_features} → {spec.out_features}, "
                f"the layer is {n_in} → {out_features}",
                hint=f"for example {', '.join(f.text for f in fitting)}",
            )
        return spec

    @classmethod
    def written_width(cls, options: str) -> int:
        """The product of the outer modes where they are written."""
        match = _OPTIONS.fullmatch(options)
        return math.prod(map(int, match["outer"].split("x"))) if match and match["outer"] else 0

    @property
    def text(self) -> str:
        """Name, modes, the terms where there are several, and the bias unless it is full."""
        sides = "-".join("x".join(map(str, s)) for s in (self.in_shape, self.out_shape))
        terms = f"*{self.terms}" if self.terms > 1 else ""
        return f"{self.structure}:{sides}{terms}" + (SUM_MARK if self.bias == SUM else "")

    def to_json(self) -> dict[str, object]:
        """As of every family; a full bias is left out, as in files from before there was a sum."""
        return {k: v for k, v in super().to_json().items() if (k, v) != ("bias", FULL)}

    @property
    def bias_params(self) -> int:
        """n_out, or Σ o_m of a sum."""
        return sum(self.out_shape) if self.bias == SUM else self.out_features

    @staticmethod
    def shown(shapes: Sequence[tuple[int, ...]]) -> str:
        """The shapes of the factors: "64×28 ⊗ 64×28", with the terms where there are several."""
        terms = shapes[0][0]
        product = " ⊗ ".join("×".join(map(str, shape[1:])) for shape in shapes)
        return product if terms == 1 else f"{terms} ({product})"

    @property
    def in_modes(self) -> tuple[int, ...]:
        """i_1 … i_d."""
        return self.in_shape

    @property
    def out_modes(self) -> tuple[int, ...]:
        """o_1 … o_d."""
        return self.out_shape

    @property
    def exact_spectrum(self) -> bool:
        """For one term; a sum has no closed form."""
        return self.terms == 1

    @property
    def in_features(self) -> int:
        """Π i_m."""
        return math.prod(self.in_shape)

    @property
    def out_features(self) -> int:
        """Π o_m."""
        return math.prod(self.out_shape)

    @property
    def factor_shapes(self) -> tuple[tuple[int, ...], ...]:
        """(terms, o_m, i_m) for each mode m."""
        return tuple((self.terms, o, i) for o, i in zip(self.out_shape, self.in_shape, strict=True))

    @cached_property
    def order(self) -> tuple[int, ...]:
        """Modes in the order of contraction that needs fewest multiply-accumulates."""
        return best_order(self.in_shape, self.out_shape)

    @property
    def structural_rank(self) -> int:
        """Largest rank the shapes allow: Π min(o_m, i_m) per term, and no more than W has."""
        one = math.prod(map(min, self.in_shape, self.out_shape))
        return min(self.terms * one, self.in_features, self.out_features)

    @property
    def weight_params(self) -> int:
        """K · Σ_m o_m i_m for K terms."""
        return sum(math.prod(shape) for shape in self.factor_shapes)

    @property
    def macs(self) -> int:
        """Per sample, in ``order``; each term costs as much as one."""
        return self.terms * contraction_macs(self.in_shape, self.out_shape, self.order)

    def dense_matrix(self, factors: Sequence[Array]) -> Array:
        """Σ_k A_1k ⊗ … ⊗ A_dk, shape (n_out, n_in)."""
        first, *others = check_factors(self, factors)
        product = first
        for factor in others:
            k, o, i = product.shape
            spread = product[:, :, None, :, None] * factor[:, None, :, None, :]
            product = spread.reshape(k, o * factor.shape[1], i * factor.shape[2])
        return np.asarray(product.sum(axis=0))

    def apply(self, x: Array, factors: Sequence[Array]) -> Array:
        """Compute x Wᵀ for x of shape (M, n_in), mode by mode in ``order``."""
        arrays = check_factors(self, factors)
        state = np.broadcast_to(x.reshape(-1, *self.in_shape), (self.terms, len(x), *self.in_shape))
        for mode in self.order:
            lead, i, right = state.shape[1 : mode + 2], self.in_shape[mode], state.shape[mode + 3 :]
            parts = state.reshape(self.terms, math.prod(lead), i, math.prod(right))
            done = arrays[mode][:, None] @ parts
            state = done.reshape(self.terms, *lead, self.out_shape[mode], *right)
        return np.asarray(state.sum(axis=0).reshape(len(x), self.out_features))

    def balance(self, factors: Sequence[Array]) -> tuple[Array, ...]:
        """Rescale each term's factors so that ‖A_m‖_F/√i_m agree; the operator stays the same.

        Even scales quantise better. A term with a zero factor becomes zero throughout.
        """
        arrays = check_factors(self, factors)
        norms = np.stack([np.linalg.norm(a, axis=(1, 2)) for a in arrays])
        norms /= np.sqrt(np.asarray(self.in_shape, dtype=norms.dtype))[:, None]
        common = np.exp(np.mean(np.log(np.maximum(norms, np.finfo(norms.dtype).tiny)), axis=0))
        common = np.where((norms > 0).all(axis=0), common, 0)
        scale = common / np.where(norms > 0, norms, 1)
        return tuple(a * s[:, None, None] for a, s in zip(arrays, scale, strict=True))

    def project(self, weight: Array) -> Projection:
        """The nearest sum of ``terms`` Kronecker products (Van Loan and Pitsianis), balanced.

        W is rearranged into a tensor with one mode of size o_m·i_m per factor, of which a
        Kronecker product is a rank-one term. Two modes: the leading singular triplets are
        optimal. More modes: alternating least squares, a local optimum.

        Raises:
            BadInput: The weight has another shape or is not finite.
        """
        matrix = check_weight(self, weight)
        d = len(self.in_shape)
        axes = [a for m in range(d) for a in (m, d + m)]  # (o_1, …, i_1, …) → (o_1, i_1, o_2, …)
        sizes = [o * i for o, i in zip(self.out_shape, self.in_shape, strict=True)]
        tensor = matrix.reshape(*self.out_shape, *self.in_shape).transpose(axes).reshape(sizes)
        if d == 2:
            count = min(self.terms, *sizes)
            left, sigma, right = leading_triplets(tensor, count)
            error = relative_residual(tensor, left * sigma, right, sigma)
            unused = ((0, 0), (0, self.terms - count))
            columns = [np.pad(left * sigma, unused), np.pad(right, unused)]
        else:
            columns, error = cp.decompose(tensor, self.terms)
        factors = [c.T.reshape(s) for c, s in zip(columns, self.factor_shapes, strict=True)]
        return Projection(self.balance(factors), error)

    def singular_values(self, factors: Sequence[Array]) -> Array:
        """All singular values of a single term, largest first: the products of the factors' ones.

        Raises:
            BadInput: More than one term; their sum has no such closed form.
        """
        arrays = check_factors(self, factors)
        if self.terms > 1:
            raise BadInput(
                f"a sum of {self.terms} Kronecker terms has no closed-form spectrum",
                hint="ask for it with one term",
            )
        values = np.ones(1)
        for a in arrays:
            sigma = np.linalg.svd(a[0].astype(np.float64), compute_uv=False)
            values = np.outer(values, sigma).reshape(-1)
        return np.sort(values)[::-1]

    def spectrum(self, factors: Sequence[Array]) -> Spectrum:
        """Exact for one term; for more, the largest singular value by Lanczos iteration."""
        if self.terms == 1:
            return full_rank_spectrum(self.singular_values(factors))
        arrays = [a.astype(np.float64) for a in check_factors(self, factors)]
        mirror = KronSpec(self.out_shape, self.in_shape, self.terms)
        mirrored = [np.ascontiguousarray(a.transpose(0, 2, 1)) for a in arrays]
        _, sigma, _, _ = block_lanczos(
            lambda x: self.apply(x.T, arrays).T,
            lambda y: mirror.apply(y.T, mirrored).T,
            self.in_features,
            1,
        )
        return Spectrum(float(sigma[0]), None, None, self.structural_rank, exact=False)


def suggest_shapes(n_in: int, n_out: int, d: int = 2) -> list[KronSpec]:
    """All one-term Kronecker shapes n_in → n_out with d modes, most balanced first.

    Modes of size 1 appear only where a number has too few prime factors to avoid them. Equal
    balance is resolved by larger structural rank, then fewer parameters, then the shape itself.

    Raises:
        BadInput: A size is not positive, or d is below 2 or above 4.
    """
    n_in, n_out = check_count(n_in, "n_in"), check_count(n_out, "n_out")
    if not 2 <= d <= 4:
        raise BadInput(f"{d} modes asked for; shapes are listed for 2 to 4", hint=FORMS)
    specs = [KronSpec(i, o) for i in mode_products(n_in, d) for o in mode_products(n_out, d)]
    return sorted(specs, key=_balance_key)


def nearest_shapes(
    in_shape: Sequence[int], out_shape: Sequence[int], n_in: int, n_out: int
) -> list[KronSpec]:
    """The three shapes n_in → n_out nearest to modes that do not fit, by their sizes' ratios."""
    d = min(len(in_shape), 4)
    wanted = [math.log(max(1, n)) for n in (*in_shape[:d], *out_shape[:d])]

    def distance(spec: KronSpec) -> float:
        found = (*spec.in_shape, *spec.out_shape)
        return sum(abs(math.log(n) - w) for n, w in zip(found, wanted, strict=True))

    return sorted(suggest_shapes(n_in, n_out, d), key=distance)[:3]


def own_shape(in_shape: Sequence[int], n_out: int) -> KronSpec:
    """The shape that plain "kron" means: the sample's own modes in, the most balanced pair out.

    Of a pair's two orders the one of larger rank is taken: (96, 32) → (64, 32) has the full rank
    2048, (96, 32) → (32, 64) half of it. The published perceptron is written like that.
    """
    modes, pair = two_modes(in_shape), factor_pairs(n_out)[0]
    orders = [KronSpec(modes, outer) for outer in (pair, pair[::-1])]
    return max(orders, key=lambda spec: spec.structural_rank)


def aligned_shape(in_shape: Sequence[int], n_out: int) -> KronSpec:
    """The most balanced shape of full rank, with the sample's own modes where there is one.

    A Kronecker product has rank Π min(o_k, i_k), which is below min(n_in, n_out) wherever one
    mode grows and another one shrinks. Some sizes allow no full rank; then it is the largest.
    """
    modes, full = two_modes(in_shape), min(math.prod(in_shape), n_out)
    own = [KronSpec(modes, outer) for outer in factor_pairs(n_out)]
    others = suggest_shapes(math.prod(in_shape), n_out)
    for spec in (*own, *others):
        if spec.structural_rank == full:
            return spec
    return max((*own, *others), key=lambda spec: spec.structural_rank)


def _balance_key(spec: KronSpec) -> tuple[float, int, int, tuple[int, ...]]:
    spread = sum(max(s) / min(s) for s in (spec.in_shape, spec.out_shape))
    shape = (*spec.in_shape, *spec.out_shape)
    return (spread, -spec.structural_rank, spec.weight_params, shape)
