"""Dynamical low-rank training: each operation on bases and cores against its definition."""

import pytest
import torch
from low_rank_cases import LAYERS, conv, core_of, linear, orthonormality, with_gradients
from torch import nn

from sepdeploy.layers import LowRankConv2d, LowRankLinear
from sepdeploy.training.ranks.dynamic import (
    augment,
    match_ranks,
    ranks_of,
    read_factors,
    start_with_decay,
    truncate,
)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(2)


def trained(layer, x, kind=torch.optim.AdamW, steps=3):
    optimizer = kind(layer.parameters(), lr=1e-3, **({"momentum": 0.9} if kind is torch.optim.SGD
                                                     else {}))  # fmt: skip
    U, V = (p for n, p in layer.named_parameters() if n in ("U", "V", "reduce.weight",
                                                            "expand.weight"))  # fmt: skip
    for _ in range(steps):
        optimizer.zero_grad()
        with_gradients(layer, x)
        U.grad = V.grad = None
        optimizer.step()
    return optimizer


@LAYERS
@pytest.mark.parametrize("energy", [1.0, 0.9])
def test_augmentation_leaves_the_function_unchanged(make, energy):
    layer, x = make()
    before, ranks = layer(x).detach(), ranks_of(layer)["net"]
    with_gradients(layer, x)
    assert augment(layer, energy=energy) > 0
    assert (layer(x).detach() - before).abs().max() <= 1e-5
    if energy == 1:
        assert ranks_of(layer)["net"] == [2 * r for r in ranks]
    factors = read_factors(layer)
    assert max(orthonormality(factors.U), orthonormality(factors.V)) <= 1e-5


def basis_gradients(layer):
    if isinstance(layer, LowRankConv2d):
        found = layer.reduce.weight.grad[:, :, 0, 0].t(), layer.expand.weight.grad[:, :, 0, 0]
    else:
        found = layer.U.grad, layer.V.grad
    return [gradient.double().clone() for gradient in found]


@LAYERS
def test_augmented_bases_span_the_gradient(make):
    layer, x = make()
    with_gradients(layer, x)
    gradients = basis_gradients(layer)
    augment(layer, energy=1)
    factors = read_factors(layer)
    for basis, d in zip((factors.U, factors.V), gradients, strict=True):
        assert (d - basis @ (basis.T @ d)).norm() <= 1e-5 * d.norm()


@LAYERS
@pytest.mark.parametrize("energy", [0.5, 0.9, 0.99])
def test_augmentation_takes_the_strongest_directions_that_hold_the_energy(
    make, energy, monkeypatch
):
    monkeypatch.setattr("sepdeploy.training.ranks.dynamic.WIDTH", 1)
    layer, x = make()
    old = read_factors(layer)
    with_gradients(layer, x)
    gradients = basis_gradients(layer)
    augment(layer, energy=energy)
    new = read_factors(layer)
    wanted, kept = [], []
    for before, after, d in zip((old.U, old.V), (new.U, new.V), gradients, strict=True):
        outside = d - before @ (before.T @ d)
        squares = torch.linalg.svdvals(outside).square()
        missing = squares.sum() - squares.cumsum(0)
        wanted.append(1 + int((missing > (1 - energy) * squares.sum() * (1 + 1e-9)).sum()))
        count = after.shape[1] - before.shape[1]
        kept.append(count)
        # no other directions of that number hold more
        found = (after[:, before.shape[1] :].T @ outside).square().sum()
        assert float(found) == pytest.approx(float(squares[:count].sum()), rel=1e-6)
    if make is linear:  # its core is square
        wanted = [max(wanted)] * 2
    assert kept == wanted


def test_augmented_ranks_are_even_widths_where_there_is_room():
    layer, x = LowRankLinear(60, 50, 20), torch.randn(9, 60)
    nn.init.normal_(layer.S)
    with_gradients(layer, x)
    augment(layer, energy=0.5)
    assert layer.spec.rank == 24


def test_a_zero_gradient_adds_nothing():
    layer, x = linear()
    (layer(x) * 0).sum().backward()
    assert augment(layer) == 0
    assert layer.spec.rank == 4


def test_no_more_directions_than_the_space_has():
    layer, x = linear(rank=12)
    with_gradients(layer, x)
    augment(layer, energy=1)
    assert layer.spec.rank == 14  # the output has 14
    with_gradients(layer, x)
    assert augment(layer) == 0


@LAYERS
@pytest.mark.parametrize("tolerance", [1e-6, 0.05, 0.3, 0.7])
def test_truncation_loses_at_most_its_tolerance(make, tolerance):
    layer, _ = make(8) if make is linear else make((7, 8))
    before, norm = layer.dense_weight().detach().double(), core_of(layer).detach().norm()
    truncate(layer, tolerance)
    lost = (layer.dense_weight().detach() - before).norm()
    assert lost <= tolerance * norm * (1 + 1e-4) + 1e-5
    factors = read_factors(layer)
    assert max(orthonormality(factors.U), orthonormality(factors.V)) <= 1e-5


def test_truncation_takes_the_smallest_rank_that_is_allowed():
    layer, _ = linear(6)
    sigma = torch.tensor([5.0, 3.0, 1.0, 0.5, 0.1, 0.01])
    P, Q = (torch.linalg.qr(torch.randn(6, 6)).Q for _ in range(2))
    with torch.no_grad():
        layer.S.copy_(P @ torch.diag(sigma) @ Q)
    before = layer.dense_weight().detach()
    tolerance = 1.01 * float((sigma[2:].square().sum() / sigma.square().sum()).sqrt())
    truncate(layer, tolerance)
    assert layer.spec.rank == 2
    assert torch.allclose(layer.S, torch.diag(sigma[:2]), atol=1e-5)
    U, S, Vh = torch.linalg.svd(before)
    assert torch.allclose(layer.dense_weight(), (U[:, :2] * S[:2]) @ Vh[:2], atol=1e-5)


def test_ranks_have_a_floor_and_a_ceiling():
    layer, _ = linear(8)
    truncate(layer, 1e-9, largest=5)
    assert layer.spec.rank == 5
    truncate(layer, 0.999)
    assert layer.spec.rank == 2


@LAYERS
def test_a_ceiling_of_one_is_kept(make):
    layer, x = make()
    before = layer.dense_weight().detach()
    truncate(layer, 1e-9, largest=1)
    assert set(ranks_of(layer)["net"]) == {1}
    if make is linear:
        U, sigma, Vh = torch.linalg.svd(before)
        assert torch.allclose(layer.dense_weight(), sigma[0] * U[:, :1] @ Vh[:1], atol=1e-5)
    with_gradients(layer, x)
    assert augment(layer) > 0  # it can still turn


@LAYERS
def test_bent_bases_are_straightened_without_changing_the_function(make):
    layer, x = make()
    with torch.no_grad():
        for parameter in layer.parameters():
            if parameter is not core_of(layer) and parameter.dim() > 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
    before = layer(x).detach()
    truncate(layer, 1e-6)
    assert torch.allclose(layer(x), before, atol=1e-4)
    factors = read_factors(layer)
    assert max(orthonormality(factors.U), orthonormality(factors.V)) <= 1e-5


@LAYERS
@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.SGD])
def test_moments_turn_with_the_core(make, kind):
    layer, x = make()
    optimizer = trained(layer, x, kind)
    name = "exp_avg" if kind is torch.optim.AdamW else "momentum_buffer"
    old = read_factors(layer)
    axes = "ui,ij...,vj->uv..."
    modes = (lambda t: t.transpose(0, 1)) if make is conv else (lambda t: t)
    before = modes(optimizer.state[core_of(layer)][name]).double()
    ambient = torch.einsum(axes, old.U, before, old.V)  # the moment as a step of W
    truncate(layer, 1e-9, optimizer=optimizer)
    new = read_factors(layer)
    state = optimizer.state[core_of(layer)]
    after = modes(state[name]).double()
    assert torch.allclose(torch.einsum(axes, new.U, after, new.V), ambient, atol=1e-5)
    with_gradients(layer, x)
    augment(layer, optimizer)
    wide = read_factors(layer)
    grown = modes(state[name]).double()
    assert torch.allclose(torch.einsum(axes, wide.U, grown, wide.V), ambient, atol=1e-5)
    if "exp_avg_sq" in state:
        assert state["exp_avg_sq"].shape == core_of(layer).shape
        assert (state["exp_avg_sq"] >= 0).all()
    optimizer.step()  # shapes fit


def test_second_moments_are_the_variances_of_turned_gradients():
    layer, x = linear()
    optimizer = trained(layer, x)
    old = read_factors(layer)
    variance = optimizer.state[layer.S]["exp_avg_sq"].double().clone()
    noise = torch.randn(20000, 4, 4, dtype=torch.float64) * variance.sqrt()
    truncate(layer, 1e-9, optimizer=optimizer)
    new = read_factors(layer)
    turned = (new.U.T @ old.U) @ noise @ (old.V.T @ new.V)
    expected = turned.square().mean(0)
    assert torch.allclose(optimizer.state[layer.S]["exp_avg_sq"].double(), expected, rtol=0.1)


def test_fresh_cores_decay_and_keep_their_norm():
    layer = LowRankLinear(30, 20, 8)
    norm = float(layer.S.detach().norm())
    start_with_decay(nn.Sequential(layer))
    sigma = layer.S.detach().diagonal()
    assert float(sigma.norm()) == pytest.approx(norm, rel=1e-5)
    assert (sigma.diff() <= 0).all()
    assert sigma[-1] < sigma[0] / 10


def test_shapes_of_a_state_dict_are_taken_over():
    net = nn.Sequential(LowRankLinear(20, 14, 5), LowRankConv2d(8, 9, (3, 3), (2, 4)))
    other = nn.Sequential(LowRankLinear(20, 14, 2), LowRankConv2d(8, 9, (3, 3), (6, 3)))
    match_ranks(net, other.state_dict())
    net.load_state_dict(other.state_dict())
    assert ranks_of(net) == {"0": [2], "1": [6, 3]}
