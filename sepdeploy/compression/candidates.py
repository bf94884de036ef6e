"""The forms one layer could take, with their cost and the energy they would lose."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sepdeploy.compression.places import Places
from sepdeploy.errors import BadInput
from sepdeploy.layers import CONVOLUTION_LAYERS, LAYERS, project_convolution
from sepdeploy.structures import Form, parse_structure

LEAST_KEPT = 1e-9  # share of energy


@dataclass(frozen=True)
class Candidate:
    """One form of a layer.

    Attributes:
        structure: "kron:8x8-16x16*2", "lowrank:40", "lowrank:24x32" (channel ranks of a
            convolution), "dense".
        params: Numbers stored, bias included.
        macs: Multiply-accumulates per sample.
        lost: Share of the squared Frobenius norm that is lost, 0 … 1 (for convolutions a little
            more than the projection will lose).
    """

    structure: str
    params: int
    macs: int
    lost: float

    @property
    def penalty(self) -> float:
        """−log of the share that is kept."""
        return -math.log(max(LEAST_KEPT, 1 - self.lost))


def dense_candidate(layer: nn.Module, places: Places) -> Candidate:
    """The layer as it is."""
    weight = layer.get_parameter("weight")
    macs = places.outputs * weight.numel()
    return Candidate("dense", weight.numel() + bias_params(layer), macs, 0.0)


def candidates(
    layer: nn.Linear | nn.Conv2d, text: str, places: Places, *, everywhere: bool = False
) -> list[Candidate]:
    """The forms of a family that store less than the layer without computing more.

    Args:
        layer: A plain linear layer or convolution.
        text: A structure string; a bare name leaves shapes, terms and ranks open.
        places: How often the layer meets one sample.
        everywhere: The whole network becomes this family: offer what does not pay if nothing does.

    Raises:
        BadInput: A structure that does not fit the layer, or a weight that is not finite.
    """
    if not bool(torch.isfinite(layer.weight).all()):
        raise BadInput(
            "its weight holds NaN or infinite values", hint="train the model to a finite loss first"
        )
    if not is_open(text):
        return [_candidate(layer, places, *_written_out(layer, text))]
    dense = dense_candidate(layer, places)
    found = [_candidate(layer, places, *form) for form in _open_forms(layer, text.strip())]
    smaller = [c for c in found if c.params < dense.params and c.macs <= dense.macs]
    return found if everywhere and not smaller else smaller


def is_open(text: str) -> bool:
    """Whether a structure string is the bare name of a family that has forms to choose from."""
    return text.strip() in LAYERS or text.strip() in CONVOLUTION_LAYERS


def bias_params(layer: nn.Module) -> int:
    """Numbers in a layer's bias."""
    bias = getattr(layer, "bias", None)
    return bias.numel() if isinstance(bias, Tensor) else 0


def _candidate(layer: nn.Module, places: Places, form: Form, lost: float) -> Candidate:
    macs = form.macs_at(places.inputs, places.outputs)
    return Candidate(form.text, form.params(bias_params(layer) > 0), macs, lost)


def _written_out(layer: nn.Linear | nn.Conv2d, text: str) -> tuple[Form, float]:
    """The form, and the share of energy that it loses."""
    if isinstance(layer, nn.Conv2d):
        made = project_convolution(layer, text)
        return made.spec, (made.projection_error or 0.0) ** 2
    spec = parse_structure(text, (layer.in_features,), layer.out_features)
    weight = layer.weight.detach().cpu().double().numpy()
    return spec, spec.project(weight).relative_error ** 2


def _open_forms(layer: nn.Linear | nn.Conv2d, family: str) -> Iterable[tuple[Form, float]]:
    if isinstance(layer, nn.Conv2d):
        found = CONVOLUTION_LAYERS.get(family)
        return () if found is None else found.forms(layer)
    if family not in LAYERS:  # a name of convolutions alone
        parse_structure(family, (layer.in_features,), layer.out_features)
    return LAYERS[family].forms(layer.weight.detach().double())
