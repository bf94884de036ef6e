"""The Kronecker layer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor, nn

from sepdeploy.errors import BadInput
from sepdeploy.layers.contract import kron_apply
from sepdeploy.layers.graph import is_tracing, kron_linear
from sepdeploy.layers.initial import RELU_GAIN, scaled_orthogonal_
from sepdeploy.structures import KronSpec


class FactorList(nn.ParameterList):
    """The factors of a layer: a list of parameters that also answers ``layer.factors()``."""

    def __call__(self) -> tuple[Tensor, ...]:
        """All factors, in the layout of the spec's ``factor_shapes``."""
        return tuple(self)


class KronLinear(nn.Module):
    """y = Σ_k (A_1k ⊗ … ⊗ A_dk) x + b on samples that keep their modes.

    The result has the layout of the input: (N, *in_shape) gives (N, *out_shape) and
    (…, n_in) gives (…, n_out). Where an input fits both readings the first one wins.

    Args:
        in_shape: i_1 … i_d, d ≥ 2, n_in = Π i_m (row-major).
        out_shape: o_1 … o_d, n_out = Π o_m.
        terms: Number of summed Kronecker products.
        bias: Whether to add a bias of n_out values.

    Attributes:
        spec: The structure as a record.
        factors: One parameter (terms, o_m, i_m) per mode; ``factors()`` gives them as a tuple.
        projection_error: Relative error of ``from_dense``, None for a layer made from scratch.

    Raises:
        BadInput: The shapes make no Kronecker product.
    """

    bias: Tensor | None

    def __init__(
        self,
        in_shape: Sequence[int],
        out_shape: Sequence[int],
        terms: int = 1,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.spec = KronSpec(tuple(in_shape), tuple(out_shape), terms)
        self.projection_error: float | None = None
        self.factors = FactorList(
            nn.Parameter(torch.empty(shape)) for shape in self.spec.factor_shapes
        )
        self.bias = nn.Parameter(torch.empty(self.spec.out_features)) if bias else None
        self.reset_parameters()

    def reset_parameters(self, gain: float = RELU_GAIN) -> None:
        """Draw factors with Var(W_ij) = gain²/n_in and condition number 1 per term; zero the bias.

        The variance of a product of independent entries is the product of their variances, so
        each factor gets the d-th root of the gain; a sum of K terms adds K variances.
        """
        share = (gain / math.sqrt(self.spec.terms)) ** (1 / len(self.spec.in_shape))
        for factor in self.factors:
            scaled_orthogonal_(factor, share)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer; see the class for the layouts."""
        in_shape, out_shape = self.spec.in_shape, self.spec.out_shape
        if x.dim() == 1 + len(in_shape) and x.shape[1:] == in_shape:
            lead: tuple[int, ...] = (x.shape[0],)
            last = out_shape
        elif x.dim() and x.shape[-1] == self.spec.in_features:
            lead, last = tuple(x.shape[:-1]), (self.spec.out_features,)
        else:
            raise BadInput(
                f"KronLinear got {tuple(x.shape)}, expected (N, {', '.join(map(str, in_shape))}) "
                f"or (…, {self.spec.in_features})"
            )
        rows = x.reshape(-1, self.spec.in_features)
        y: Tensor
        if is_tracing():
            y = kron_linear(rows, self.factors(), self.bias, in_shape, out_shape, self.spec.terms)
        else:
            y = kron_apply(rows, self.factors(), in_shape, out_shape, self.spec.order)
            y = y if self.bias is None else y + self.bias
        return y.reshape(*lead, *last)

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
        in_shape: Sequence[int],
        out_shape: Sequence[int],
        terms: int = 1,
    ) -> Self:
        """The layer closest to a dense one in Frobenius norm; its bias is copied.

        Raises:
            BadInput: The shapes do not multiply to the layer's features, or its weight is not
                finite.
        """
        layer = cls(in_shape, out_shape, terms, bias=linear.bias is not None)
        projection = layer.spec.project(linear.weight.detach().cpu().double().numpy())
        with torch.no_grad():
            for parameter, factor in zip(layer.factors, projection.factors, strict=True):
                parameter.copy_(torch.from_numpy(factor))
            if layer.bias is not None:
                layer.bias.copy_(linear.bias)
        layer.projection_error = projection.relative_error
        return layer.to(linear.weight.device, linear.weight.dtype)

    def extra_repr(self) -> str:
        """Shapes for ``print(model)``."""
        sides = ("x".join(map(str, s)) for s in (self.spec.in_shape, self.spec.out_shape))
        return f"{' → '.join(sides)}, terms={self.spec.terms}, bias={self.bias is not None}"
