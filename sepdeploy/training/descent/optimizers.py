"""The optimisers a recipe can name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

Groups = list[dict[str, Any]]


@dataclass(frozen=True)
class OptimizerChoice:
    """How to make an optimiser, and at what rates.

    Attributes:
        make: From groups of parameters, learning rate and momentum.
        default_lr: The learning rate to use where the recipe names none.
        adaptive: Whether a step moves entries by about the rate, however large the gradient.
    """

    make: Callable[[Groups, float, float], torch.optim.Optimizer]
    default_lr: float
    adaptive: bool


def _adamw(groups: Groups, lr: float, momentum: float) -> torch.optim.Optimizer:
    import torch

    return torch.optim.AdamW(groups, lr=lr)


def _sgd(groups: Groups, lr: float, momentum: float) -> torch.optim.Optimizer:
    import torch

    return torch.optim.SGD(groups, lr=lr, momentum=momentum, nesterov=momentum > 0)


OPTIMIZERS: dict[str, OptimizerChoice] = {
    "adamw": OptimizerChoice(_adamw, 4e-3, adaptive=True),
    "sgd": OptimizerChoice(_sgd, 0.1, adaptive=False),
}


def make_optimizer(
    name: str,
    model: nn.Module,
    *,
    lr: float,
    momentum: float,
    weight_decay: float,
    alone: Sequence[Tensor] = (),
    scales: Mapping[str, float] | None = None,
) -> torch.optim.Optimizer:
    """Return an optimiser over all parameters of a model; only matrices decay.

    Biases and normalisation weights (one dimension) are left out of weight decay, which would
    otherwise pull them to zero without making the network simpler.

    Args:
        name: A key of ``OPTIMIZERS``.
        model: Its parameters.
        lr: Learning rate.
        momentum: Of SGD.
        weight_decay: Of matrices.
        alone: Parameters that get a group each, with a ``scale`` of their learning rate.
        scales: Name of a parameter -> the ``scale`` of its group, where that is not 1.
    """
    scales = scales or {}
    apart = {id(p) for p in alone}
    groups: dict[tuple[bool, float], list[Tensor]] = {(True, 1.0): [], (False, 1.0): []}
    for key, parameter in model.named_parameters():
        if parameter.requires_grad and id(parameter) not in apart:
            kind = parameter.dim() > 1, scales.get(key, 1.0)
            groups.setdefault(kind, []).append(parameter)
    made = [
        {"params": of_kind, "weight_decay": weight_decay if matrices else 0.0, "scale": scale}
        for (matrices, scale), of_kind in groups.items()
        if of_kind
    ]
    made += [{"params": [p], "weight_decay": weight_decay, "scale": 1.0} for p in alone]
    return OPTIMIZERS[name].make(made, lr, momentum)
