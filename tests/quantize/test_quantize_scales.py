"""Rounding stays within half a step, whatever the numbers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from sepdeploy.errors import BadInput
from sepdeploy.exporters.quantize.scales import (
    affine,
    dequantize,
    half,
    quantize,
    quantize_bias,
    quantize_weight,
)

NUMBERS = st.floats(-1e6, 1e6, width=32)
WEIGHTS = arrays(np.float32, array_shapes(min_dims=2, max_dims=4, max_side=5), elements=NUMBERS)


@given(WEIGHTS)
def test_a_weight_is_at_most_half_its_scale_off(weight: np.ndarray) -> None:
    for axis in (None, 0, weight.ndim - 1):
        made = quantize_weight(weight, axis)
        shape = [1] * weight.ndim
        if axis is not None:
            shape[axis] = -1
        step = made.scale.astype(np.float64).reshape(shape)
        error = np.abs(made.dequantized().astype(np.float64) - weight)
        assert made.values.dtype == np.int8
        assert np.abs(made.values.astype(int)).max() <= 127
        assert np.all(error <= step * 0.5 * (1 + 1e-5) + 1e-12)
        # The scale is as small as it may be: the largest value uses the last step.
        rest = tuple(i for i in range(weight.ndim) if i != axis) if axis is not None else None
        assert np.all(made.scale <= np.abs(weight).max(axis=rest) / 127 * (1 + 1e-6) + 1e-12)


@given(WEIGHTS)
def test_a_scale_per_channel_is_never_coarser(weight: np.ndarray) -> None:
    assert np.all(quantize_weight(weight, 0).scale <= quantize_weight(weight).scale)


@given(st.floats(-1e5, 1e5, width=32), st.floats(-1e5, 1e5, width=32), st.floats(0, 1))
def test_an_activation_in_its_range_is_half_a_step_off_and_zero_is_exact(
    a: float, b: float, where: float
) -> None:
    low, high = min(a, b), max(a, b)
    how = affine(low, high)
    value = np.array([min(max(low + where * (high - low), low), high)])
    # The zero point is rounded too: a full step at the ends of the range.
    error = abs(float(dequantize(quantize(value, how), how)[0]) - float(value[0]))
    assert error <= how.scale * 1.01 + 1e-4 * max(abs(low), abs(high)) * 1e-2 + 1e-9
    assert -128 <= how.zero <= 127
    assert dequantize(quantize(np.zeros(1), how), how)[0] == 0


@given(arrays(np.float32, 7, elements=st.floats(-1e4, 1e4, width=32)), st.floats(1e-6, 1e2))
def test_a_bias_fits_its_integers(bias: np.ndarray, input_scale: float) -> None:
    weight = np.full((7, 3), 1e-9, np.float32)  # so small that the bias would overflow
    made = quantize_weight(weight, 0, bias=bias, input_scale=input_scale)
    stored, scale = quantize_bias(bias, input_scale, made.scale)
    assert np.abs(stored.astype(np.int64)).max() <= 2**30 * 1.01
    back = stored * scale.astype(np.float64)
    assert np.all(np.abs(back - bias) <= scale * 0.51 + np.abs(bias) * 1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_numbers_that_are_not_finite_are_refused(bad: float) -> None:
    with pytest.raises(BadInput, match="not finite"):
        quantize_weight(np.array([[1.0, bad]], np.float32))
    with pytest.raises(BadInput, match="cannot be quantised"):
        affine(0.0, bad)
    with pytest.raises(BadInput, match="float16"):
        half(np.array([bad], np.float32), "fc1")


def test_what_float16_cannot_hold_is_refused() -> None:
    with pytest.raises(BadInput, match=r"fc1: a weight exceeds 65504"):
        half(np.array([7e4], np.float32), "fc1")


def test_a_range_of_nothing_but_zero_has_a_scale() -> None:
    assert affine(0.0, 0.0).scale > 0
    assert quantize_weight(np.zeros((2, 2), np.float32)).scale > 0
