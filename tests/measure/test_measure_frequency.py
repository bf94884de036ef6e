"""Frequencies of images against what is known in closed form: Parseval, pure waves, linear nets."""

from __future__ import annotations

import numpy as np
import pytest

from sepdeploy.measure.frequency import (
    BANDS,
    band,
    grid_of,
    heat_map,
    high_pass,
    low_pass,
    mean_spectrum,
    radii,
)

SHAPES = [(8, 8), (9, 12), (28, 28), (5, 16), (1, 12)]


def shares(images):
    spectrum, counted = mean_spectrum(images)
    return {n: spectrum[band(n, radii(images.shape[2:]))].sum() for n in BANDS}, counted


def waves(shape, v, u, *, channels=1, height=0.2):
    """A grey image with v periods from top to bottom and u from left to right."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    one = 0.5 + height * np.sin(2 * np.pi * (v * y / shape[0] + u * x / shape[1]) + 0.4)
    return np.broadcast_to(one, (2, channels, *shape)).astype(np.float32)


def grey(shape, seed=0, *, channels=1, n=6):
    """Random images so near to grey that no filter leaves [0, 1]."""
    noise = np.random.default_rng(seed).normal(0, 0.005, (n, channels, *shape))
    return (0.5 + noise).astype(np.float32)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("channels", [1, 3])
def test_shares_are_those_of_the_energy_of_pixels(shape, channels):
    images = grey(shape, channels=channels).astype(np.float64) - 0.5
    found, counted = shares(images)
    assert counted == len(images)
    assert sum(found.values()) == pytest.approx(1)
    pixels = np.square(images).sum(axis=(1, 2, 3))
    whole = np.square(low_pass(images + 0.5, 1 / 3) - 0.5).sum(axis=(1, 2, 3))
    assert found["low"] == pytest.approx((whole / pixels).mean(), rel=1e-3)


@pytest.mark.parametrize(
    ("shape", "v", "u", "name"),
    [
        ((8, 8), 1, 0, "low"),
        ((8, 8), 1, 1, "mid"),  # radius 0.354
        ((12, 24), 2, 0, "low"),  # on the border
        ((12, 24), 0, 4, "low"),  # the same on the longer side
        ((12, 24), 0, 5, "mid"),
        ((12, 24), 4, 0, "mid"),  # on the other border
        ((12, 24), 5, 0, "high"),
        ((12, 24), 3, -9, "high"),
        ((9, 9), 4, 4, "high"),
        ((1, 12), 0, 3, "mid"),
    ],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_a_pure_wave_lies_wholly_in_its_band(shape, v, u, name, channels):
    images = waves(shape, v, u, channels=channels).astype(np.float64) - 0.5
    assert shares(images)[0][name] == pytest.approx(1)


def test_the_mean_of_pixels_is_low_and_what_has_no_energy_is_left_out():
    images = np.zeros((3, 1, 6, 7))
    images[0] = 0.25
    found, counted = shares(images)
    assert (found["low"], counted) == (pytest.approx(1), 1)
    assert sum(shares(np.zeros((2, 1, 6, 7)))[0].values()) == 0


@pytest.mark.parametrize("shape", SHAPES)
def test_filters_pass_what_is_theirs_and_add_up_to_the_image(shape):
    images = grey(shape, channels=3)
    for cutoff in (0.2, 0.5, 1.0):
        low, high = low_pass(images, cutoff), high_pass(images, cutoff)
        mean = images.mean(axis=(2, 3), keepdims=True)
        assert low + high - mean == pytest.approx(images, abs=1e-6)
        assert low_pass(low, cutoff) == pytest.approx(low, abs=1e-6)
        assert high_pass(low, cutoff) == pytest.approx(np.broadcast_to(mean, low.shape), abs=1e-6)
    assert low_pass(images, 1.5) == pytest.approx(images, abs=1e-6)


def test_a_filter_keeps_or_takes_a_wave_by_its_radius():
    slow, fast = waves((16, 12), 2, 0), waves((16, 12), 7, 3)  # radii 0.25 and 1.008
    for cutoff in (0.25, 0.5, 1.0):
        assert low_pass(slow, cutoff) == pytest.approx(slow, abs=1e-6)
        assert high_pass(fast, cutoff) == pytest.approx(fast, abs=1e-6)
        assert low_pass(fast, cutoff) == pytest.approx(0.5, abs=1e-6)
        assert high_pass(slow, cutoff) == pytest.approx(0.5, abs=1e-6)


def test_what_is_filtered_is_an_image():
    images = np.random.default_rng(0).integers(0, 2, (4, 1, 8, 8)).astype(np.float32)
    for found in (low_pass(images, 0.5), high_pass(images, 0.5)):
        assert found.dtype == np.float32
        assert found.min() >= 0
        assert found.max() <= 1


@pytest.mark.parametrize("shape", [(8, 8), (7, 10), (1, 9)])
def test_the_heat_map_of_a_linear_classifier_is_its_own_spectrum(shape):
    rng = np.random.default_rng(3)
    weights, norm = rng.normal(size=shape), 0.01
    # Of a real wave cos/‖cos‖ a linear map sees Re(DFT)/‖cos‖; class 0 is right while |w·δ| ≤ t.
    spectrum = np.fft.fft2(weights).real
    own = np.outer(*(-np.arange(n) % n == np.arange(n) for n in shape))  # its own opposite
    seen = norm * np.abs(spectrum) / np.sqrt(weights.size * np.where(own, 1.0, 0.5))
    limit = 1.02 * float(np.median(seen))

    def answers(images):
        value = ((images.astype(np.float64) - 0.5) * weights).sum(axis=(1, 2, 3))
        logits = (np.full(len(images), limit), value, -value)
        return np.stack(logits, axis=1).astype(np.float32)

    images = np.full((6, 1, *shape), 0.5, dtype=np.float32)
    told = []
    grid, errors = heat_map(
        answers, images, np.zeros(6, dtype=np.int64), norm, on_step=lambda *n: told.append(n)
    )
    sure = np.abs(grid.of(seen) - limit) > 1e-3 * limit
    assert sure.sum() > 0.8 * sure.size
    assert errors[sure] == pytest.approx((grid.of(seen) > limit)[sure].astype(float))
    assert grid.radii() == pytest.approx(grid.of(radii(shape)))
    assert told[-1][0] == told[-1][1] == len(told)


def test_signs_are_drawn_for_images_and_channels_and_by_the_seed():
    def answers(images):  # class 1 where the second channel is brighter than grey
        value = images[:, 1].mean(axis=(1, 2)) - 0.5
        return np.stack([0 * value, value], axis=1).astype(np.float32)

    images = np.full((400, 3, 4, 4), 0.5, dtype=np.float32)
    labels = np.zeros(400, dtype=np.int64)
    grid, errors = heat_map(answers, images, labels, 0.1, seed=1)
    middle = (grid.vertical.index(0), grid.horizontal.index(0))
    assert 0.4 < errors[middle] < 0.6
    again = heat_map(answers, images, labels, 0.1, seed=1)[1]
    assert (errors == again).all()
    assert errors[middle] != heat_map(answers, images, labels, 0.1, seed=2)[1][middle]


def test_of_a_large_image_some_frequencies_are_tried():
    grid = grid_of((224, 40))
    assert len(grid.vertical) <= 32
    assert len(grid.horizontal) <= 32
    assert 0 in grid.vertical
    assert {-v for v in grid.vertical if v != -112} <= set(grid.vertical)
    assert grid.radii().max() == pytest.approx(np.sqrt(2), rel=0.1)
    assert set(grid_of((28, 28)).vertical) == set(range(-14, 14))
