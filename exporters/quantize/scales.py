"""Numbers as int8: scales, zero points, and what rounding costs.

Weights are symmetric (zero point 0, values in [−127, 127]), activations affine (values in
[−128, 127], 0.0 represented exactly), biases int32 in units of input scale × weight scale. Those
are the conventions that both runtimes' integer kernels assume.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from sepdeploy.errors import FINITE, BadInput
from sepdeploy.exporters.onnx_graph.graph import Array

LARGEST = 127  # of a weight; −128 is left out, so that a product of two never overflows 16 bits
STEPS = 255  # between the smallest and the largest int8 activation
LEAST_SCALE = 1e-12  # keeps products of two scales above the smallest normal float32
LARGEST_BIAS = 2.0**30  # in units of its scale; leaves the accumulator one bit
LARGEST_HALF = 65504.0


@dataclass(frozen=True)
class Affine:
    """How an activation is stored: ``value = scale * (stored - zero)``."""

    scale: float
    zero: int


@dataclass(frozen=True)
class Int8Weight:
    """A weight as int8: ``weight ≈ values * scale``, the scale broadcast along ``axis``.

    Attributes:
        values: int8, in [−127, 127], of the weight's shape.
        scale: float32, () per tensor or (n,) per channel.
        axis: The channel axis; None for one scale per tensor.
    """

    values: Array
    scale: Array
    axis: int | None

    def dequantized(self) -> Array:
        """Return the float32 weight that a runtime sees."""
        shape = [1] * self.values.ndim
        if self.axis is not None:
            shape[self.axis] = -1
        return np.asarray(self.values.astype(np.float32) * self.scale.reshape(shape))


def quantize_weight(
    weight: Array, axis: int | None = None, *, bias: Array | None = None, input_scale: float = 0.0
) -> Int8Weight:
    """Quantise a weight; the error of each value is at most half its scale.

    Args:
        weight: float32, any shape.
        axis: One scale per index of this axis; None: one for all.
        bias: The bias (n,) that will be stored as int32 in units of ``input_scale`` × scale; a
            scale that could not hold it is raised.
        input_scale: Scale of the layer's input; needed with ``bias``.

    Raises:
        BadInput: The weight has values that are not finite.
    """
    data = np.asarray(weight, np.float64)
    if not np.isfinite(data).all():
        raise BadInput(
            "a weight has values that are not finite and cannot be quantised", hint=FINITE
        )
    rest = tuple(i for i in range(data.ndim) if i != axis) if axis is not None else None
    largest = np.abs(data).max(axis=rest) if data.size else np.zeros(())
    scale = np.maximum(largest / LARGEST, LEAST_SCALE)
    if bias is not None:
        least = np.abs(np.asarray(bias, np.float64)) / (input_scale * LARGEST_BIAS)
        scale = np.maximum(scale, least if axis is not None else least.max(initial=0.0))
    scale = scale.astype(np.float32)
    shape = [1] * data.ndim
    if axis is not None:
        shape[axis] = -1
    steps = np.rint(data / scale.astype(np.float64).reshape(shape))
    return Int8Weight(np.clip(steps, -LARGEST, LARGEST).astype(np.int8), scale, axis)


def quantize_bias(bias: Array, input_scale: float, weight_scale: Array) -> tuple[Array, Array]:
    """Return a bias as int32 and its scale, input scale × weight scale."""
    scale = (np.float32(input_scale) * weight_scale).astype(np.float32)
    steps = np.rint(np.asarray(bias, np.float64) / scale.astype(np.float64))
    return np.clip(steps, -(2**31), 2**31 - 1).astype(np.int32), scale


def affine(low: float, high: float) -> Affine:
    """Return the int8 storage of an activation seen in [low, high].

    The range is widened to include 0, which then is represented exactly: padding and ReLU depend
    on it.

    Raises:
        BadInput: The range is not finite.
    """
    if not (math.isfinite(low) and math.isfinite(high)) or low > high:
        raise BadInput(
            f"an activation was seen in [{low}, {high}] and cannot be quantised",
            hint="check the model and the calibration images for values that are not finite",
        )
    low, high = min(low, 0.0), max(high, 0.0)
    scale = float(np.float32(max((high - low) / STEPS, LEAST_SCALE)))
    return Affine(scale, round(min(max(-128 - low / scale, -128), 127)))


def quantize(values: Array, how: Affine) -> Array:
    """Return values as int8; those outside the range saturate."""
    steps = np.rint(np.asarray(values, np.float64) / how.scale) + how.zero
    return np.asarray(np.clip(steps, -128, 127).astype(np.int8))


def dequantize(stored: Array, how: Affine) -> Array:
    """Return the float32 values that int8 ones stand for."""
    shifted: Array = stored.astype(np.float32) - np.float32(how.zero)
    return np.asarray(shifted * np.float32(how.scale))


def half(weight: Array, where: str) -> Array:
    """Return a weight as float16.

    Raises:
        BadInput: A value is not finite, or beyond float16's range.
    """
    data = np.asarray(weight, np.float32)
    if data.size and not np.abs(data).max() <= LARGEST_HALF:
        raise BadInput(
            f"{where}: a weight exceeds {LARGEST_HALF:.0f}, the largest float16",
            hint="export with --quantize none",
        )
    return np.asarray(data.astype(np.float16))
