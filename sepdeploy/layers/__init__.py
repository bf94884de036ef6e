"""PyTorch modules of the structure families."""

from __future__ import annotations

from typing import TypeGuard

from torch import nn

from sepdeploy.errors import BadInput
from sepdeploy.layers.conv import LowRankConv2d
from sepdeploy.layers.graph import graph_nodes
from sepdeploy.layers.kron import KronLinear
from sepdeploy.layers.lowrank import LowRankLinear
from sepdeploy.structures import DenseSpec, KronSpec, Spec

__all__ = [
    "LAYERS",
    "KronLinear",
    "LowRankConv2d",
    "LowRankLinear",
    "StructuredLinear",
    "graph_nodes",
    "is_structured",
    "make_linear",
    "project_linear",
]

StructuredLinear = KronLinear | LowRankLinear

LAYERS: dict[str, type[nn.Module]] = {
    "dense": nn.Linear,
    "kron": KronLinear,
    "lowrank": LowRankLinear,
}


def is_structured(module: nn.Module) -> TypeGuard[StructuredLinear]:
    """Whether a module is a layer of a structure family (dense ones are not)."""
    return isinstance(module, StructuredLinear)


def make_linear(spec: Spec, bias: bool = True) -> nn.Linear | StructuredLinear:
    """A freshly initialised layer of a structure; dense gives ``nn.Linear``."""
    if isinstance(spec, DenseSpec):
        return nn.Linear(spec.in_features, spec.out_features, bias=bias)
    if isinstance(spec, KronSpec):
        return KronLinear(spec.in_shape, spec.out_shape, spec.terms, bias)
    return LowRankLinear(spec.in_features, spec.out_features, spec.rank, bias)


def project_linear(linear: nn.Linear, spec: Spec) -> nn.Linear | StructuredLinear:
    """The layer of a structure that is closest to a dense one; dense gives the layer itself.

    Raises:
        BadInput: The structure has other features than the layer.
    """
    if (linear.in_features, linear.out_features) != (spec.in_features, spec.out_features):
        raise BadInput(
            f"the layer is {linear.in_features} → {linear.out_features}, "
            f"the structure {spec.in_features} → {spec.out_features}"
        )
    if isinstance(spec, DenseSpec):
        return linear
    if isinstance(spec, KronSpec):
        return KronLinear.from_dense(linear, spec.in_shape, spec.out_shape, spec.terms)
    return LowRankLinear.from_dense(linear, spec.rank)
