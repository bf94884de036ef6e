"""Ways to factor the kernels of a network, compared at equal parameters."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from torch import Tensor, nn

from sepdeploy.layers import CONVOLUTION_LAYERS
from sepdeploy.layers.energies import squares, tail
from sepdeploy.models import Model
from sepdeploy.models.computed_weights import with_plain_weights

SHARE = 0.25  # of the kernel's weights

# Families by what the tensor view calls them.
VIEWS = {
    "pdp": "pdp", "lowrank": "tucker-2", "debut": "debut", "kron": "kron",
}  # fmt: skip


@dataclass(frozen=True)
class Decompositions:
    """One convolution's kernel, by each way to factor it.

    Attributes:
        layer: Path of the convolution.
        kernel: Shape of its weight.
        errors: ‖W − W'‖_F / ‖W‖_F with at most ``SHARE`` of the weights, by the way's name; None
            where nothing of that kind is as small.
    """

    layer: str
    kernel: tuple[int, ...]
    errors: dict[str, float | None]


def decompositions(model: Model) -> tuple[Decompositions, ...]:
    """Compare every plain convolution's ways, depthwise ones left out."""
    net = with_plain_weights(model).net
    found = []
    for name, conv in net.named_modules():
        if type(conv) is nn.Conv2d and not (conv.groups > 1 and conv.weight.shape[1] == 1):
            errors = _by_family(conv)
            if conv.groups == 1:
                matrix = conv.weight.detach().cpu().double().flatten(2)
                errors |= {view: lost(matrix) for view, lost in _SLICES.items()}
            found.append(Decompositions(name or "net", tuple(conv.weight.shape), errors))
    return tuple(found)


def _by_family(conv: nn.Conv2d) -> dict[str, float | None]:
    most = SHARE * conv.weight.numel()
    errors: dict[str, float | None] = {}
    for family, view in VIEWS.items():
        forms = CONVOLUTION_LAYERS[family].forms(conv)
        small = [lost for form, lost in forms if form.params(bias=False) <= most]
        errors[view] = math.sqrt(max(0.0, min(small))) if small else None
    return errors


def _stacked(matrices: Tensor, weights: int) -> float | None:
    """Every matrix of a stack with the same rank, the largest that the weights allow."""
    per_rank = len(matrices) * (matrices.shape[1] + matrices.shape[2])
    rank = int(SHARE * weights // per_rank)
    if rank < 1:
        return None
    lost = tail(np.sum([squares(m) for m in matrices], axis=0))
    return math.sqrt(float(lost[min(rank, len(lost) - 1)]))


def _plain_rank(kernel: Tensor) -> float | None:
    """The unfolding (o, c·k²) of low rank: k×k to fewer maps, then 1×1."""
    return _stacked(kernel.flatten(1)[None], kernel.numel())


def _depthwise_separable(kernel: Tensor) -> float | None:
    """Each input channel's (o, k²) of low rank: depthwise k×k with a multiplier, then 1×1."""
    return _stacked(kernel.transpose(0, 1), kernel.numel())


def _shifts(kernel: Tensor) -> float | None:
    """Each tap's (o, c) of low rank: a sum of 1×1, shift, 1×1."""
    return _stacked(kernel.permute(2, 0, 1), kernel.numel())


_SLICES: dict[str, Callable[[Tensor], float | None]] = {
    "depthwise separable": _depthwise_separable,
    "shifts": _shifts,
    "rank": _plain_rank,
}
