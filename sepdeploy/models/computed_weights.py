"""Weights that are computed from others: parametrizations, normalisations, pruning masks.

Training keeps them as they are. What is counted, exported or projected is their value.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable
from copy import deepcopy
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune, remove_spectral_norm, remove_weight_norm
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from sepdeploy.errors import OTHER_LAYERS, BadInput

Net = TypeVar("Net", bound=nn.Module)


def weight_of(module: nn.Module) -> Tensor:
    """Return a layer's weight, a parameter or not.

    Raises:
        BadInput: It has none.
    """
    weight = getattr(module, "weight", None)
    if not isinstance(weight, Tensor):
        raise BadInput(f"a {type(module).__name__} has no weight", hint=OTHER_LAYERS)
    return weight


def with_plain_weights(net: Net) -> Net:
    """Return a network whose weights are all parameters: itself, or a copy that computes the same.

    Raises:
        BadInput: A network with computed weights that cannot be copied.
    """
    if not any(_computed(module) for module in net.modules()):
        return net
    settle(net)  # a weight that remembers its gradient cannot be copied
    with torch.no_grad():
        try:
            copy = deepcopy(net)
        except Exception as error:  # a user's module may hold anything
            raise BadInput(
                f"a network with computed weights cannot be copied: {error}",
                hint="torch.nn.utils.parametrize.remove_parametrizations writes them out",
            ) from error
        for module in copy.modules():
            for name, write in _computed(module).items():
                write(module, name)
    return copy


def computed_values(net: nn.Module) -> dict[str, Tensor]:
    """The values of all computed weights, by name: what a net without them would hold.

    Raises:
        BadInput: A network with computed weights that cannot be copied.
    """
    names = [(path, name) for path, m in net.named_modules() for name in _computed(m)]
    plain = with_plain_weights(net)
    found = {(path, name): plain.get_submodule(path).state_dict()[name] for path, name in names}
    return {f"{path}.{name}".removeprefix("."): value for (path, name), value in found.items()}


def made_of(weight: str, names: Iterable[str]) -> set[str]:
    """Which of the names of a state a computed weight is computed from."""
    path, _, name = weight.rpartition(".")
    new = f"{path}.parametrizations.{name}.".removeprefix(".")
    return {key for key in names if key.startswith((f"{weight}_", new))}


def settle(net: nn.Module) -> None:
    """Compute the weights of old hooks anew, which otherwise wait for the next forward pass."""
    with torch.no_grad():
        for module in net.modules():
            _compute_anew(module)


def write_out(net: nn.Module, wanted: Container[str]) -> None:
    """Make parameters, in place, of the computed weights that ``wanted`` names, or their layers."""
    for path, module in net.named_modules():
        for name, write in _computed(module).items():
            if path in wanted or f"{path}.{name}" in wanted:
                write(module, name)


def _computed(module: nn.Module) -> dict[str, Callable[[nn.Module, str], object]]:
    """The computed tensors of a module, and what writes each out as a parameter."""
    found: dict[str, Callable[[nn.Module, str], object]] = {}
    found |= dict.fromkeys(_parametrizations(module), _write_out)
    for hook in module._forward_pre_hooks.values():
        if isinstance(hook, WeightNorm):
            found[hook.name] = remove_weight_norm
        elif isinstance(hook, SpectralNorm):
            found[hook.name] = remove_spectral_norm
        elif isinstance(hook, prune.BasePruningMethod):
            found[hook._tensor_name] = prune.remove
    return found


def _write_out(module: nn.Module, _: str) -> None:
    """Write out all parametrized tensors of a module.

    PyTorch's own way takes the properties off the class, which copies of a module share.
    """
    parametrizations = _parametrizations(module)
    if not parametrizations:
        return  # done with an earlier name
    learned = {n: any(True for _ in p.parameters()) for n, p in parametrizations.items()}
    with torch.no_grad():
        for own in parametrizations.values():
            own.eval()  # in training a spectral norm would take a step of its power iteration
        values = {name: getattr(module, name).clone() for name in learned}
    del module._modules["parametrizations"]
    module.__class__ = type(module).__bases__[0]
    for name, value in values.items():
        if learned[name]:
            module.register_parameter(name, nn.Parameter(value))
        else:
            module.register_buffer(name, value)


def _parametrizations(module: nn.Module) -> dict[str, nn.Module]:
    found = module._modules.get("parametrizations")
    if found is None or not parametrize.is_parametrized(module):
        return {}
    return dict(found.named_children())


def _compute_anew(module: nn.Module) -> None:
    for hook in module._forward_pre_hooks.values():
        if isinstance(hook, WeightNorm):
            setattr(module, hook.name, hook.compute_weight(module))
        elif isinstance(hook, SpectralNorm):
            setattr(module, hook.name, hook.compute_weight(module, do_power_iteration=False))
        elif isinstance(hook, prune.BasePruningMethod):
            hook(module, ())
