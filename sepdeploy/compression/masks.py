"""Masks that keep the most important entries of every factor.

A mask keeps the same share of every tensor (as HYDRA does); what is reported is the share of all
prunable numbers together, not the mean of percentages, in which a tiny tensor would count as
much as a large one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from sepdeploy.errors import BadInput
from sepdeploy.layers import KronLinear, LowRankLinear

Weights = dict[str, Tensor]


def fold_cores(net: nn.Module) -> None:
    """Fold the core of every low-rank linear layer into V and fix it to the identity.

    Masks belong to the factors that are deployed, and V Sᵀ would have no zeros where V has.
    """
    for layer in net.modules():
        if isinstance(layer, LowRankLinear):
            U, V = (factor.detach().clone() for factor in layer.factors())
            layer.set_factors(U, torch.eye(layer.spec.rank), V)
            layer.S.requires_grad_(False)


def prunable(net: nn.Module) -> Weights:
    """The tensors that masks act on, by name: factors and plain weights but the classifier's.

    Raises:
        BadInput: There are none.
    """
    found: Weights = {}
    linear = [m for m in net.modules() if isinstance(m, (nn.Linear, KronLinear, LowRankLinear))]
    for name, module in net.named_modules():
        prefix = f"{name}." if name else ""
        if module is (linear[-1] if linear else None):
            continue
        if isinstance(module, KronLinear):
            found |= {f"{prefix}factors.{k}": f for k, f in enumerate(module.factors)}
        elif isinstance(module, LowRankLinear):
            found |= {f"{prefix}U": module.U, f"{prefix}V": module.V}
        elif isinstance(module, (nn.Linear, nn.Conv2d)):
            found[f"{prefix}weight"] = module.weight
    if not found:
        raise BadInput("the network has nothing to prune besides its classifier")
    return found


def top_masks(importance: Mapping[str, Tensor], sparsity: float) -> dict[str, Tensor]:
    """Keep the ⌈(1 − sparsity) · n⌉ entries of largest magnitude of each tensor.

    Equal entries are kept in their order, so that the count is exact.
    """
    masks = {}
    for name, values in importance.items():
        flat = values.detach().abs().flatten()
        keep = max(1, math.ceil((1 - sparsity) * flat.numel() - 1e-9))
        order = torch.argsort(flat, descending=True, stable=True)[:keep]
        mask = torch.zeros(flat.numel(), dtype=torch.bool)
        mask[order] = True
        masks[name] = mask.reshape(values.shape)
    return masks


def initial_scores(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Scores in proportion to the weights: s = √(6/fan_in) · w / max|w| (HYDRA)."""
    scores = {}
    for name, w in weights.items():
        fan_in = max(1, w.numel() // w.shape[-2] if w.dim() < 4 else w[0].numel())
        largest = w.detach().abs().max().clamp_min(torch.finfo(w.dtype).tiny)
        scores[name] = math.sqrt(6 / fan_in) * w.detach() / largest
    return scores


def sparsity_of(weights: Mapping[str, Tensor]) -> float:
    """Share of zeros among all entries."""
    total = sum(w.numel() for w in weights.values())
    zeros = sum(int((w == 0).sum()) for w in weights.values())
    return zeros / total
