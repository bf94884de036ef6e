"""Putting a plan into effect: every layer replaced by its nearest form."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy

from torch import nn

from sepdeploy.errors import BadInput
from sepdeploy.layers import (
    CONVOLUTION_LAYERS,
    LAYERS,
    LowRankConv2d,
    project_convolution,
    project_linear,
)
from sepdeploy.models import Model
from sepdeploy.models.computed_weights import with_plain_weights
from sepdeploy.models.factory import replace_module
from sepdeploy.structures import parse_structure


def compress_model(model: Model, changes: Mapping[str, str]) -> tuple[Model, dict[str, float]]:
    """Return a copy of a model with some layers projected.

    Args:
        model: Left as it is.
        changes: Form by layer name, as ``CompressionPlan.changes`` gives it.

    Returns:
        The copy, and ‖W − W'‖_F / ‖W‖_F of every projected layer.

    Raises:
        BadInput: A form that does not fit its layer.
    """
    plain = with_plain_weights(model)
    copy = deepcopy(model) if plain is model else plain
    errors = {}
    for name, text in changes.items():
        try:
            layer = nearest_layer(copy.net.get_submodule(name), text)
        except BadInput as error:
            raise BadInput(f"layer '{name}': {error.message}", hint=error.hint) from error
        replace_module(copy.net, name, layer)
        errors[name] = float(getattr(layer, "projection_error", None) or 0.0)
    return copy, errors


def nearest_layer(layer: nn.Module, text: str) -> nn.Module:
    """The layer of a form that is closest to a plain one.

    Raises:
        BadInput: A form that does not fit it.
    """
    if isinstance(layer, nn.Conv2d):
        return project_convolution(layer, text)
    if not isinstance(layer, nn.Linear):
        raise BadInput(
            f"a {type(layer).__name__} has no structured form",
            hint=f"linear layers take {', '.join(LAYERS)}, convolutions "
            f"{', '.join(CONVOLUTION_LAYERS)}; leave this one out",
        )
    spec = parse_structure(text, (layer.in_features,), layer.out_features)
    return project_linear(layer, spec)


def factorize_convolutions(net: nn.Module, rank: int) -> dict[str, LowRankConv2d]:
    """Give every convolution of a fresh network but the first its low-rank form, in place.

    1×1 and grouped convolutions stay.

    Args:
        net: A network that has not been trained.
        rank: Channel rank of both modes, where that is at most half the channels; else half.
    """
    plain = [(n, m) for n, m in net.named_modules() if type(m) is nn.Conv2d]
    done: dict[str, LowRankConv2d] = {}
    for name, conv in plain[1:]:
        if conv.groups != 1 or max(conv.kernel_size) == 1:
            continue
        q, p = (max(1, min(n // 2, rank)) for n in (conv.in_channels, conv.out_channels))
        done[name] = LowRankConv2d.fresh(conv, (q, p))
        replace_module(net, name, done[name])
    return done
