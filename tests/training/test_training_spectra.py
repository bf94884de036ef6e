"""Condition numbers in the history, against singular values; what cannot be known is None."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from sepdeploy.layers import KronLinear, LowRankConv2d, LowRankLinear
from sepdeploy.training.penalties.spectra import condition_numbers


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def expected(weight, rank):
    sigma = np.linalg.svd(weight.detach().double().numpy(), compute_uv=False)
    return pytest.approx(sigma[0] / sigma[rank - 1], rel=1e-4)


def test_linear_layers_agree_with_the_dense_matrix():
    net = nn.Sequential(
        KronLinear((3, 4), (5, 4)),
        LowRankLinear(20, 10, 4),
        nn.Linear(10, 7),
        nn.Linear(7, 9),
        KronLinear((3, 3), (2, 2), terms=2),
    )
    for p in net.parameters():
        nn.init.normal_(p)
    found = condition_numbers(net)
    assert list(found) == ["0", "1", "2", "3", "4"]
    for name, rank in (("0", 12), ("1", 4), ("2", 7), ("3", 7), ("4", 4)):
        layer = net[int(name)]
        weight = layer.weight if isinstance(layer, nn.Linear) else layer.dense_weight()
        assert found[name] == expected(weight, rank)


def test_large_sums_of_kronecker_terms_are_not_decomposed():
    large = KronLinear((16, 16), (8, 8), terms=2)
    assert condition_numbers(large) == {"net": None}


def test_convolutions_have_that_of_the_matrix_which_penalties_act_on():
    factored = LowRankConv2d(8, 6, (3, 3), (4, 5))
    net = nn.Sequential(nn.Conv2d(3, 8, 3), factored, nn.Conv2d(6, 6, 3, groups=6), nn.Flatten())
    assert condition_numbers(net) == {
        "0": expected(net[0].weight.reshape(8, 27), 8),
        "1": expected(factored.core.weight.reshape(5, 36), 5),
        "2": expected(net[2].weight.reshape(6, 9), 6),
    }


SIZES = [(40, 40), (6, 3000), (90, 30)]


@pytest.mark.parametrize(("inputs", "outputs"), SIZES)
def test_a_dense_layer_that_lost_rank_has_none(inputs, outputs):
    layer = nn.Linear(inputs, outputs)
    with torch.no_grad():
        along = layer.weight if outputs <= inputs else layer.weight.t()
        along[1] = 3 * along[0]
    assert condition_numbers(layer) == {"net": None}
    nn.init.zeros_(layer.weight)
    assert condition_numbers(layer) == {"net": None}


@pytest.mark.parametrize(("inputs", "outputs"), SIZES)
def test_a_large_but_finite_number_is_kept(inputs, outputs):
    layer, k = nn.Linear(inputs, outputs).double(), min(inputs, outputs)
    U, V = (torch.linalg.qr(torch.randn(n, k, dtype=torch.float64)).Q for n in (outputs, inputs))
    with torch.no_grad():
        layer.weight.copy_(U * torch.logspace(0, -5, k, dtype=torch.float64) @ V.T)
    assert condition_numbers(layer) == {"net": pytest.approx(1e5, rel=1e-3)}


def test_a_singular_structured_layer_has_none():
    layer = KronLinear((2, 2), (2, 2))
    nn.init.zeros_(layer.factors[0])
    assert condition_numbers(layer) == {"net": None}


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_not_finite_have_none(value):
    net = nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.Linear(3, 4), KronLinear((2, 2), (2, 2)), LowRankLinear(4, 4, 2),
    )  # fmt: skip
    for p in net.parameters():
        nn.init.constant_(p, value)
    assert condition_numbers(net) == dict.fromkeys("0123")
