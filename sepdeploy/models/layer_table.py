"""Counting the layers of a network: parameters, multiply-accumulates, condition numbers."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from sepdeploy.errors import BadInput
from sepdeploy.layers import StructuredLinear, is_structured
from sepdeploy.layers.lowrank import LowRankLinear
from sepdeploy.records import InputSpec, LayerRecord
from sepdeploy.structures import DenseSpec

# A dense layer's condition number costs a full decomposition: above this size it is left out.
DENSE_SPECTRUM_FEATURES = 1024

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_Layer = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d | StructuredLinear


def deployed_params(net: nn.Module) -> int:
    """All parameters, with every low-rank core folded; shared ones counted once."""
    total = sum(p.numel() for p in net.parameters())
    cores = (m.S.numel() for m in net.modules() if isinstance(m, LowRankLinear))
    return total - sum(cores)


def dense_params(net: nn.Module) -> int:
    """All parameters with every structured layer replaced by its dense form."""
    structured = [m for m in net.modules() if is_structured(m)]
    saved = sum(m.spec.dense_macs - m.spec.weight_params for m in structured)
    return deployed_params(net) + saved


def layer_records(net: nn.Module, input: InputSpec) -> tuple[LayerRecord, ...]:
    """One record per weight-carrying layer, in the order of the first call.

    Multiply-accumulates depend on the number of positions a layer is applied to (pixels, tokens),
    which a forward pass on shapes alone tells.
    """
    positions = _positions(net, input)
    names = {module: name or "net" for name, module in net.named_modules()}
    called = [m for m in positions if m in names]
    idle = [m for m in names if _carries_weights(m) and m not in positions]
    return tuple(_record(names[m], m, positions.get(m, 0)) for m in [*called, *idle])


def _carries_weights(module: nn.Module) -> bool:
    return is_structured(module) or isinstance(module, (nn.Linear, *_CONVOLUTIONS, *_TRANSPOSED))


def _positions(net: nn.Module, input: InputSpec) -> dict[nn.Module, int]:
    """How often each layer's matrix is applied to one sample, keyed in call order."""
    positions: dict[nn.Module, int] = {}

    def count(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if isinstance(module, _TRANSPOSED):
            places = math.prod(inputs[0].shape[2:])  # the kernel is applied at each input place
        elif isinstance(module, _CONVOLUTIONS):
            places = math.prod(output.shape[2:])
        elif is_structured(module):
            places = output.numel() // module.spec.out_features
        else:
            places = output.numel() // output.shape[-1]
        positions[module] = positions.get(module, 0) + places

    hooks = [m.register_forward_hook(count) for m in net.modules() if _carries_weights(m)]
    try:
        with _evaluating(net):
            _shape_pass(net, input)
    finally:
        for hook in hooks:
            hook.remove()
    return positions


@contextmanager
def _evaluating(net: nn.Module) -> Iterator[None]:
    before = {module: module.training for module in net.modules()}
    net.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in before.items():
            module.training = training


def _shape_pass(net: nn.Module, input: InputSpec) -> None:
    state: dict[str, Tensor] = {**dict(net.named_parameters()), **dict(net.named_buffers())}
    device = next((t.device for t in state.values()), torch.device("cpu"))
    net(torch.zeros(1, *input.shape, device=device))


def _record(name: str, module: nn.Module, positions: int) -> LayerRecord:
    bias = getattr(module, "bias", None) is not None
    if is_structured(module):
        spec = module.spec
        return LayerRecord(
            name=name,
            structure=spec.structure,
            factors=spec.factor_shapes,
            params=spec.params(bias),
            params_dense=spec.dense_params(bias),
            macs=positions * spec.macs,
            macs_dense=positions * spec.dense_macs,
            spec=spec.to_json(),
        )
    weight = module.weight
    if not isinstance(weight, Tensor):
        raise BadInput(f"layer '{name}' has no weight tensor")
    params = weight.numel() + (module.bias.numel() if isinstance(module.bias, Tensor) else 0)
    macs = positions * weight.numel()
    spec_json = (
        DenseSpec(weight.shape[1], weight.shape[0]).to_json()
        if isinstance(module, nn.Linear)
        else {}
    )
    return LayerRecord(
        name=name,
        structure="dense",
        factors=(tuple(weight.shape),),
        params=params,
        params_dense=params,
        macs=macs,
        macs_dense=macs,
        spec=spec_json,
    )
