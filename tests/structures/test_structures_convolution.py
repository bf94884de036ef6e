"""Norms of convolutions against the dense matrix of the map."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from sepdeploy.structures.convolution import convolution_bound
from sepdeploy.structures.singular import largest_singular_value


def norm_of(layer, shape):
    """The spectral norm of a layer on images of one size, from its matrix."""
    n = int(np.prod(shape))
    with torch.no_grad():
        columns = layer(torch.eye(n, dtype=torch.float64).reshape(n, *shape)).reshape(n, -1)
    return np.linalg.svd(columns.numpy(), compute_uv=False)[0]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"padding": 1},
        {"padding": 2, "padding_mode": "circular"},
        {"stride": 2, "padding": 1},
        {"dilation": 2, "padding": 2},
        {"groups": 2, "padding": 1},
        {"stride": 3},
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", [nn.Conv2d, nn.ConvTranspose2d])
def test_the_bound_is_one_and_not_far(kind, options, seed):
    if kind is nn.ConvTranspose2d and "padding_mode" in options:
        pytest.skip("transposed convolutions pad with zeros only")
    torch.manual_seed(seed)
    layer = kind(4, 6, 3, bias=False, **options).double()
    with torch.no_grad():
        layer.weight.normal_()
    found = norm_of(layer, (4, 9, 9))
    overlap = 0 if "dilation" in options else math.ceil(3 / options.get("stride", 1)) ** 2
    bound = convolution_bound(layer.weight.detach().numpy(), layer.groups, overlap)
    assert found <= bound * (1 + 1e-9)
    assert bound <= 2.5 * found


def test_the_bound_is_attained_by_a_constant_kernel():
    # on large images a mean of nine pixels has norm 1, the sum of nine norms of 1/9
    assert convolution_bound(np.full((1, 1, 3, 3), 1 / 9)) == pytest.approx(1)
    layer = nn.Conv2d(1, 1, 3, padding=1, padding_mode="circular", bias=False).double()
    nn.init.constant_(layer.weight, 1 / 9)
    assert norm_of(layer, (1, 8, 8)) == pytest.approx(1)


def test_disjoint_patches_and_single_pixels_give_the_norm():
    torch.manual_seed(1)
    patches = nn.Conv2d(3, 7, 2, stride=2, bias=False).double()
    pixels = nn.Conv2d(3, 7, 1, bias=False).double()
    for layer in (patches, pixels):
        kernel = layer.weight.detach().numpy()
        assert convolution_bound(kernel, overlap=1) == pytest.approx(norm_of(layer, (3, 6, 6)))


@pytest.mark.parametrize("shape", [(1, 5), (40, 30), (150, 400), (400, 150), (300, 300)])
@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_the_largest_singular_value(shape, kind):
    matrix = np.random.default_rng(0).standard_normal(shape).astype(kind)
    expected = np.linalg.svd(matrix.astype(np.float64), compute_uv=False)[0]
    assert largest_singular_value(matrix) == pytest.approx(expected, rel=1e-5)


def test_the_largest_singular_value_of_a_flat_spectrum_and_of_zero():
    orthogonal = np.linalg.qr(np.random.default_rng(0).standard_normal((200, 200)))[0]
    assert largest_singular_value(3 * orthogonal) == pytest.approx(3)
    assert largest_singular_value(np.zeros((200, 300))) == 0
