"""The optimisers a recipe can name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

Groups = list[dict[str, Any]]


@dataclass(frozen=True)
class OptimizerChoice:
    """How to make an optimiser, and the learning rate to use where the recipe names none."""

    make: Callable[[Groups, float, float], torch.optim.Optimizer]
    default_lr: float


def _adamw(groups: Groups, lr: float, momentum: float) -> torch.optim.Optimizer:
    import torch

    return torch.optim.AdamW(groups, lr=lr)


def _sgd(groups: Groups, lr: float, momentum: float) -> torch.optim.Optimizer:
    import torch

    return torch.optim.SGD(groups, lr=lr, momentum=momentum, nesterov=momentum > 0)


OPTIMIZERS: dict[str, OptimizerChoice] = {
    "adamw": OptimizerChoice(_adamw, 4e-3),
    "sgd": OptimizerChoice(_sgd, 0.1),
}


def make_optimizer(
    name: str,
    model: nn.Module,
    *,
    lr: float,
    momentum: float,
    weight_decay: float,
    alone: Sequence[Tensor] = (),
) -> torch.optim.Optimizer:
    """Return an optimiser over all parameters of a model; only matrices decay.

    ``alone``: parameters that get a group each, with a ``scale`` of their learning rate.

    Biases and normalisation weights (one dimension) are left out of weight decay, which would
    otherwise pull them to zero without making the network simpler.
    """
    apart = {id(p) for p in alone}
    parameters = [p for p in model.parameters() if p.requires_grad and id(p) not in apart]
    groups = [
        _group((p for p in parameters if p.dim() > 1), weight_decay),
        _group((p for p in parameters if p.dim() <= 1), 0.0),
        *(_group([p], weight_decay) | {"scale": 1.0} for p in alone),
    ]
    return OPTIMIZERS[name].make([g for g in groups if g["params"]], lr, momentum)


def _group(parameters: Iterable[Tensor], weight_decay: float) -> dict[str, Any]:
    return {"params": list(parameters), "weight_decay": weight_decay}
