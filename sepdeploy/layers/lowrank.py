"""The low-rank layer."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sepdeploy.layers.base import AdaptiveRanks, StructuredLinear
from sepdeploy.layers.energies import lost_energy, spaced
from sepdeploy.layers.initial import RELU_GAIN, orthogonal_
from sepdeploy.structures import LowRankSpec


class LowRankLinear(StructuredLinear, AdaptiveRanks):
    """y = ((x U) S) Vᵀ + b with U (n_in, r), S (r, r), V (n_out, r); x is (…, n_in).

    The core S is a free matrix in training and is folded into V wherever the layer is counted
    or exported.

    Args:
        in_features: n_in.
        out_features: n_out.
        rank: r ≤ min(n_in, n_out).
        bias: Whether to add a bias of n_out values.
        device: Where the parameters are made, as of ``nn.Linear``.
        dtype: Their type, as of ``nn.Linear``.

    Attributes:
        spec: The structure as a record (deployed counts).
        projection_error: Relative error of ``from_dense``, None for a layer made from scratch.

    Raises:
        BadInput: The sizes make no low-rank layer.
    """

    spec: LowRankSpec
    factor_keys = ("U", "S", "V")
    square_core = True
    outputs_first = False

    def __init__(
        self,
        in_features: int,
        out_features: int,
        rank: int,
        bias: bool = True,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        empty = partial(torch.empty, device=device, dtype=dtype)
        self.spec = LowRankSpec(in_features, out_features, rank)
        self.U = nn.Parameter(empty(in_features, rank))
        self.S = nn.Parameter(empty(rank, rank))
        self.V = nn.Parameter(empty(out_features, rank))
        self.bias = nn.Parameter(empty(out_features)) if bias else None
        self.reset_parameters()

    def reset_parameters(self, gain: float = RELU_GAIN) -> None:
        """Orthonormal U and V, S = s·I with the mean Var(W_ij) = gain²/n_in; zero the bias.

        ‖W‖²_F = r s² shall be n_in n_out · gain²/n_in, hence s = gain·sqrt(n_out/r).
        """
        if self.U.is_meta:  # a network built for its shapes only
            return
        orthogonal_(self.U)
        orthogonal_(self.V)
        nn.init.eye_(self.S)
        with torch.no_grad():
            self.S.mul_(gain * math.sqrt(self.spec.out_features / self.spec.rank))
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def compute(self, rows: Tensor) -> Tensor:
        """Core and bases one after the other."""
        return F.linear(rows @ self.U @ self.S, self.V, self.bias)

    @classmethod
    def from_spec(cls, spec: LowRankSpec, bias: bool = True) -> Self:
        """A freshly initialised layer of a structure."""
        return cls(spec.in_features, spec.out_features, spec.rank, bias)

    @classmethod
    def forms(cls, weight: Tensor) -> Iterator[tuple[LowRankSpec, float]]:
        """Ranks, ever fewer of the larger ones."""
        tail = lost_energy(weight)
        for rank in spaced(len(tail) - 1):
            yield LowRankSpec(weight.shape[1], weight.shape[0], rank), float(tail[rank])

    @property
    def ranks(self) -> tuple[int]:
        """The one rank."""
        return (self.spec.rank,)

    @property
    def folded_params(self) -> int:
        """Those of the core."""
        return self.S.numel()

    def regularized(self) -> list[Tensor]:
        """The core."""
        return [self.S]

    def prunable(self) -> dict[str, Tensor]:
        """Both bases."""
        return {"U": self.U, "V": self.V}

    def fold(self) -> None:
        """Fold the core into V and fix it to the identity: V Sᵀ would have no zeros where V has."""
        U, V = (factor.detach().clone() for factor in self.factors())
        self.set_factors(U, torch.eye(self.spec.rank), V)
        self.S.requires_grad_(False)

    def take_factors(self, factors: tuple[Tensor, ...]) -> None:
        """Take a projection's factors: the singular values, which V carries there, go to S."""
        U, V = factors
        sigma = torch.linalg.vector_norm(V, dim=0)
        self.U.copy_(U)
        self.S.copy_(torch.diag(sigma))
        self.V.copy_(V / sigma.clamp_min(torch.finfo(V.dtype).tiny))

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
    def from_dense(cls, linear: nn.Linear, rank: int | None = None) -> Self:
        """The best rank-r approximation of a dense layer; its bias is copied.

        Args:
            linear: The dense layer.
            rank: As of the class; None halves the weights, or takes the rank of the layer's own
                matrix where that is smaller.

        Raises:
            BadInput: The rank is too large, or the weight is not finite.
        """
        out_features, in_features = linear.weight.shape
        half = max(1, linear.weight.numel() // (2 * (in_features + out_features)))
        spec = LowRankSpec(in_features, out_features, half if rank is None else rank)
        layer = cls.project(linear, spec)
        if rank is None:
            sigma = layer.S.detach().diagonal()
            least = torch.finfo(sigma.dtype).eps * max(linear.weight.shape) * sigma.max()
            own = max(1, int((sigma > least).sum()))
            layer.set_factors(*(f.detach()[..., :own] for f in (layer.U, layer.S[:own], layer.V)))
        return layer

    def extra_repr(self) -> str:
        """Sizes for ``print(model)``."""
        spec, bias = self.spec, self.bias is not None
        return f"{spec.in_features} → {spec.out_features}, rank={spec.rank}, bias={bias}"
