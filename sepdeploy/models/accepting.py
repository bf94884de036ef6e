"""Which modules become models, and what is taken off them first."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sepdeploy.errors import BadInput

# What these add in front of the names of everything inside.
WRAPPER_PREFIXES = {"module.": "DataParallel", "_orig_mod.": "torch.compile"}
FLOATING = "files hold float32; convert the network first: module.float()"
QUANTISED_KINDS = (
    "torch.ao.nn.quantized.", "torch.ao.nn.intrinsic.quantized.", "torch.ao.nn.sparse.quantized.",
)  # fmt: skip
QUANTISED = "wrap the float network; sepdeploy export --quantize makes the int8 files"


def accepted(module: Any) -> nn.Module:
    """Return a module that can be traced, without DataParallel or ``torch.compile`` around it.

    Raises:
        BadInput: It is no ``nn.Module``, not in float32, quantised already, or TorchScript.
    """
    if not isinstance(module, nn.Module):
        raise BadInput(
            f"expected an nn.Module, found {_article(type(module).__name__)}",
            hint="a file is opened with sepdeploy.load or sepdeploy.open",
        )
    inner = unwrapped(module)
    for name, child in inner.named_modules():
        if isinstance(child, torch.jit.ScriptModule):
            raise BadInput(
                f"{_part(name)} is TorchScript, which cannot be traced",
                hint="wrap the nn.Module that it was made of",
            )
        if type(child).__module__.startswith(QUANTISED_KINDS):
            raise BadInput(f"{_part(name)} is quantised already", hint=QUANTISED)
    check_float32(inner)
    return inner


def unwrapped(module: nn.Module) -> nn.Module:
    """Return what DataParallel and ``torch.compile`` were put around."""
    while True:
        if isinstance(module, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            module = module.module
        elif isinstance(inner := getattr(module, "_orig_mod", None), nn.Module):
            module = inner
        else:
            return module


def check_float32(module: nn.Module) -> None:
    """Check that a network computes in float32, as the exported files do.

    Raises:
        BadInput: A parameter of another floating type, or a state that is not made of tensors.
    """
    for name, parameter in module.named_parameters():
        if parameter.is_floating_point() and parameter.dtype != torch.float32:
            kind = str(parameter.dtype).removeprefix("torch.")
            raise BadInput(f"the network computes in {kind} ('{name}')", hint=FLOATING)
    for key, value in module.state_dict().items():
        if not isinstance(value, Tensor) or value.is_quantized:
            raise BadInput(f"'{key}' of the network's state is no plain tensor", hint=QUANTISED)


def plain_key(key: str) -> str:
    """Return the name of a tensor without what DataParallel and ``torch.compile`` add to it."""
    return key.replace("_orig_mod.", "").removeprefix("module.")


def _part(name: str) -> str:
    return f"'{name}'" if name else "the network"


def _article(name: str) -> str:
    return f"{'an' if name[:1].lower() in 'aeiou' else 'a'} {name}"
