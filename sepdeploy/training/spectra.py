"""Condition numbers of a network's linear layers and Tucker cores, from their factors."""

from __future__ import annotations

import math

import torch
from torch import nn

from sepdeploy.layers import LowRankConv2d, is_structured

# A dense layer costs a full decomposition; above this size that would be felt in every epoch.
MAX_DENSE_FEATURES = 2048


def condition_numbers(net: nn.Module) -> dict[str, float | None]:
    """Return κ₂ of every structured and linear layer, by name.

    A factored convolution has that of its core's output unfolding (p, q·k²), the matrix which the
    penalties act on. A number above 1e6 in a first Kronecker layer is usually one of pixels that
    are always dark: their columns are driven to zero (docs/spectra.md).

    None where it is infinite (a singular layer) or unknown: sums of Kronecker terms, and dense
    layers with more than 2048 features on their smaller side.
    """
    found: dict[str, float | None] = {}
    with torch.no_grad():
        for name, module in net.named_modules():
            if is_structured(module):
                factors = [f.detach().cpu().double().numpy() for f in module.factors()]
                found[name or "net"] = _finite(module.spec.spectrum(factors).condition_number)
            elif isinstance(module, LowRankConv2d):
                found[name or "net"] = _finite(_dense(module.core.weight.flatten(1)))
            elif isinstance(module, nn.Linear):
                small = min(module.weight.shape) <= MAX_DENSE_FEATURES
                found[name or "net"] = _finite(_dense(module.weight)) if small else None
    return found


def _dense(weight: torch.Tensor) -> float:
    # The eigenvalues of the smaller Gram matrix are much cheaper than singular values; in double
    # precision they resolve condition numbers up to about 1e7.
    A = weight.double()
    G = A @ A.mT if A.shape[0] <= A.shape[1] else A.mT @ A
    eigenvalues = torch.linalg.eigvalsh(G)
    return math.sqrt(float(eigenvalues[-1]) / max(float(eigenvalues[0]), 1e-300))


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
