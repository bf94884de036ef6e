"""Windows of dynamical low-rank training: when bases are augmented, truncated, or just trained."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from sepdeploy.errors import BadInput
from sepdeploy.layers import AdaptiveRanks
from sepdeploy.models import Model
from sepdeploy.training.machine.team import ALONE, Team
from sepdeploy.training.ranks.dynamic import (
    ENERGY,
    as_matrix,
    augment,
    bases,
    core_of,
    low_rank_layers,
    match_ranks,
    orthonormalize,
    truncate,
)
from sepdeploy.training.recipe.fields import Recipe

# With 1, MNIST nets do not start at ε 0.3 and end lower at 0.1; with 0.5, their ranks grow slowly.
STEP_POWER = 0.6


class RankDynamics:
    """When bases are augmented and truncated during a training.

    Between epochs all layers are truncated, so that what is judged and kept is the deployed form.
    Once ranks are frozen, bases train like any weight and are made orthonormal after each epoch:
    cores alone, as in the published finish, cannot leave the subspace of the last truncation.

    Args:
        net: Network with at least one low-rank layer.
        optimizer: The one that trains it.
        tolerance: τ.
        every: Steps of a window: one augmentation, then core steps, truncation with the last.
        largest: Largest rank after a truncation, 0 = each layer's own size.
        growing: Whether ranks may exceed those that the layers have now; a budget forbids it.
        energy: Share of the gradients outside the bases that an augmentation takes in.
        team: With whom factors are kept the same.
    """

    def __init__(
        self,
        net: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        tolerance: float,
        every: int,
        largest: int,
        growing: bool = True,
        energy: float = ENERGY,
        team: Team = ALONE,
    ) -> None:
        self.net = net
        self.team = team
        self.layers = list(low_rank_layers(net).values())
        self.bounds = [_bounds(layer, largest, growing=growing) for layer in self.layers]
        self.optimizer = optimizer
        self.tolerance = tolerance
        self.every = every
        self.energy = energy
        self.adaptive = not isinstance(optimizer, torch.optim.SGD)

    def before(self, step: int, steps: int, *, frozen: bool) -> bool:
        """Prepare for step ``step`` (from 0) of an epoch; return whether it augments.

        Bases get gradients where they are about to be augmented, and where ranks are frozen. An
        augmentation that no core step of the epoch would follow is left out.
        """
        augmenting = not frozen and step % self.every == 0 and step + 1 < steps
        for layer in self.layers:
            for basis in bases(layer):
                basis.requires_grad_(augmenting or frozen)
        if self.adaptive:
            self._scale_rates()
        return augmenting

    def _scale_rates(self) -> None:
        """Let core steps move W about as far as steps of W itself would.

        An adaptive optimiser moves every entry by about the learning rate. Equal Frobenius norms
        of a dense step and of one of a core between orthonormal bases need the factor
        q = √(n·m/(u·v)), equal spectral norms (of random signs) only √q; ``STEP_POWER`` of q lies
        between. Plain gradient descent needs no factor: its core step is the projection of its
        step of W.
        """
        by_core = {id(core_of(layer)): layer for layer in self.layers}
        for group in self.optimizer.param_groups:
            layer = by_core.get(id(group["params"][0])) if "scale" in group else None
            if layer is not None:
                U, V = bases(layer)
                n, m = (max(b.shape[0], b.shape[1]) for b in (U, V))
                u, v = (min(b.shape[0], b.shape[1]) for b in (U, V))
                group["scale"] = math.sqrt(n * m / (u * v)) ** STEP_POWER

    def augment(self) -> None:
        """Augment all layers by the gradients of the batch, which trains none of their factors."""
        for layer in self.layers:
            augment(layer, self.optimizer, energy=self.energy)
            for parameter in (*bases(layer), core_of(layer)):
                parameter.grad = None
        self._take_first()

    def after(self, step: int, steps: int, *, frozen: bool) -> None:
        """Truncate at the end of a window and of an epoch; mend bases that trained."""
        if frozen and step + 1 == steps:
            for layer in self.layers:
                orthonormalize(layer)
            self._take_first()
        elif not frozen and (step % self.every == self.every - 1 or step + 1 == steps):
            for layer, bounds in zip(self.layers, self.bounds, strict=True):
                truncate(layer, self.tolerance, largest=max(bounds), optimizer=self.optimizer)
                _cut(layer, bounds, self.optimizer)
            self._take_first()

    def _take_first(self) -> None:
        """Take the first process's factors and moments over.

        Factorisations on other hardware differ in their last bits, which can decide a rank.
        """
        if self.team.world == 1:
            return
        weights, moments = self.team.from_first(self._factors)
        if not self.team.first:
            match_ranks(self.net, weights)
            self.net.load_state_dict(weights, strict=False)
            for layer, values in zip(self.layers, moments, strict=True):
                core = core_of(layer)
                for name, value in values.items():
                    self.optimizer.state[core][name] = value.to(core.device)

    def _factors(self) -> tuple[dict[str, Tensor], list[dict[str, Tensor]]]:
        """Return all factors by name and the moments of each core, on the CPU."""
        cores = [core_of(layer) for layer in self.layers]
        wanted = {id(p) for layer in self.layers for p in bases(layer)} | {id(c) for c in cores}
        weights = {
            name: value.detach().cpu()
            for name, value in self.net.named_parameters()
            if id(value) in wanted
        }
        states = [self.optimizer.state.get(core, {}) for core in cores]
        return weights, [
            {k: v.cpu() for k, v in state.items() if isinstance(v, Tensor) and v.dim() > 1}
            for state in states
        ]


def _bounds(layer: AdaptiveRanks, largest: int, *, growing: bool) -> tuple[int, int]:
    """Return the largest ranks of U and of V after a truncation."""
    take = max if growing else min  # a basis (n, r) can have n columns, and has r
    u, v = (take(basis.shape[:2]) for basis in bases(layer))
    return min(u, largest or u), min(v, largest or v)


def _cut(layer: AdaptiveRanks, bounds: tuple[int, int], optimizer: torch.optim.Optimizer) -> None:
    """Keep the first directions of both bases of a layer that was just truncated.

    They are ordered by strength, so this truncates a convolution whose modes have two bounds.
    """
    U, V = (basis.detach() for basis in bases(layer))
    core, (u, v) = core_of(layer), bounds
    rows, columns = (v, u) if layer.outputs_first else (u, v)  # as it is stored
    if core.shape[0] <= rows and core.shape[1] <= columns:
        return
    moments = optimizer.state.get(core, {})
    for name, value in moments.items():
        if isinstance(value, Tensor) and value.dim() > 1:
            moments[name] = value[:rows, :columns].contiguous()
    S = core.detach()[:rows, :columns]
    layer.set_factors(as_matrix(U)[:, :u], S, as_matrix(V, True)[:, :v])


def check_windows(recipe: Recipe, images: int) -> None:
    """Check that the epochs of a training are long enough for ranks to adapt.

    Args:
        recipe: What to do.
        images: Number of training images.

    Raises:
        BadInput: An epoch is one step, which no core step follows: nothing would be augmented.
    """
    if recipe.rank_tolerance and images <= recipe.batch_size:
        raise BadInput(
            f"rank_tolerance is set and an epoch of {images} images is a single step of "
            f"batch_size = {recipe.batch_size}, so no rank could grow",
            hint=f"a batch_size of at most {max(1, images // 4)}, or leave rank_tolerance out",
        )


def dynamics_of(
    recipe: Recipe, model: Model, optimizer: torch.optim.Optimizer, team: Team = ALONE
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
        growing=not _has_budget(recipe, model),
        team=team,
    )


def _has_budget(recipe: Recipe, model: Model) -> bool:
    """Whether the ranks that the model starts with were planned into a budget."""
    compressed = model.provenance.get("compressed")
    return bool(recipe.target or (isinstance(compressed, dict) and compressed.get("target")))
