"""The low-rank layer."""

from __future__ import annotations

import math
from typing import Self, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sepdeploy.errors import BadInput
from sepdeploy.layers.graph import is_tracing, lowrank_linear
from sepdeploy.layers.initial import RELU_GAIN
from sepdeploy.structures import LowRankSpec


class LowRankLinear(nn.Module):
    """y = ((x U) S) Vᵀ + b with U (n_in, r), S (r, r), V (n_out, r); x is (…, n_in).

    The core S is a free matrix in training and is folded into V wherever the layer is counted
    or exported.

    Args:
        in_features: n_in.
        out_features: n_out.
        rank: r ≤ min(n_in, n_out).
        bias: Whether to add a bias of n_out values.

    Attributes:
        spec: The structure as a record (deployed counts).
        projection_error: Relative error of ``from_dense``, None for a layer made from scratch.

    Raises:
        BadInput: The sizes make no low-rank layer.
    """

    bias: Tensor | None

    def __init__(self, in_features: int, out_features: int, rank: int, bias: bool = True) -> None:
        super().__init__()
        self.spec = LowRankSpec(in_features, out_features, rank)
        self.projection_error: float | None = None
        self.U = nn.Parameter(torch.empty(in_features, rank))
        self.S = nn.Parameter(torch.empty(rank, rank))
        self.V = nn.Parameter(torch.empty(out_features, rank))
        self.bias = nn.Parameter(torch.empty(out_features)) if bias else None
        self.reset_parameters()

    def reset_parameters(self, gain: float = RELU_GAIN) -> None:
        """Orthonormal U and V, S = s·I with the mean Var(W_ij) = gain²/n_in; zero the bias.

        ‖W‖²_F = r s² shall be n_in n_out · gain²/n_in, hence s = gain·sqrt(n_out/r).
        """
        if self.U.is_meta:  # a network built for its shapes only
            return
        nn.init.orthogonal_(self.U)
        nn.init.orthogonal_(self.V)
        nn.init.eye_(self.S)
        with torch.no_grad():
            self.S.mul_(gain * math.sqrt(self.spec.out_features / self.spec.rank))
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer to (…, n_in)."""
        if not x.dim() or x.shape[-1] != self.spec.in_features:
            raise BadInput(
                f"LowRankLinear got {tuple(x.shape)}, expected (…, {self.spec.in_features})"
            )
        if is_tracing():
            rows = x.reshape(-1, self.spec.in_features)
            U, V = self.factors()
            y = lowrank_linear(rows, U, V, self.bias)
            return cast(Tensor, y).reshape(*x.shape[:-1], self.spec.out_features)
        return F.linear(x @ self.U @ self.S, self.V, self.bias)

    def factors(self) -> tuple[Tensor, Tensor]:
        """The deployed factors: U and V Sᵀ, so that W = (V Sᵀ) Uᵀ."""
        return self.U, self.V @ self.S.t()

    def dense_weight(self) -> Tensor:
        """The (n_out, n_in) matrix this layer stands for; differentiable."""
        U, V = self.factors()
        return V @ U.t()

    def set_factors(self, U: Tensor, S: Tensor, V: Tensor) -> None:
        """Put other factors in place; the rank follows them, parameters keep their identity.

        Args:
            U: (n_in, r).
            S: (r, r).
            V: (n_out, r).
        """
        self.spec = LowRankSpec(self.spec.in_features, self.spec.out_features, S.shape[0])
        for parameter, value in ((self.U, U), (self.S, S), (self.V, V)):
            parameter.grad = None
            parameter.data = value.to(parameter.device, parameter.dtype).contiguous()

    @classmethod
    def from_dense(cls, linear: nn.Linear, rank: int) -> Self:
        """The best rank-r approximation of a dense layer; its bias is copied.

        Raises:
            BadInput: The rank is too large, or the weight is not finite.
        """
        out_features, in_features = linear.weight.shape
        layer = cls(in_features, out_features, rank, bias=linear.bias is not None)
        projection = layer.spec.project(linear.weight.detach().cpu().double().numpy())
        U, V = (torch.from_numpy(f) for f in projection.factors)
        sigma = torch.linalg.vector_norm(V, dim=0)
        with torch.no_grad():
            layer.U.copy_(U)
            layer.S.copy_(torch.diag(sigma))
            layer.V.copy_(V / sigma.clamp_min(torch.finfo(V.dtype).tiny))
            if layer.bias is not None:
                layer.bias.copy_(linear.bias)
        layer.projection_error = projection.relative_error
        return layer.to(linear.weight.device, linear.weight.dtype)

    def extra_repr(self) -> str:
        """Sizes for ``print(model)``."""
        spec, bias = self.spec, self.bias is not None
        return f"{spec.in_features} → {spec.out_features}, rank={spec.rank}, bias={bias}"
