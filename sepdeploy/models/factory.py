"""Architectures by name: ours, and the user's own through ``package.module:factory``."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from torch import nn

from sepdeploy.errors import ARCHITECTURE, BadInput, SepdeployError, unknown_name
from sepdeploy.layers import CONVOLUTION_LAYERS, make_linear
from sepdeploy.models.accepting import accepted
from sepdeploy.models.architectures.densenet import densenet40
from sepdeploy.models.architectures.lenet import lenet
from sepdeploy.models.architectures.mlp import mlp
from sepdeploy.models.architectures.mobile import mobilenet_v2
from sepdeploy.models.architectures.resnet import resnet18, resnet_small
from sepdeploy.models.architectures.shift import shiftresnet
from sepdeploy.models.architectures.vgg import vgg
from sepdeploy.models.architectures.vit import vit
from sepdeploy.models.model import Model
from sepdeploy.models.placement import StructureMap, resolve_structures
from sepdeploy.records import InputSpec
from sepdeploy.structures import (
    CONVOLUTIONS,
    STRUCTURES,
    parse_structure,
    split_structure,
    whole_network,
)
from sepdeploy.structures.base import check_count

Factory = Callable[..., nn.Module]

MAX_CLASSES = 1 << 20

ARCHITECTURES: dict[str, Factory] = {
    "densenet40": densenet40,
    "lenet": lenet,
    "mlp": mlp,
    "mobilenet_v2": mobilenet_v2,
    "resnet18": resnet18,
    **{f"resnet{layers}": partial(resnet_small, layers) for layers in (20, 56)},
    **{f"shiftresnet{layers}": partial(shiftresnet, layers) for layers in (20, 56, 110)},
    **{name: partial(vgg, name) for name in ("vgg11", "vgg16", "vgg16_bn")},
    "vit_b_16": partial(vit, "vit_b_16", width=768, heads=12),
    "vit_tiny": partial(vit, "vit_tiny"),
}


def is_foreign(arch: str) -> bool:
    """Whether a name is a user's own ``package.module:factory``."""
    return ":" in arch


def find_factory(arch: str) -> Factory:
    """The factory behind an architecture name.

    A name with a colon imports the user's own code; it must come from the user, never from a file.

    Raises:
        BadInput: Unknown name, or a module or attribute that cannot be imported.
    """
    if not is_foreign(arch):
        if arch not in ARCHITECTURES:
            raise unknown_name(
                "architecture",
                arch[:60],
                ARCHITECTURES,
                hint=f"known: {', '.join(sorted(ARCHITECTURES))}, or package.module:factory",
            )
        return ARCHITECTURES[arch]
    module_name, _, attribute = arch.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)  # as `python -m` does: a user's own file lies in the folder
    try:
        factory = getattr(import_module(module_name), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise BadInput(
            f"architecture '{arch}' cannot be imported: {error}",
            hint="write package.module:factory, importable from the current folder",
        ) from error
    if not callable(factory):
        raise BadInput(
            f"architecture '{arch}' is a {type(factory).__name__}, not a function",
            hint=ARCHITECTURE,
        )
    return factory  # type: ignore[no-any-return]


def create(
    arch: str,
    input: InputSpec,
    classes: int,
    structure: StructureMap = None,
    **kwargs: Any,
) -> Model:
    """A freshly initialised model.

    Args:
        arch: A name in ``ARCHITECTURES``, or "package.module:factory" of the user. The user's
            factory is called with those of ``input``, ``input_shape`` and ``classes`` that it
            has parameters for, plus ``kwargs``; it returns an ``nn.Module``.
        input: What one sample looks like.
        classes: Number of logits.
        structure: One structure string for the layers meant to be structured, or one per layer;
            "all-debut" and "all-debut:30x" for every linear layer and convolution.
        **kwargs: The architecture's own options (``hidden=`` of mlp).

    Raises:
        BadInput: Unknown names, or options that make no sense.
    """
    check_count(classes, "classes", MAX_CLASSES)
    table = dict(structure) if isinstance(structure, Mapping) else structure
    net = build_net(arch, input, {"classes": classes, "structure": table, **kwargs})
    arch_kwargs = {"classes": classes, "structure": table, **_plain(kwargs)}
    model = Model(net, input, arch=arch, arch_kwargs=arch_kwargs)
    if is_foreign(arch) and model.classes != classes:
        raise BadInput(
            f"architecture '{arch}' gives {model.classes} logits, the data has {classes} classes",
            hint="its parameter 'classes' is filled in where it has one",
        )
    return model


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, (list, tuple)) else value


def build_net(arch: str, input: InputSpec, arch_kwargs: Mapping[str, Any]) -> nn.Module:
    """Call the factory of an architecture.

    Raises:
        BadInput: Options it does not take, a failure inside it, or a result that is no module.
    """
    factory = find_factory(arch)
    everywhere = whole_network(arch_kwargs.get("structure"))
    if everywhere:
        arch_kwargs = {**arch_kwargs, "structure": None}
    options = {k: v for k, v in arch_kwargs.items() if k not in ("classes", "structure")}
    parameters = inspect.signature(factory).parameters
    offered = {
        "input": input,
        "input_shape": input.shape,
        "classes": arch_kwargs.get("classes"),
        "structure": arch_kwargs.get("structure"),
    }
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    for name in options:
        if (name not in parameters and not takes_any) or name in offered:
            own = [p for p in parameters if p not in offered]
            raise unknown_name(f"option of {arch}", str(name)[:60], own)
    given = {k: v for k, v in offered.items() if k in parameters and v is not None}
    try:
        net = factory(**given, **options)
    except SepdeployError:
        raise
    except Exception as error:  # the user's own code may raise anything
        raise _unbuilt(arch, options, error) from error
    if not isinstance(net, nn.Module):
        raise BadInput(
            f"architecture '{arch}' gave a {type(net).__name__}, not an nn.Module",
            hint=ARCHITECTURE,
        )
    if is_foreign(arch):
        net = accepted(net)
    if "structure" not in parameters and arch_kwargs.get("structure") is not None:
        restructure(net, arch_kwargs["structure"])
    if everywhere:
        homogenize(net, everywhere)
    return net


def _unbuilt(arch: str, options: Mapping[str, Any], error: Exception) -> BadInput:
    """Return the error for a network that its factory could not make."""
    first = str(error).strip().split("\n", 1)[0]
    if isinstance(error, MemoryError) or "allocate" in first or "out of memory" in first:
        asked = ", ".join(f"{name} {value}" for name, value in options.items())
        return BadInput(
            f"architecture '{arch}' with {asked or 'this input'} does not fit into memory",
            hint="choose smaller layers, such as --hidden 1024,1024",
        )
    return BadInput(
        f"architecture '{arch}' cannot be built: {type(error).__name__}: {first[:200]}",
        hint="its parameters named input, input_shape, classes, structure are filled in",
    )


def restructure(net: nn.Module, structure: StructureMap) -> None:
    """Replace linear layers of a ready network by fresh ones of the structures asked for."""
    linears = {n: m for n, m in net.named_modules() if n and type(m) is nn.Linear}
    names = tuple(linears)
    texts = resolve_structures(structure, names[:-1], keep_dense=names[-1:])
    for name, text in texts.items():
        linear = linears[name]
        spec = parse_structure(text, (linear.in_features,), linear.out_features)
        if spec.structure != "dense":
            replace_module(net, name, make_linear(spec, bias=linear.bias is not None))


def homogenize(net: nn.Module, structure: str) -> None:
    """Replace every plain linear layer and convolution of a ready network by fresh structured ones.

    Grouped convolutions stay.
    """
    name, options = split_structure(structure)
    for path, layer in list(net.named_modules()):
        if type(layer) is nn.Linear:
            sizes = (layer.in_features,), layer.out_features
            spec = STRUCTURES[name].parse_any(options, *sizes)
            replace_module(net, path, make_linear(spec, layer.bias is not None))
        elif type(layer) is nn.Conv2d and layer.groups == 1:
            channels, kernel = (layer.in_channels, layer.out_channels), tuple(layer.kernel_size)
            form = CONVOLUTIONS[name].parse_any(structure, *channels, kernel)
            replace_module(net, path, CONVOLUTION_LAYERS[name].from_conv(layer, form))


def replace_module(net: nn.Module, name: str, layer: nn.Module) -> None:
    """Put another layer at a path of a network.

    Raises:
        BadInput: The path is empty: a network that is itself one layer cannot be replaced in place.
    """
    if not name:
        raise BadInput(
            "a network that is a single layer cannot change its structure in place",
            hint="put it into an nn.Sequential",
        )
    parent, _, last = name.rpartition(".")
    setattr(net.get_submodule(parent), last, layer)
