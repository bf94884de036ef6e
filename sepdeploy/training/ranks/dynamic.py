"""Dynamical low-rank training: bases that turn, ranks that adapt (augmented BUG with truncation).

A layer W = U S Vᵀ keeps orthonormal bases; most steps train the core S only. Every n-th step the
bases are augmented by the directions of their own gradients (Galerkin: the function stays the
same), the core trains in the doubled space, and at the end of the window it is decomposed and
truncated to the rank that keeps all but τ‖S‖_F of it. A low-rank convolution does the same to its
two channel modes (robust DLRT, Schotthöfer et al. 2025; methods reference §2).

Differences to the published code: directions are appended to the bases as they are, so core and
moments are padded with zeros instead of being rotated back and forth; only the strongest ones are
appended, those that hold 99 % of the squared norm by which the gradients leave the bases (a few
of them, where the published code doubles the rank and every step of the window pays for it); a
layer at its largest rank is augmented beyond it until the next truncation, so that its subspace
keeps turning; bases take no step of the optimiser until the ranks are frozen, so decay cannot
bend them, and are made orthonormal anew where rounding or the frozen finish has bent them; an
adaptive optimiser's core steps are scaled towards the size of steps of W; all of it is computed in
double precision.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sepdeploy.layers import AdaptiveRanks

SMALLEST_RANK = 2
SQUARED_MOMENTS = frozenset({"exp_avg_sq", "max_exp_avg_sq"})
ENERGY = 0.99  # share of the gradients' squared norm outside the bases that is taken in
NEGLIGIBLE = 1e-12  # of a gradient's squared norm: what is left of a direction that is no news
WIDTH = 8  # augmented ranks are rounded up to a multiple: products of such widths are quicker
BENT = 2e-6  # |UᵀU − I| above this calls for a new basis; float32 rounding alone gives 3e-7


def low_rank_layers(net: nn.Module) -> dict[str, AdaptiveRanks]:
    """Every low-rank layer of a network, by name."""
    return {n: m for n, m in net.named_modules() if isinstance(m, AdaptiveRanks)}


def ranks_of(net: nn.Module) -> dict[str, list[int]]:
    """The ranks of every low-rank layer: [r], or [q, p] of a convolution."""
    return {name or "net": list(x.ranks) for name, x in low_rank_layers(net).items()}


def cores_of(net: nn.Module) -> list[Tensor]:
    """The core of every low-rank layer."""
    return [core_of(layer) for layer in low_rank_layers(net).values()]


def bases(layer: AdaptiveRanks) -> tuple[Tensor, Tensor]:
    """The parameters of both bases, as they are stored."""
    first, _, last = layer.factor_keys
    return layer.get_parameter(first), layer.get_parameter(last)


def core_of(layer: AdaptiveRanks) -> Tensor:
    """The parameter of the core, as it is stored."""
    return layer.get_parameter(layer.factor_keys[1])


def start_with_decay(net: nn.Module) -> None:
    """Give fresh low-rank linear layers cores with a decaying spectrum, of the same norm.

    A flat core of random directions would crowd out whatever training finds: only directions
    stronger than all of those survive a truncation. Squared normal numbers leave room.
    """
    with torch.no_grad():
        for layer in low_rank_layers(net).values():
            if layer.square_core:
                core = core_of(layer)
                sigma = torch.randn(len(core)).square().sort(descending=True).values
                core.copy_(torch.diag(sigma * (core.norm() / sigma.norm())))


def match_ranks(net: nn.Module, state: dict[str, Tensor]) -> None:
    """Give low-rank layers the ranks that a state dict was saved with; values are not copied."""
    for name, layer in low_rank_layers(net).items():
        prefix = f"{name}." if name else ""
        U, S, V = (torch.zeros(state[prefix + key].shape) for key in layer.factor_keys)
        layer.set_factors(as_matrix(U), S, as_matrix(V, True))


@dataclass(frozen=True)
class Factors:
    """A layer's bases and core, mode by mode: core (u, v, …) belongs to U (n, u) and V (m, v)."""

    U: Tensor
    core: Tensor
    V: Tensor


def read_factors(layer: AdaptiveRanks) -> Factors:
    """Return a layer's factors in double precision."""
    U, V = bases(layer)
    core = core_of(layer).detach()
    return Factors(
        as_matrix(U).double(), _to_modes(layer, core).double(), as_matrix(V, True).double()
    )


def augment(
    layer: AdaptiveRanks, optimizer: torch.optim.Optimizer | None = None, *, energy: float = ENERGY
) -> int:
    """Append directions of the bases' gradients; the layer's function stays the same.

    Args:
        layer: With gradients of its bases.
        optimizer: Its moments of the core grow with zeros.
        energy: Share of the squared norm of the gradients outside the bases that the new
            directions hold, strongest first; 1 = all of them.

    Returns:
        Number of directions added to both bases together.
    """
    old = read_factors(layer)
    U, V = bases(layer)
    if U.grad is None or V.grad is None:
        return 0
    new_u = _Outside.of(old.U, as_matrix(U.grad).double())
    new_v = _Outside.of(old.V, as_matrix(V.grad, True).double())
    grow = new_u.wanted(energy), new_v.wanted(energy)
    if layer.square_core:
        count = min(max(grow), new_u.available, new_v.available)
        grow = count, count
    if any(grow):
        U_wide = torch.cat([old.U, new_u.columns(grow[0])], 1)
        V_wide = torch.cat([old.V, new_v.columns(grow[1])], 1)
        _write(layer, Factors(U_wide, _pad(old.core, grow), V_wide))
        _each_moment(layer, optimizer, lambda name, moment: _pad(moment, grow))
    return sum(grow)


@dataclass(frozen=True)
class _Outside:
    """What a gradient adds to the span of a basis, strongest directions first.

    They are found from the Gram matrix of what lies outside, so that only the columns that are
    taken are ever formed. ``squares`` are its eigenvalues, shares of the gradient's squared norm.
    """

    basis: Tensor
    gradient: Tensor
    inside: Tensor
    squares: Tensor
    turn: Tensor

    @classmethod
    def of(cls, basis: Tensor, gradient: Tensor) -> _Outside:
        """Split a gradient (n, r) of a basis (n, r)."""
        norm = float(torch.linalg.vector_norm(gradient))
        if not math.isfinite(norm) or norm == 0:
            nothing = gradient.new_zeros(gradient.shape[1], 0)
            return cls(basis, gradient, nothing, nothing[0], nothing)
        gradient = gradient / norm
        inside = basis.mT @ gradient
        squares, turn = torch.linalg.eigh(gradient.mT @ gradient - inside.mT @ inside)
        space = basis.shape[0] - basis.shape[1]
        count = min(int((squares > NEGLIGIBLE).sum()), space)
        return cls(basis, gradient, inside, squares.flip(0)[:count], turn.flip(1)[:, :count])

    @property
    def available(self) -> int:
        """Number of directions."""
        return len(self.squares)

    def wanted(self, energy: float) -> int:
        """How many hold a share ``energy``, and those that make the new rank an even width."""
        missing = self.squares.flip(0).cumsum(0).flip(0)  # what is lost when 0, 1, … are taken
        count = int((missing > (1 - energy) * self.squares.sum()).sum())
        return min(self.available, count + -(self.basis.shape[1] + count) % WIDTH) if count else 0

    def columns(self, count: int) -> Tensor:
        """The first ``count`` directions, orthonormal and orthogonal to the basis."""
        turn = self.turn[:, :count]
        new = self.gradient @ turn - self.basis @ (self.inside @ turn)
        # projected once more: once is not enough in floating point, twice is
        found: Tensor = torch.linalg.qr(new - self.basis @ (self.basis.mT @ new)).Q
        return found


def truncate(
    layer: AdaptiveRanks,
    tolerance: float,
    *,
    largest: int = 0,
    optimizer: torch.optim.Optimizer | None = None,
) -> None:
    """Reduce a layer to the rank that keeps all but ``tolerance`` · ‖S‖_F of its core.

    Bases that are not orthonormal are made so. A convolution's two modes share the tolerance
    evenly. Moments turn with the bases: first moments like the core, second ones as variances of
    uncorrelated entries.

    Args:
        layer: Any low-rank layer.
        tolerance: τ in (0, 1).
        largest: Largest rank, which beats the tolerance and the smallest rank of 2; 0 = no other
            than the layer's size.
        optimizer: Whose moments of the core are turned.
    """
    old = read_factors(layer)
    (Qu, Ru), (Qv, Rv) = _orthonormal(old.U), _orthonormal(old.V)
    core = _turn(old.core, Ru, Rv)
    limit = tolerance * float(torch.linalg.vector_norm(core))
    if layer.square_core:
        P, sigma, Qh = torch.linalg.svd(core)
        rank = _rank(sigma, limit, largest)
        P, Q = P[:, :rank], Qh.mT[:, :rank]
        core = torch.diag(sigma[:rank])
    else:
        P = _mode_basis(core, limit / math.sqrt(2), largest)
        Q = _mode_basis(_turn(core, P.mT, None).transpose(0, 1), limit / math.sqrt(2), largest)
        core = _turn(core, P.mT, Q.mT)
    _write(layer, Factors(Qu @ P, core, Qv @ Q))
    left = P.mT if Ru is None else P.mT @ Ru
    right = Q.mT if Rv is None else Q.mT @ Rv

    def turned(name: str, moment: Tensor) -> Tensor:
        if name in SQUARED_MOMENTS:
            return _turn(moment, left.square(), right.square())
        return _turn(moment, left, right)

    _each_moment(layer, optimizer, turned)


def orthonormalize(layer: AdaptiveRanks) -> None:
    """Make the bases orthonormal; the layer's function stays the same.

    Moments stay as they are: bases that bent during one epoch are turned back by little.
    """
    old = read_factors(layer)
    (Qu, Ru), (Qv, Rv) = _orthonormal(old.U), _orthonormal(old.V)
    _write(layer, Factors(Qu, _turn(old.core, Ru, Rv), Qv))


def as_matrix(stored: Tensor, output: bool = False) -> Tensor:
    """A basis (n, r) from how it is stored: as it is, or as the weight of a 1×1 convolution."""
    value = stored.detach()
    if value.dim() == 2:
        return value
    return value[:, :, 0, 0] if output else value[:, :, 0, 0].t()


def _to_modes(layer: AdaptiveRanks, core: Tensor) -> Tensor:
    """(u, v, …) from the stored layout; its own inverse."""
    return core.transpose(0, 1) if layer.outputs_first else core


def _write(layer: AdaptiveRanks, new: Factors) -> None:
    layer.set_factors(new.U, _to_modes(layer, new.core), new.V)


def _orthonormal(basis: Tensor) -> tuple[Tensor, Tensor | None]:
    """Q and R of a basis; the basis itself and None where it is orthonormal to rounding."""
    gram = basis.mT @ basis
    gram.diagonal().sub_(1)
    if float(gram.abs().max()) <= BENT:
        return basis, None
    Q, R = torch.linalg.qr(basis)
    signs = R.diagonal().sgn()  # so that columns keep their directions
    return Q * signs, R * signs[:, None]


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
    smallest = min(SMALLEST_RANK, largest) if largest else SMALLEST_RANK
    return min(max(bounded, smallest), len(sigma))


def _each_moment(
    layer: AdaptiveRanks,
    optimizer: torch.optim.Optimizer | None,
    change: Callable[[str, Tensor], Tensor],
) -> None:
    state = {} if optimizer is None else optimizer.state.get(core_of(layer), {})
    for name, value in state.items():
        if isinstance(value, Tensor) and value.dim() > 1:
            changed = change(name, _to_modes(layer, value).double())
            state[name] = _to_modes(layer, changed).to(value.dtype).contiguous()
