"""Layers with random parameters, and the matrix that these stand for, by numpy alone."""

from functools import reduce

import numpy as np
import torch

from sepdeploy.layers import LowRankLinear


def randomised(layer, seed=0):
    generator = torch.Generator().manual_seed(seed)
    layer.double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return layer


def numpy_dense(layer):
    """The matrix of a layer, from its parameters alone."""
    if isinstance(layer, LowRankLinear):
        U, S, V = (p.detach().numpy() for p in (layer.U, layer.S, layer.V))
        return (U @ S @ V.T).T
    factors = [f.detach().numpy() for f in layer.factors]
    return sum(reduce(np.kron, [f[k] for f in factors]) for k in range(layer.spec.terms))


def numpy_bias(layer):
    """The bias of a layer, from its parameters alone; zero for a layer without."""
    parts = [b.detach().numpy() for b in getattr(layer, "biases", None) or ()]
    if not parts:
        return np.zeros(1) if layer.bias is None else layer.bias.detach().numpy()
    places = np.ndindex(*map(len, parts))
    return np.array([sum(p[i] for p, i in zip(parts, at, strict=True)) for at in places])
