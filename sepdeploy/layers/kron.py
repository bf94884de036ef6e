"""The Kronecker layer."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Self

import torch
from torch import Tensor, nn

from sepdeploy.errors import FINITE, BadInput
from sepdeploy.layers.base import StructuredLinear
from sepdeploy.layers.contract import kron_apply
from sepdeploy.layers.energies import Values, lost_energy, spaced
from sepdeploy.layers.initial import RELU_GAIN, scaled_orthogonal_
from sepdeploy.structures import KronSpec, suggest_shapes
from sepdeploy.structures.kron import FULL, SUM
from sepdeploy.structures.mode_bias import bias_copies, nearest_bias

CLASSES, SHAPES_PER_CLASS = 8, 2  # shapes tried per layer; sizes within a factor of 2
LARGE_CLASSES = 2  # of layers whose decompositions take seconds each
LARGE = 1 << 22
MAX_TERMS = 256
TRIED = 8  # shapes, where none is given


class FactorList(nn.ParameterList):
    """The factors of a layer: a list of parameters that also answers ``layer.factors()``."""

    def __call__(self) -> tuple[Tensor, ...]:
        """All factors, in the layout of the spec's ``factor_shapes``."""
        return tuple(self)


class KronLinear(StructuredLinear):
    """y = Σ_k (A_1k ⊗ … ⊗ A_dk) x + b on samples that keep their modes.

    Args:
        in_shape: i_1 … i_d, d ≥ 2, n_in = Π i_m (row-major).
        out_shape: o_1 … o_d, n_out = Π o_m.
        terms: Number of summed Kronecker products.
        bias: Whether to add a bias of n_out values; "sum" makes it of o_1 + … + o_d of them, a
            number per place of each mode (b_ij = p_i + q_j).
        device: Where the parameters are made, as of ``nn.Linear``.
        dtype: Their type, as of ``nn.Linear``.

    Attributes:
        spec: The structure as a record.
        factors: One parameter (terms, o_m, i_m) per mode; ``factors()`` gives them as a tuple.
        biases: One parameter (o_m,) per mode where the bias is a sum, else None.
        projection_error: Relative error of ``from_dense``, None for a layer made from scratch.

    Raises:
        BadInput: The shapes make no Kronecker product.
    """

    spec: KronSpec
    factors: FactorList
    biases: FactorList | None

    def __init__(
        self,
        in_shape: Sequence[int],
        out_shape: Sequence[int],
        terms: int = 1,
        bias: bool | str = True,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        empty = partial(torch.empty, device=device, dtype=dtype)
        kind = bias if isinstance(bias, str) else FULL
        self.spec = KronSpec(tuple(in_shape), tuple(out_shape), terms, kind)
        self.factors = FactorList(nn.Parameter(empty(shape)) for shape in self.spec.factor_shapes)
        full, summed = bias and kind == FULL, bias and kind == SUM
        self.bias = nn.Parameter(empty(self.spec.out_features)) if full else None
        self.biases = FactorList(nn.Parameter(empty(o)) for o in out_shape) if summed else None
        self.reset_parameters()

    def reset_parameters(self, gain: float = RELU_GAIN) -> None:
        """Draw factors with Var(W_ij) = gain²/n_in and condition number 1 per term; zero the bias.

        The variance of a product of independent entries is the product of their variances, so
        each factor gets the d-th root of the gain; a sum of K terms adds K variances.
        """
        share = (gain / math.sqrt(self.spec.terms)) ** (1 / len(self.spec.in_shape))
        for factor in self.factors:
            scaled_orthogonal_(factor, share)
        for bias in (*([] if self.bias is None else [self.bias]), *(self.biases or ())):
            nn.init.zeros_(bias)

    def whole_bias(self) -> Tensor | None:
        """The (n_out,) bias, of whatever it is made; None for a layer without."""
        if self.biases is None:
            return self.bias
        first, *others = self.biases()
        for part in others:
            first = first[..., None] + part
        return first.reshape(-1)

    def take_bias(self, bias: Tensor) -> None:
        """Copy a bias (n_out,), or what is nearest to it as a sum."""
        if self.biases is None:
            super().take_bias(bias)
            return
        parts = nearest_bias(bias.detach().cpu().double().numpy(), self.spec.out_shape)
        for parameter, part in zip(self.biases, parts, strict=True):
            parameter.copy_(torch.from_numpy(part))

    def bias_copies(self) -> dict[str, int]:
        """Of a sum, whose numbers stand for a row each."""
        copies = bias_copies(self.spec.out_shape)
        return {f"biases.{k}": copies[k] for k in range(len(self.biases or ()))}

    def compute(self, rows: Tensor) -> Tensor:
        """Mode by mode."""
        spec = self.spec
        y = kron_apply(rows, self.factors(), spec.in_shape, spec.out_shape, spec.order)
        bias = self.whole_bias()
        return y if bias is None else y + bias

    @classmethod
    def from_spec(cls, spec: KronSpec, bias: bool = True) -> Self:
        """A freshly initialised layer of a structure."""
        return cls(spec.in_shape, spec.out_shape, spec.terms, bias and spec.bias)

    def take_factors(self, factors: tuple[Tensor, ...]) -> None:
        """Copy factors into the parameters."""
        for parameter, factor in zip(self.factors, factors, strict=True):
            parameter.copy_(factor)

    def regularized(self) -> list[Tensor]:
        """All factors."""
        return list(self.factors)

    def prunable(self) -> dict[str, Tensor]:
        """All factors."""
        return {f"factors.{k}": factor for k, factor in enumerate(self.factors)}

    def dense_weight(self) -> Tensor:
        """The (n_out, n_in) matrix this layer stands for; differentiable."""
        product, *others = self.factors()
        for factor in others:
            k, o, i = product.shape
            spread = product[:, :, None, :, None] * factor[:, None, :, None, :]
            product = spread.reshape(k, o * factor.shape[1], i * factor.shape[2])
        return product.sum(dim=0)

    @classmethod
    def from_dense(
        cls,
        linear: nn.Linear,
        in_shape: Sequence[int] | None = None,
        out_shape: Sequence[int] | None = None,
        terms: int = 1,
        bias: str = FULL,
    ) -> Self:
        """The layer closest to a dense one in Frobenius norm, with the bias closest to its bias.

        Args:
            linear: The dense layer.
            in_shape: As of the class; None, as for ``out_shape``, takes the modes that lose
                least among those about as small as the smallest.
            out_shape: As of the class.
            terms: As of the class.
            bias: What the bias becomes where the dense layer has one: "full", a copy, or "sum".

        Raises:
            BadInput: The shapes do not multiply to the layer's features, or its weight is not
                finite.
        """
        if in_shape is None and out_shape is None:
            spec = _closest(linear.weight.detach(), terms)
            return cls.project(linear, dataclasses.replace(spec, bias=bias))
        shapes = tuple(in_shape or ()), tuple(out_shape or ())
        return cls.project(linear, KronSpec(*shapes, terms, bias))

    @classmethod
    def forms(cls, weight: Tensor) -> Iterator[tuple[KronSpec, float]]:
        """Balanced shapes of every size class, with up to 256 terms."""
        for shape in _shapes(weight.shape[1], weight.shape[0]):
            tail = _lost(weight, shape)
            for terms in spaced(min(len(tail) - 1, MAX_TERMS)):
                yield KronSpec(shape.in_shape, shape.out_shape, terms), float(tail[terms])

    def extra_repr(self) -> str:
        """Shapes for ``print(model)``."""
        sides = ("x".join(map(str, s)) for s in (self.spec.in_shape, self.spec.out_shape))
        bias = "sum" if self.biases is not None else self.bias is not None
        return f"{' → '.join(sides)}, terms={self.spec.terms}, bias={bias}"


def _lost(weight: Tensor, shape: KronSpec) -> Values:
    """Share of energy lost with 0, 1, 2 … terms of two modes."""
    (a_out, b_out), (a_in, b_in) = shape.out_shape, shape.in_shape
    rearranged = weight.reshape(a_out, b_out, a_in, b_in).transpose(1, 2)
    return lost_energy(rearranged.reshape(a_out * a_in, b_out * b_in))


def _closest(weight: Tensor, terms: int) -> KronSpec:
    """The shape that loses least, among the small ones (within a factor of 2 of the smallest)."""
    if not bool(torch.isfinite(weight).all()):
        raise BadInput("weight holds NaN or infinite values and cannot be projected", hint=FINITE)
    shapes = suggest_shapes(weight.shape[1], weight.shape[0])
    least = min(shape.weight_params for shape in shapes)
    small = [shape for shape in shapes if shape.weight_params <= 2 * least]
    tails = [_lost(weight.cpu().double(), shape) for shape in small[:TRIED]]
    lost = [float(tail[min(terms, len(tail) - 1)]) for tail in tails]
    return dataclasses.replace(small[lost.index(min(lost))], terms=terms)


def _shapes(in_features: int, out_features: int) -> list[KronSpec]:
    """The most balanced shapes of each size class, smallest first."""
    large = in_features * out_features > LARGE
    classes: dict[int, list[KronSpec]] = {}
    for spec in suggest_shapes(in_features, out_features):
        if spec.weight_params < spec.dense_macs and spec.macs <= spec.dense_macs:
            group = classes.setdefault(spec.weight_params.bit_length(), [])
            if len(group) < (1 if large else SHAPES_PER_CLASS):
                group.append(spec)
    sizes = sorted(classes)[: LARGE_CLASSES if large else CLASSES]
    return [spec for size in sizes for spec in classes[size]]
