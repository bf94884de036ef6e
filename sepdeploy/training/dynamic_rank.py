"""Dynamical low-rank training: bases that turn, ranks that adapt (augmented BUG with truncation).

A layer W = U S Vᵀ keeps orthonormal bases; most steps train the core S only. Every n-th step the
bases are augmented by the directions of their own gradients (Galerkin: the function stays the
same), the core trains in the doubled space, and at the end of the window it is decomposed and
truncated to the rank that keeps all but τ‖S‖_F of it. A low-rank convolution does the same to its
two channel modes (robust DLRT, Schotthöfer et al. 2025; methods reference §2).

Differences to the published code: directions are appended to the bases as they are, so core and
moments are padded with zeros instead of being rotated back and forth; a layer at its largest rank
is augmented beyond it until the next truncation, so that its subspace keeps turning; directions
whose gradient is zero are left out; bases never reach the optimiser, so decay cannot bend them;
an adaptive optimiser's core steps are scaled to the size of steps of W; all of it is computed in
double precision.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sepdeploy.errors import BadInput
from sepdeploy.layers import LowRankConv2d, LowRankLinear
from sepdeploy.models import Model
from sepdeploy.training.recipe_fields import Recipe

SMALLEST_RANK = 2
SQUARED_MOMENTS = frozenset({"exp_avg_sq", "max_exp_avg_sq"})
NEGLIGIBLE = 1e-7  # of a normalised gradient: what is left of a direction that is no news

LowRank = LowRankLinear | LowRankConv2d


def low_rank_layers(net: nn.Module) -> dict[str, LowRank]:
    """Every low-rank layer of a network, by name."""
    found: dict[str, LowRank] = {}
    for name, module in net.named_modules():
        if isinstance(module, (LowRankLinear, LowRankConv2d)):
            found[name] = module
    return found


def ranks_of(net: nn.Module) -> dict[str, list[int]]:
    """The ranks of every low-rank layer: [r], or [q, p] of a convolution."""
    return {
        name or "net": list(x.ranks) if isinstance(x, LowRankConv2d) else [x.spec.rank]
        for name, x in low_rank_layers(net).items()
    }


def cores_of(net: nn.Module) -> list[Tensor]:
    """The core of every low-rank layer."""
    return [_core(layer) for layer in low_rank_layers(net).values()]


def start_with_decay(net: nn.Module) -> None:
    """Give fresh low-rank linear layers cores with a decaying spectrum, of the same norm.

    A flat core of random directions would crowd out whatever training finds: only directions
    stronger than all of those survive a truncation. Squared normal numbers leave room.
    """
    with torch.no_grad():
        for layer in low_rank_layers(net).values():
            if isinstance(layer, LowRankLinear):
                sigma = torch.randn(layer.spec.rank).square().sort(descending=True).values
                layer.S.copy_(torch.diag(sigma * (layer.S.norm() / sigma.norm())))


def match_ranks(net: nn.Module, state: dict[str, Tensor]) -> None:
    """Give low-rank layers the ranks that a state dict was saved with; values are not copied."""
    for name, layer in low_rank_layers(net).items():
        prefix = f"{name}." if name else ""
        if isinstance(layer, LowRankConv2d):
            keys = ("reduce.weight", "core.weight", "expand.weight")
            U, S, V = (torch.zeros(state[prefix + key].shape) for key in keys)
            layer.set_factors(U[:, :, 0, 0].t(), S, V[:, :, 0, 0])
        else:
            layer.set_factors(*(torch.zeros(state[prefix + key].shape) for key in ("U", "S", "V")))


@dataclass(frozen=True)
class Factors:
    """A layer's bases and core, mode by mode: core (u, v, …) belongs to U (n, u) and V (m, v)."""

    U: Tensor
    core: Tensor
    V: Tensor


def read_factors(layer: LowRank) -> Factors:
    """Return a layer's factors in double precision."""
    U, V = _bases(layer)
    core = _core(layer).detach()
    return Factors(_basis(U).double(), _to_modes(layer, core).double(), _basis(V, True).double())


def augment(layer: LowRank, optimizer: torch.optim.Optimizer | None = None) -> int:
    """Append the directions of the bases' gradients; the layer's function stays the same.

    Args:
        layer: With gradients of its bases.
        optimizer: Its moments of the core grow with zeros.

    Returns:
        Number of directions added to both bases together.
    """
    old = read_factors(layer)
    U, V = _bases(layer)
    if U.grad is None or V.grad is None:
        return 0
    new_u = _directions(old.U, -_basis(U.grad).double())
    new_v = _directions(old.V, -_basis(V.grad, True).double())
    if isinstance(layer, LowRankLinear):  # its core stays square
        count = min(new_u.shape[1], new_v.shape[1])
        new_u, new_v = new_u[:, :count], new_v[:, :count]
    added = new_u.shape[1] + new_v.shape[1]
    if added:
        grow = (new_u.shape[1], new_v.shape[1])
        parts = torch.cat([old.U, new_u], 1), _pad(old.core, grow), torch.cat([old.V, new_v], 1)
        _write(layer, Factors(*parts))
        _each_moment(layer, optimizer, lambda name, moment: _pad(moment, grow))
    return added


def truncate(
    layer: LowRank,
    tolerance: float,
    *,
    largest: int = 0,
    optimizer: torch.optim.Optimizer | None = None,
) -> None:
    """Reduce a layer to the rank that keeps all but ``tolerance`` · ‖S‖_F of its core.

    Bases are made orthonormal anew. A convolution's two modes share the tolerance evenly.
    Moments turn with the bases: first moments like the core, second ones as variances of
    uncorrelated entries.

    Args:
        layer: Any low-rank layer.
        tolerance: τ in (0, 1).
        largest: Largest rank, which beats the tolerance; 0 = no other than the layer's size.
        optimizer: Whose moments of the core are turned.
    """
    old = read_factors(layer)
    (Qu, Ru), (Qv, Rv) = torch.linalg.qr(old.U), torch.linalg.qr(old.V)
    core = _turn(old.core, Ru, Rv)
    limit = tolerance * float(torch.linalg.vector_norm(core))
    if isinstance(layer, LowRankLinear):
        P, sigma, Qh = torch.linalg.svd(core)
        rank = _rank(sigma, limit, largest)
        P, Q = P[:, :rank], Qh.mT[:, :rank]
        core = torch.diag(sigma[:rank])
    else:
        P = _mode_basis(core, limit / math.sqrt(2), largest)
        Q = _mode_basis(_turn(core, P.mT, None).transpose(0, 1), limit / math.sqrt(2), largest)
        core = _turn(core, P.mT, Q.mT)
    _write(layer, Factors(Qu @ P, core, Qv @ Q))
    left, right = P.mT @ Ru, Q.mT @ Rv

    def turned(name: str, moment: Tensor) -> Tensor:
        if name in SQUARED_MOMENTS:
            return _turn(moment, left.square(), right.square())
        return _turn(moment, left, right)

    _each_moment(layer, optimizer, turned)


class RankDynamics:
    """When bases are augmented and truncated during a training.

    Between epochs all layers are truncated, so that what is judged and kept is the deployed form.

    Args:
        net: Network with at least one low-rank layer.
        optimizer: The one that trains it.
        tolerance: τ.
        every: Steps of a window: one augmentation, then core steps, truncation with the last.
        largest: Largest rank after a truncation, 0 = each layer's own size.
    """

    def __init__(
        self,
        net: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        tolerance: float,
        every: int,
        largest: int,
    ) -> None:
        self.layers = list(low_rank_layers(net).values())
        self.optimizer = optimizer
        self.tolerance = tolerance
        self.every = every
        self.largest = largest
        self.adaptive = not isinstance(optimizer, torch.optim.SGD)

    def before(self, step: int, steps: int, *, frozen: bool) -> bool:
        """Prepare for step ``step`` (from 0) of an epoch; return whether it augments.

        Bases get gradients only where they are about to be augmented. An augmentation that no
        core step of the epoch would follow is left out.
        """
        augmenting = not frozen and step % self.every == 0 and step + 1 < steps
        for layer in self.layers:
            for basis in _bases(layer):
                basis.requires_grad_(augmenting)
        if self.adaptive:
            self._scale_rates()
        return augmenting

    def _scale_rates(self) -> None:
        """Let core steps move W as far as steps of W itself would.

        An adaptive optimiser moves every entry by about the learning rate: √(n·m) of them in a
        dense W, but only √(u·v) of them in a core between orthonormal bases. Plain gradient
        descent needs no such factor: its core step is the projection of its step of W.
        """
        by_core = {id(_core(layer)): layer for layer in self.layers}
        for group in self.optimizer.param_groups:
            layer = by_core.get(id(group["params"][0])) if "scale" in group else None
            if layer is not None:
                U, V = _bases(layer)
                n, m = (max(b.shape[0], b.shape[1]) for b in (U, V))
                u, v = (min(b.shape[0], b.shape[1]) for b in (U, V))
                group["scale"] = math.sqrt(n * m / (u * v))

    def augment(self) -> None:
        """Augment all layers by the gradients of the batch, which trains none of their factors."""
        for layer in self.layers:
            augment(layer, self.optimizer)
            for parameter in (*_bases(layer), _core(layer)):
                parameter.grad = None

    def after(self, step: int, steps: int, *, frozen: bool) -> None:
        """Truncate at the end of a window and of an epoch."""
        if not frozen and (step % self.every == self.every - 1 or step + 1 == steps):
            for layer in self.layers:
                truncate(layer, self.tolerance, largest=self.largest, optimizer=self.optimizer)


def dynamics_of(
    recipe: Recipe, model: Model, optimizer: torch.optim.Optimizer
) -> RankDynamics | None:
    """Return the dynamics that a recipe asks for, None where ranks stay.

    Raises:
        BadInput: The network has no low-rank layer.
    """
    if not recipe.rank_tolerance:
        return None
    if not low_rank_layers(model.net):
        raise BadInput(
            "rank_tolerance is set and the network has no low-rank layer",
            hint='structure = "lowrank:40" for linear layers, conv_rank = 40 for convolutions',
        )
    return RankDynamics(
        model.net,
        optimizer,
        tolerance=recipe.rank_tolerance,
        every=recipe.rank_every,
        largest=recipe.rank_max,
    )


def _bases(layer: LowRank) -> tuple[Tensor, Tensor]:
    if isinstance(layer, LowRankConv2d):
        return layer.reduce.weight, layer.expand.weight
    return layer.U, layer.V


def _core(layer: LowRank) -> Tensor:
    return layer.core.weight if isinstance(layer, LowRankConv2d) else layer.S


def _basis(stored: Tensor, output: bool = False) -> Tensor:
    """A basis (n, r) from how it is stored: as it is, or as the weight of a 1×1 convolution."""
    value = stored.detach()
    if value.dim() == 2:
        return value
    return value[:, :, 0, 0] if output else value[:, :, 0, 0].t()


def _to_modes(layer: LowRank, core: Tensor) -> Tensor:
    """(u, v, …) from the stored layout; its own inverse."""
    return core.transpose(0, 1) if isinstance(layer, LowRankConv2d) else core


def _write(layer: LowRank, new: Factors) -> None:
    layer.set_factors(new.U, _to_modes(layer, new.core), new.V)


def _directions(basis: Tensor, towards: Tensor) -> Tensor:
    """Orthonormal columns that ``towards`` adds to a basis, at most as many as it has."""
    norm = torch.linalg.vector_norm(towards)
    if not bool(torch.isfinite(norm)) or float(norm) == 0:
        return basis[:, :0]
    rank = basis.shape[1]
    Q, R = torch.linalg.qr(torch.cat([basis, towards / norm], dim=1))
    news = R.diagonal().abs()[rank:] > NEGLIGIBLE
    found: Tensor = Q[:, rank:][:, news[: Q.shape[1] - rank]]
    return found[:, : min(rank, basis.shape[0] - rank)]


def _pad(core: Tensor, grow: tuple[int, int]) -> Tensor:
    shape = (core.shape[0] + grow[0], core.shape[1] + grow[1], *core.shape[2:])
    padded = core.new_zeros(shape)
    padded[: core.shape[0], : core.shape[1]] = core
    return padded


def _turn(core: Tensor, left: Tensor | None, right: Tensor | None) -> Tensor:
    """Multiply the first mode by ``left`` and the second by ``right``."""
    if left is not None:
        core = torch.tensordot(left.to(core.dtype), core, dims=([1], [0]))
    if right is not None:
        core = torch.tensordot(right.to(core.dtype), core, dims=([1], [1])).transpose(0, 1)
    return core


def _mode_basis(core: Tensor, limit: float, largest: int) -> Tensor:
    U, sigma, _ = torch.linalg.svd(core.flatten(1), full_matrices=False)
    basis: Tensor = U[:, : _rank(sigma, limit, largest)]
    return basis


def _rank(sigma: Tensor, limit: float, largest: int) -> int:
    """The smallest rank that loses at most ``limit``, within its bounds."""
    tails = sigma.flip(0).square().cumsum(0).sqrt().flip(0)  # what is lost when 0, 1, … are kept
    wanted = int((tails > limit).sum())
    bounded = min(wanted, largest) if largest else wanted
    return min(max(bounded, SMALLEST_RANK, 1), len(sigma))


def _each_moment(
    layer: LowRank,
    optimizer: torch.optim.Optimizer | None,
    change: Callable[[str, Tensor], Tensor],
) -> None:
    state = {} if optimizer is None else optimizer.state.get(_core(layer), {})
    for name, value in state.items():
        if isinstance(value, Tensor) and value.dim() > 1:
            changed = change(name, _to_modes(layer, value).double())
            state[name] = _to_modes(layer, changed).to(value.dtype).contiguous()
