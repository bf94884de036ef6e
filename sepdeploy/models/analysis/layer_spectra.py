"""Extreme singular values of a network's layers, as far as they are cheap."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from sepdeploy.layers import is_structured
from sepdeploy.models.computed_weights import weight_of
from sepdeploy.structures import DenseSpec, Spec
from sepdeploy.structures.base import Array, Spectrum
from sepdeploy.structures.convolution import convolution_bound
from sepdeploy.structures.singular import largest_singular_value

# A dense layer costs a full decomposition, min(o, i)² max(o, i) operations and many times that:
# left out above this size, and for all layers of a net that has many of them. The bound of a
# convolution takes a few of them for its largest singular values.
DENSE_SPECTRUM_FEATURES = 1024
DENSE_SPECTRA_WORK = 2 * 10**9
LARGEST_WEIGHT = 1 << 25  # values of a layer that is only iterated with, for seconds

Convolution = (
    nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d
)


@dataclass(frozen=True)
class Extremes:
    """The numbers of a ``LayerRecord``; None where they are unknown or infinite."""

    sigma_max: float | None = None
    sigma_min: float | None = None
    condition_number: float | None = None


UNKNOWN = Extremes()


class LayerSpectra:
    """Singular values of the layers of one network.

    Args:
        layers: All its weight-carrying layers.
        thorough: Iterate for the norm of large dense layers and convolutions too, and decompose
            sums of Kronecker terms up to 1024 features; takes seconds for a large network.
    """

    def __init__(self, layers: Sequence[nn.Module], *, thorough: bool = False) -> None:
        self.thorough = thorough
        self.decompose = sum(map(_linear_work, layers)) <= DENSE_SPECTRA_WORK
        self.iterate = thorough or sum(map(_convolution_work, layers)) <= DENSE_SPECTRA_WORK

    def of(self, module: nn.Module) -> Extremes:
        """Return what is known of one layer."""
        if is_structured(module):
            return self._structured(module.spec, module.factors())
        weight = weight_of(module)
        if weight.is_meta or not bool(weight.isfinite().all()):
            return UNKNOWN
        if isinstance(module, nn.Linear):
            return self._dense(weight)
        if isinstance(module, Convolution) and self.iterate:
            return _convolution(module)
        return UNKNOWN

    def _dense(self, weight: Tensor) -> Extremes:
        if self.decompose and min(weight.shape) <= DENSE_SPECTRUM_FEATURES:
            spec = DenseSpec(weight.shape[1], weight.shape[0])
            return _extremes(spec.spectrum([_array(weight).astype(np.float64)]))
        if self.thorough and weight.numel() <= LARGEST_WEIGHT:
            return Extremes(sigma_max=largest_singular_value(_array(weight)))
        return UNKNOWN

    def _structured(self, spec: Spec, factors: Sequence[Tensor]) -> Extremes:
        arrays = [_array(f).astype(np.float64) for f in factors]
        if not all(np.isfinite(a).all() for a in arrays):
            return UNKNOWN
        if not spec.exact_spectrum:
            if not self.thorough:
                return UNKNOWN
            if max(spec.in_features, spec.out_features) <= DENSE_SPECTRUM_FEATURES:
                dense = DenseSpec(spec.in_features, spec.out_features)
                return _extremes(dense.spectrum([spec.dense_matrix(arrays)]))
        return _extremes(spec.spectrum(arrays))


def _extremes(found: Spectrum) -> Extremes:
    kappa = found.condition_number
    known = kappa if kappa is not None and math.isfinite(kappa) else None
    return Extremes(found.sigma_max, found.sigma_min, known)


def _convolution(layer: Convolution) -> Extremes:
    if layer.padding_mode not in ("zeros", "circular"):
        return UNKNOWN  # repeated pixels count more than once
    if layer.padding_mode == "circular" and not _keeps_places(layer):
        return UNKNOWN
    kernel = _array(layer.weight)
    if math.prod(kernel.shape[2:]) > 1 or layer.groups > 1:
        return Extremes(sigma_max=convolution_bound(kernel, layer.groups, _overlap(layer)))
    matrix = kernel.reshape(kernel.shape[:2])  # applied at every place: its values are the layer's
    if min(matrix.shape) > DENSE_SPECTRUM_FEATURES:
        return Extremes(sigma_max=largest_singular_value(matrix))
    spec = DenseSpec(matrix.shape[1], matrix.shape[0])
    return _extremes(spec.spectrum([matrix.astype(np.float64)]))


def _keeps_places(layer: Convolution) -> bool:
    """Whether circular padding gives every pixel one place: as many outputs as inputs, at most."""
    if isinstance(layer.padding, str) or set(layer.stride) != {1}:
        return False
    sides = zip(layer.padding, layer.kernel_size, layer.dilation, strict=True)
    return all(2 * p <= d * (k - 1) for p, k, d in sides)


def _overlap(layer: Convolution) -> int:
    """How many patches a pixel can be in; 0 where dilation makes that no matter of sizes alone."""
    if any(d != 1 for d in layer.dilation):
        return 0
    return math.prod(-(-k // s) for k, s in zip(layer.kernel_size, layer.stride, strict=True))


def _linear_work(module: nn.Module) -> int:
    if not isinstance(module, nn.Linear):
        return 0
    small, large = sorted((module.in_features, module.out_features))
    return small * small * large if small <= DENSE_SPECTRUM_FEATURES else 0


def _convolution_work(module: nn.Module) -> int:
    if not isinstance(module, Convolution):
        return 0
    small = min(module.weight.shape[:2])
    return module.weight.numel() * small


def _array(tensor: Tensor) -> Array:
    values = tensor.detach().cpu()
    wide = values if values.dtype == torch.float64 else values.float()
    return np.asarray(wide.numpy())
