"""How much a whole network can stretch a change of its input: a product over its layers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import nn

from sepdeploy.layers import LAYERS, is_structured, made_of_parts
from sepdeploy.models.analysis.shape_pass import shape_pass
from sepdeploy.models.architectures.lenet import LeNet
from sepdeploy.models.architectures.mlp import MLP
from sepdeploy.models.architectures.vgg import VGG
from sepdeploy.models.computed_weights import with_plain_weights
from sepdeploy.models.model import Model

# One layer after the other with ReLU, pooling and dropout between them, called in this order.
CHAINS: tuple[type[nn.Module], ...] = (MLP, LeNet, VGG, nn.Sequential)

# Elementwise with a slope of at most 1, or without any arithmetic.
GENTLE: tuple[type[nn.Module], ...] = (
    nn.ReLU, nn.ReLU6, nn.Hardtanh, nn.Tanh, nn.Sigmoid, nn.Softplus, nn.Identity, nn.Flatten,
    nn.Unflatten, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d,
)  # fmt: skip
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_MAX_POOLS = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)
_MEAN_POOLS = (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)
_ADAPTIVE = (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)
_WEIGHTED = (
    nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d,
    nn.ConvTranspose3d,
)  # fmt: skip

PLAIN = frozenset(
    {*GENTLE, *_BATCH_NORMS, nn.LeakyReLU, *_MAX_POOLS, *_MEAN_POOLS, *_ADAPTIVE, *_WEIGHTED}
)  # fmt: skip


@dataclass(frozen=True)
class LipschitzBound:
    """An upper bound of ‖f(x) − f(x')‖₂ / ‖x − x'‖₂ for inputs in [0, 1], evaluation mode.

    Attributes:
        bound: The product of the input's 1/std and every layer's gain; None where it is unknown.
        input: The largest 1/std of the normalisation.
        gains: What each step contributes, by name: σ_max of layers, max |γ|/√(var + ε) of batch
            normalisations. Steps of gain 1 are left out.
        reason: Why there is no bound.
    """

    bound: float | None
    input: float
    gains: dict[str, float] = field(default_factory=dict)
    reason: str = ""


def lipschitz_bound(model: Model, norms: Mapping[str, float | None]) -> LipschitzBound:
    """Multiply the norms of a network's layers, where these are applied one after the other.

    Residual connections, attention and anything else that is not such a chain have no bound here.

    Args:
        model: Any network.
        norms: σ_max of every weight-carrying layer, or a bound of it, by name.
    """
    scale = 1 / min(model.input.std)
    gains: dict[str, float] = {}
    net = with_plain_weights(model.net)
    own = {module: norms.get(name) for name, module in net.named_modules()}
    for name, module in _steps(net):
        gain = _gain(module, own.get(module))
        if gain is None:
            what = type(module).__name__
            return LipschitzBound(None, scale, reason=f"{name} ({what}) has no known bound")
        if gain != 1:
            gains[name] = gain
    enlarged = _enlarging_pools(model)
    if enlarged:
        return LipschitzBound(None, scale, reason=f"{enlarged} repeats pixels")
    return LipschitzBound(scale * math.prod(gains.values()), scale, gains)


def _steps(net: nn.Module) -> list[tuple[str, nn.Module]]:
    """The modules without children, in the order of a chain; a net that is none as one step.

    A module that stands in it twice is two steps.
    """
    if not _is_chain(net):
        return [("net", net)]
    found: list[tuple[str, nn.Module]] = []
    inside: list[str] = []
    for name, module in net.named_modules(remove_duplicate=False):
        if any(name.startswith(prefix) for prefix in inside):
            continue
        if _is_chain(module):
            continue
        if not made_of_parts(module):  # its parts are steps
            inside.append(f"{name}.")  # a user's own module is one step, and an unknown one
            found.append((name, module))
    return found


def _is_chain(module: nn.Module) -> bool:
    """Whether a module calls its children in order and nothing else: not so a user's subclass."""
    return type(module) in CHAINS


def _gain(module: nn.Module, norm: float | None) -> float | None:
    if type(module) not in PLAIN and type(module) not in LAYERS.values():
        return None  # a subclass may compute anything
    if is_structured(module) or isinstance(module, _WEIGHTED):
        return norm
    if isinstance(module, _BATCH_NORMS):
        return _batch_norm(module)
    if isinstance(module, nn.LeakyReLU):
        return max(1.0, abs(module.negative_slope))
    if isinstance(module, _MAX_POOLS):
        return 1.0 if _disjoint(module) else None
    if isinstance(module, _MEAN_POOLS):
        return 1.0 if _whole_windows(module) else None
    return 1.0


def _whole_windows(pool: nn.AvgPool1d | nn.AvgPool2d | nn.AvgPool3d) -> bool:
    """Whether every window is divided by its full size: then no pixel counts more than once."""
    padding = pool.padding if isinstance(pool.padding, tuple) else (pool.padding,)
    cut = (max(padding) > 0 and not pool.count_include_pad) or pool.ceil_mode
    return getattr(pool, "divisor_override", None) is None and not cut


def _disjoint(pool: nn.MaxPool1d | nn.MaxPool2d | nn.MaxPool3d) -> bool:
    """Whether no pixel is in two windows: then the largest of each moves no more than the input."""
    sides = (pool.kernel_size, pool.stride, pool.dilation)
    kernel, stride, dilation = (s if isinstance(s, tuple) else (s,) for s in sides)
    return set(dilation) == {1} and max(kernel) <= min(stride)


def _batch_norm(module: nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d) -> float | None:
    if module.running_var is None:
        return None  # statistics of the batch: no fixed map
    scale = (module.running_var + module.eps).rsqrt()
    if module.affine:
        scale = scale * module.weight.detach().abs()
    return float(torch.max(scale))


def _enlarging_pools(model: Model) -> str:
    """The first adaptive pool that gives more places than it gets, "" if there is none."""
    found: list[str] = []
    names: dict[nn.Module, str] = {
        module: name for name, module in model.net.named_modules() if isinstance(module, _ADAPTIVE)
    }

    def visit(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        pairs = zip(inputs[0].shape[2:], output.shape[2:], strict=True)
        if any(after > before for before, after in pairs):
            found.append(names[module])

    if names:
        shape_pass(model.net, model.input, dict.fromkeys(names, visit))
    return found[0] if found else ""
