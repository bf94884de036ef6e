"""Masks that keep the most important entries of every factor.

A mask keeps the same share of every tensor (as HYDRA does), or the budget is one for the whole
network and falls where entries matter least: then small factors keep more of their entries than
large ones. Either way what is reported is the share of all prunable numbers together, not the
mean of percentages, in which a tiny tensor would count as much as a large one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from sepdeploy.errors import BadInput
from sepdeploy.layers import StructuredLinear

Weights = dict[str, Tensor]


def fold_cores(net: nn.Module) -> None:
    """Bring every structured layer into its deployed form, which is what masks belong to."""
    for layer in net.modules():
        if isinstance(layer, StructuredLinear):
            layer.fold()


def prunable(net: nn.Module, *, classifier: bool = False) -> Weights:
    """The tensors that masks act on, by name: factors and plain weights.

    Args:
        net: The network.
        classifier: Its last linear layer too, which otherwise stays whole.

    Raises:
        BadInput: There are none.
    """
    found: Weights = {}
    linear = [m for m in net.modules() if isinstance(m, (nn.Linear, StructuredLinear))]
    whole = None if classifier or not linear else linear[-1]
    for name, module in net.named_modules():
        prefix = f"{name}." if name else ""
        if module is whole:
            continue
        if isinstance(module, StructuredLinear):
            found |= {f"{prefix}{key}": tensor for key, tensor in module.prunable().items()}
        elif isinstance(module, (nn.Linear, nn.Conv2d)):
            found[f"{prefix}weight"] = module.weight
    if not found:
        raise BadInput(
            "the network has nothing to prune besides its classifier",
            hint="give it another linear or convolutional layer, or train without prune",
        )
    return found


def top_masks(
    importance: Mapping[str, Tensor], sparsity: float, scope: str = "tensor"
) -> dict[str, Tensor]:
    """Keep the ⌈(1 − sparsity) · n⌉ most important entries, at least one of each tensor.

    Equal entries are kept in their order, so that the count is exact.

    Args:
        importance: Weights or scores; their magnitude counts.
        sparsity: Share of entries that are dropped.
        scope: n is the size of each "tensor", or of the whole
            "network", whose entries are compared by ``relative_scores``.
    """
    if scope == "tensor":
        return {name: _largest(x.detach().abs(), sparsity, 1) for name, x in importance.items()}
    scores = {name: relative_scores(values) for name, values in importance.items()}
    together = torch.cat([s.flatten() for s in scores.values()])
    flat = _largest(together, sparsity, len(scores))
    masks, start = {}, 0
    for name, of in scores.items():
        masks[name] = flat[start : start + of.numel()].reshape(of.shape)
        start += of.numel()
    return masks


def relative_scores(values: Tensor) -> Tensor:
    """w² over the sum of all squares that are not smaller, within a tensor (LAMP, Lee et al. 2021).

    It is the share of what is left of a tensor that would be lost with the entry if the smaller
    ones are gone already; that compares entries of tensors of any size and scale. The largest
    entry has the score 1, so no tensor is emptied before the others.
    """
    squares = values.detach().double().square().flatten()
    ascending = torch.argsort(squares, stable=True)
    remaining = squares[ascending].flip(0).cumsum(0).flip(0)
    scores = torch.empty_like(squares)
    scores[ascending] = squares[ascending] / remaining.clamp_min(torch.finfo(torch.double).tiny)
    scores[ascending[-1]] = 1.0  # also in a tensor of zeros
    return scores.reshape(values.shape)


def _largest(values: Tensor, sparsity: float, least: int) -> Tensor:
    flat = values.flatten()
    keep = max(least, math.ceil((1 - sparsity) * flat.numel() - 1e-9))
    order = torch.argsort(flat, descending=True, stable=True)[:keep]
    mask = torch.zeros(flat.numel(), dtype=torch.bool, device=flat.device)
    mask[order] = True
    return mask.reshape(values.shape)


def initial_scores(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Scores in proportion to the weights: s = √(6/fan_in) · w / max|w| (HYDRA).

    Args:
        weights: By the names of ``prunable``.
    """
    scores = {}
    for name, w in weights.items():
        largest = w.detach().abs().max().clamp_min(torch.finfo(w.dtype).tiny)
        scores[name] = math.sqrt(6 / _fan_in(name, w)) * w.detach() / largest
    return scores


def _fan_in(name: str, w: Tensor) -> int:
    """How many inputs each output of a factor sums over, all terms together."""
    if w.dim() == 4:  # (outputs, inputs, height, width) of a convolution
        return w[0].numel()
    outputs = w.shape[-1] if name.rpartition(".")[2] == "U" else w.shape[-2]  # U is (n_in, r)
    return max(1, w.numel() // outputs)


def sparsity_of(weights: Mapping[str, Tensor]) -> float:
    """Share of zeros among all entries."""
    total = sum(w.numel() for w in weights.values())
    zeros = sum(int((w == 0).sum()) for w in weights.values())
    return zeros / total
