"""Condition numbers of a network's layers, from the matrices and factors they are made of."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from sepdeploy.layers import Structured, StructuredLinear, is_structured
from sepdeploy.models.analysis.layer_spectra import LayerSpectra
from sepdeploy.training.penalties.matrices import regularized_matrices

# A matrix costs a decomposition; above these sizes that would be felt in every epoch.
MAX_DENSE_FEATURES = 2048  # of the smaller side
MAX_SUM_FEATURES = 128  # of the larger side of a sum of Kronecker terms: some milliseconds


def condition_numbers(net: nn.Module) -> dict[str, float | None]:
    """Return κ₂ of every layer that a penalty can act on, by name.

    Structured layers have that of the matrix they stand for. Plain layers and convolutions have
    that of the matrix which the penalties act on: the weight unfolded to (outputs, rest), and for
    a factored convolution its core's output unfolding (p, q·k²), or that of its dense weight where
    the penalties act on stacks of small matrices. A number above 1e6 in a first
    Kronecker layer is usually one of pixels that are always dark: their columns are driven to zero
    (docs/spectra.md).

    None where it is infinite (a singular layer), more than double precision resolves by a Gram
    matrix (above 1e6 in a plain layer) or unknown: weights that are not finite, sums of Kronecker
    terms with more than 128 features, and matrices with more than 2048 on their smaller side.
    """
    found: dict[str, float | None] = {}
    with torch.no_grad():
        matrices = regularized_matrices(net, "all")
        for name, module in net.named_modules():
            name = name or "net"
            if is_structured(module):
                found[name] = _structured(module)
            elif name in matrices:
                first, *others = matrices[name]
                if isinstance(module, Structured) and (others or first.dim() > 2):
                    first = module.dense_weight().flatten(1)
                found[name] = _dense(first)
    return found


def _structured(layer: StructuredLinear) -> float | None:
    small = max(layer.spec.in_features, layer.spec.out_features) <= MAX_SUM_FEATURES
    return LayerSpectra((), thorough=small).of(layer).condition_number


def _dense(weight: Tensor) -> float | None:
    # The eigenvalues of the smaller Gram matrix are much cheaper than singular values.
    if min(weight.shape) > MAX_DENSE_FEATURES or not bool(weight.isfinite().all()):
        return None
    A = weight.double()
    G = A @ A.mT if A.shape[0] <= A.shape[1] else A.mT @ A
    eigenvalues = torch.linalg.eigvalsh(G)
    smallest, largest = float(eigenvalues[0]), float(eigenvalues[-1])
    # forming and decomposing G moves its eigenvalues by about so much; below it, nothing is known
    rounding = max(A.shape) * torch.finfo(torch.double).eps * largest
    return math.sqrt(largest / smallest) if smallest > rounding else None
