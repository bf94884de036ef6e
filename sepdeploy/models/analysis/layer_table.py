"""Counting the layers of a network: parameters, multiply-accumulates, singular values."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from torch import Tensor, nn

from sepdeploy.layers import Structured, StructuredConv2d, has_bias, is_structured
from sepdeploy.models.analysis.layer_spectra import Extremes, LayerSpectra
from sepdeploy.models.analysis.shape_pass import first_tensor, shape_pass
from sepdeploy.models.computed_weights import weight_of, with_plain_weights
from sepdeploy.records import InputSpec, LayerRecord, PartOf
from sepdeploy.structures import DenseSpec, Spec

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def deployed_params(net: nn.Module) -> int:
    """All parameters, with everything folded that is; shared ones counted once."""
    net = with_plain_weights(net)
    total = sum(p.numel() for p in net.parameters())
    return total - sum(m.folded_params for m in net.modules() if isinstance(m, Structured))


def dense_params(net: nn.Module) -> int:
    """All parameters with every structured layer replaced by its dense form."""
    structured = [m for m in net.modules() if isinstance(m, Structured)]
    return deployed_params(net) + sum(m.saved_params for m in structured)


def layer_records(
    net: nn.Module, input: InputSpec, *, thorough: bool = False
) -> tuple[LayerRecord, ...]:
    """One record per weight-carrying layer, in the order of the first call.

    Multiply-accumulates depend on the number of positions a layer is applied to (pixels, tokens),
    which a forward pass of one sample tells. A layer that the pass never calls comes last, with
    none.

    Args:
        net: The network.
        input: What one sample looks like.
        thorough: Spend seconds on singular values that cost more than a glance.
    """
    net = with_plain_weights(net)
    positions: dict[nn.Module, int] = {}

    def count(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        x, y = first_tensor(inputs), first_tensor(output)
        if x is not None and y is not None:
            positions[module] = positions.get(module, 0) + _places(module, x, y)

    names = {module: name or "net" for name, module in net.named_modules()}
    weighted = [module for module in names if _carries_weights(module)]
    shape_pass(net, input, dict.fromkeys(weighted, count))
    idle = [module for module in weighted if module not in positions]
    spectra = LayerSpectra(weighted, thorough=thorough)
    records = {
        m: _record(names[m], m, positions.get(m, 0), spectra.of(m)) for m in [*positions, *idle]
    }
    for module in names:
        if isinstance(module, StructuredConv2d):
            records |= _parts(module, names[module], records)
    return tuple(records.values())


def _parts(
    layer: StructuredConv2d, name: str, records: dict[nn.Module, LayerRecord]
) -> dict[nn.Module, LayerRecord]:
    """The records of a convolution's parts, which belong together and share its dense counts."""
    found = {}
    spread = layer.spread
    for part, weights in layer.parts().items():
        record = records[part]
        if spread != 1.0:  # whatever comes before the parts counts with the first of them
            norms = (spread, record.sigma_max)
            sigma = None if None in norms else math.prod(n for n in norms if n is not None)
            record = dataclasses.replace(
                record, sigma_max=sigma, sigma_min=None, condition_number=None
            )
            spread = 1.0
        stored = weight_of(part).numel()
        places = record.macs // stored // layer.images
        found[part] = dataclasses.replace(
            record,
            params_dense=record.params - stored + weights,
            macs_dense=places * weights,
            part_of=PartOf(name, layer.spec.structure),
        )
    if layer.added_bias is not None:  # the last part is given it
        last, added = next(reversed(found)), layer.added_bias.numel()
        params, dense = found[last].params + added, found[last].params_dense + added
        found[last] = dataclasses.replace(found[last], params=params, params_dense=dense)
    return found


def _carries_weights(module: nn.Module) -> bool:
    return is_structured(module) or isinstance(module, (nn.Linear, *_CONVOLUTIONS, *_TRANSPOSED))


def _places(module: nn.Module, x: Tensor, y: Tensor) -> int:
    """How often a layer's matrix is applied to this one sample."""
    if is_structured(module):
        return y.numel() // module.spec.out_features
    if isinstance(module, _TRANSPOSED):
        return math.prod(x.shape[2:])  # the kernel is applied at each place of the input
    if isinstance(module, _CONVOLUTIONS):
        return y.numel() // int(module.out_channels)  # parts of channels may be images of their own
    return y.numel() // int(getattr(module, "out_features", 1))


def _record(name: str, module: nn.Module, places: int, extremes: Extremes) -> LayerRecord:
    bias = has_bias(module)
    if is_structured(module):
        return _linear_record(name, module.spec, bias, places, extremes)
    if isinstance(module, nn.Linear):
        spec = DenseSpec(module.in_features, module.out_features)
        return _linear_record(name, spec, bias, places, extremes)
    weight = weight_of(module)
    channels = int(getattr(module, "out_channels", 0))
    params = weight.numel() + (channels if bias else 0)
    macs = places * weight.numel()
    return LayerRecord(
        name=name,
        structure="dense",
        factors=(tuple(weight.shape),),
        params=params,
        params_dense=params,
        macs=macs,
        macs_dense=macs,
        condition_number=extremes.condition_number,
        sigma_max=extremes.sigma_max,
        sigma_min=extremes.sigma_min,
    )


def _linear_record(
    name: str, spec: Spec, bias: bool, places: int, extremes: Extremes
) -> LayerRecord:
    return LayerRecord(
        name=name,
        structure=spec.structure,
        factors=spec.factor_shapes,
        params=spec.params(bias),
        params_dense=spec.dense_params(bias),
        macs=places * spec.macs,
        macs_dense=places * spec.dense_macs,
        spec=spec.to_json(),
        condition_number=extremes.condition_number,
        sigma_max=extremes.sigma_max,
        sigma_min=extremes.sigma_min,
    )
