"""PyTorch modules of the structure families."""

from __future__ import annotations

from typing import Any, TypeGuard

from torch import Tensor, nn

from sepdeploy.errors import BadInput
from sepdeploy.layers.base import AdaptiveRanks, Structured, StructuredConv2d, StructuredLinear
from sepdeploy.layers.conv import LowRankConv2d
from sepdeploy.layers.debut import DebutLinear
from sepdeploy.layers.debut_conv import DebutConv2d
from sepdeploy.layers.fixed_rank import FixedRankConv2d
from sepdeploy.layers.graph import graph_nodes
from sepdeploy.layers.kron import KronLinear
from sepdeploy.layers.kron_conv import KronConv2d
from sepdeploy.layers.lowrank import LowRankLinear
from sepdeploy.layers.pdp import PdpConv2d
from sepdeploy.structures import DenseSpec, Spec, parse_convolution, saved_convolution

__all__ = [
    "CONVOLUTION_LAYERS",
    "LAYERS",
    "AdaptiveRanks",
    "DebutConv2d",
    "DebutLinear",
    "FixedRankConv2d",
    "KronConv2d",
    "KronLinear",
    "LowRankConv2d",
    "LowRankLinear",
    "PdpConv2d",
    "Structured",
    "StructuredConv2d",
    "StructuredLinear",
    "convolution_like",
    "graph_nodes",
    "has_bias",
    "is_structured",
    "made_of_parts",
    "make_linear",
    "project_convolution",
    "project_linear",
]

# By the name of the structure; dense layers are plain nn.Linear.
LAYERS: dict[str, type[StructuredLinear]] = {
    "kron": KronLinear,
    "lowrank": LowRankLinear,
    "debut": DebutLinear,
}
CONVOLUTION_LAYERS: dict[str, type[StructuredConv2d]] = {
    "lowrank": LowRankConv2d,
    "tucker": LowRankConv2d,
    "debut": DebutConv2d,
    "kron": KronConv2d,
    "pdp": PdpConv2d,
}


def is_structured(module: nn.Module) -> TypeGuard[StructuredLinear]:
    """Whether a module is a linear layer of a structure family (dense ones are not)."""
    return isinstance(module, StructuredLinear)


def made_of_parts(module: nn.Module) -> bool:
    """Whether a module is one of our convolutions, which call their parts in order."""
    return type(module) in (FixedRankConv2d, *CONVOLUTION_LAYERS.values())


def has_bias(layer: nn.Module) -> bool:
    """Whether a layer adds a bias, of whatever it is made."""
    bias = layer.whole_bias() if is_structured(layer) else getattr(layer, "bias", None)
    return isinstance(bias, Tensor)


def make_linear(spec: Spec, bias: bool = True) -> nn.Linear | StructuredLinear:
    """A freshly initialised layer of a structure; dense gives ``nn.Linear``."""
    if isinstance(spec, DenseSpec):
        return nn.Linear(spec.in_features, spec.out_features, bias=bias)
    return LAYERS[spec.structure].from_spec(spec, bias)


def project_linear(linear: nn.Linear, spec: Spec) -> nn.Linear | StructuredLinear:
    """The layer of a structure that is closest to a dense one; dense gives the layer itself.

    Raises:
        BadInput: The structure has other features than the layer.
    """
    if (linear.in_features, linear.out_features) != (spec.in_features, spec.out_features):
        raise BadInput(
            f"the layer is {linear.in_features} → {linear.out_features}, "
            f"the structure {spec.in_features} → {spec.out_features}",
            hint="take a structure of the layer's own sizes",
        )
    if isinstance(spec, DenseSpec):
        return linear
    return LAYERS[spec.structure].project(linear, spec)


def convolution_like(conv: nn.Conv2d, saved: Any) -> StructuredConv2d | None:
    """A fresh structured convolution from what a model file keeps of it, None for anything else.

    Raises:
        BadInput: Sizes that do not fit the convolution.
    """
    channels = conv.in_channels, conv.out_channels
    spec = saved_convolution(saved, channels, tuple(conv.kernel_size), conv.groups)
    return None if spec is None else CONVOLUTION_LAYERS[spec.structure].from_conv(conv, spec)


def project_convolution(conv: nn.Conv2d, text: str) -> StructuredConv2d:
    """The layer that a structure string means which is closest to a plain convolution.

    Raises:
        BadInput: No structure of convolutions, one that does not fit this one, or a weight that
            is not finite.
    """
    channels = conv.in_channels, conv.out_channels
    spec = parse_convolution(text, channels, tuple(conv.kernel_size), conv.groups)
    return CONVOLUTION_LAYERS[spec.structure].project(conv, spec)
