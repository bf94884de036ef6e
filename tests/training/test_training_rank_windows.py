"""Dynamical low-rank training: windows of steps, and whole trainings."""

import math

import pytest
import torch
from low_rank_cases import LAYERS, core_of, linear, orthonormality, with_gradients
from torch import nn

from sepdeploy.compression import factorize_convolutions
from sepdeploy.errors import BadInput
from sepdeploy.layers import LowRankLinear
from sepdeploy.models import load
from sepdeploy.training import load_recipe
from sepdeploy.training.ranks.dynamic import ranks_of, read_factors
from sepdeploy.training.ranks.windows import RankDynamics

DYNAMIC = {
    "structure": "lowrank:6", "rank_tolerance": 0.004, "rank_every": 3, "batch_size": 128,
    "weight_decay": 0.01, "spectral": 0.01,
}  # fmt: skip


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(2)


@pytest.mark.slow
def test_bases_stay_orthonormal_over_many_windows():
    layer, x = linear()
    target = torch.randn(9, 14)
    optimizer = torch.optim.AdamW(layer.parameters(), lr=3e-2, weight_decay=0.1)
    dynamics = RankDynamics(layer, optimizer, tolerance=0.02, every=4, largest=6)
    bias, ranks = layer.bias.detach().clone(), set()
    for step in range(400):
        optimizer.zero_grad()
        augmenting = dynamics.before(step, 1000, frozen=False)
        (layer(x) - target).square().mean().backward()
        if augmenting:
            dynamics.augment()
        optimizer.step()
        dynamics.after(step, 1000, frozen=False)
        ranks.add(layer.spec.rank)
    factors = read_factors(layer)
    assert max(orthonormality(factors.U), orthonormality(factors.V)) <= 1e-5
    assert max(ranks) > 6  # between truncations, so that a full layer can still turn
    assert layer.spec.rank <= 6
    assert (layer.bias - bias).abs().min() > 1e-3  # biases train
    assert (layer(x) - target).square().mean() < target.square().mean() / 2


@LAYERS
def test_a_layer_at_its_largest_rank_still_turns(make):
    layer, x = make()
    dims = ranks_of(layer)["net"]
    core = core_of(layer)
    optimizer = torch.optim.SGD([core], lr=1e-2)
    dynamics = RankDynamics(layer, optimizer, tolerance=1e-6, every=3, largest=dims[0])
    spans = [b @ b.T for b in (read_factors(layer).U, read_factors(layer).V)]
    for step in range(9):
        optimizer.zero_grad()
        augmenting = dynamics.before(step, 100, frozen=False)
        with_gradients(layer, x)
        if augmenting:
            dynamics.augment()
        optimizer.step()
        dynamics.after(step, 100, frozen=False)
    after = read_factors(layer)
    assert max(ranks_of(layer)["net"]) <= dims[0]
    for span, basis in zip(spans, (after.U, after.V), strict=True):
        # part of the new basis lies outside the span of the old one
        assert (basis - span @ basis).norm() > 0.05


def test_bases_take_no_gradient_but_where_they_are_augmented():
    layer, x = linear()
    optimizer = torch.optim.SGD([layer.S], lr=1e-2)
    dynamics = RankDynamics(layer, optimizer, tolerance=0.1, every=4, largest=0)
    for step, wanted in ((0, True), (1, False), (3, False), (4, True)):
        layer.zero_grad()
        assert dynamics.before(step, 100, frozen=False) == wanted
        with_gradients(layer, x)
        assert (layer.U.grad is not None) == (layer.V.grad is not None) == wanted
        assert layer.S.grad is not None
    assert not dynamics.before(4, 100, frozen=True)
    assert layer.U.requires_grad
    assert layer.V.requires_grad


@LAYERS
def test_bases_train_once_ranks_are_frozen_and_end_orthonormal(make):
    layer, x = make()
    target = torch.randn_like(layer(x).detach())
    ranks = ranks_of(layer)
    optimizer = torch.optim.AdamW(layer.parameters(), lr=3e-2)
    dynamics = RankDynamics(layer, optimizer, tolerance=0.1, every=4, largest=0)
    before = read_factors(layer)
    for step in range(12):
        optimizer.zero_grad()
        assert not dynamics.before(step, 12, frozen=True)
        (layer(x) - target).square().mean().backward()
        optimizer.step()
        if step == 11:
            bent, function = read_factors(layer), layer(x).detach()
        dynamics.after(step, 12, frozen=True)
    after = read_factors(layer)
    assert ranks_of(layer) == ranks
    assert min(orthonormality(bent.U), orthonormality(bent.V)) > 1e-3
    assert max(orthonormality(after.U), orthonormality(after.V)) <= 1e-5
    assert torch.allclose(layer(x), function, atol=1e-5)
    for old, new in ((before.U, after.U), (before.V, after.V)):
        assert (new - old @ (old.T @ new)).norm() > 0.01  # out of the old subspace
        assert (old * new).sum(0).min() > 0  # and no column turned round


def test_biases_of_convolutions_train_and_grouped_ones_stay_plain():
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, groups=8),
        nn.Conv2d(8, 8, 3, groups=2), nn.Conv2d(8, 6, 1),
    )  # fmt: skip
    assert list(factorize_convolutions(net, 4)) == ["1"]
    assert [type(m).__name__ for m in net] == ["Conv2d", "LowRankConv2d"] + ["Conv2d"] * 3
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    dynamics = RankDynamics(net, optimizer, tolerance=0.05, every=3, largest=0)
    biases = [
        m.bias.detach().clone() for m in net.modules() if getattr(m, "bias", None) is not None
    ]
    x = torch.randn(4, 3, 9, 9)
    for step in range(6):
        optimizer.zero_grad()
        augmenting = dynamics.before(step, 100, frozen=False)
        net(x).square().mean().backward()
        if augmenting:
            dynamics.augment()
        optimizer.step()
        dynamics.after(step, 100, frozen=False)
    after = [p for name, p in net.named_parameters() if name.endswith("bias")]
    assert len(after) == 5
    assert all(not torch.equal(a, b) for a, b in zip(after, biases, strict=True))


def test_core_steps_lie_between_steps_of_the_weight_in_two_norms():
    n, m, r, rate = 200, 150, 25, 0.1
    layer = LowRankLinear(n, m, r)
    optimizer = torch.optim.SGD([{"params": [layer.S], "scale": 1.0}], lr=rate)
    RankDynamics(layer, optimizer, tolerance=0.1, every=4, largest=0).before(1, 9, frozen=False)
    assert optimizer.param_groups[0]["scale"] == 1.0  # a gradient step needs none
    optimizer = torch.optim.AdamW([{"params": [layer.S], "scale": 1.0}], lr=rate)
    RankDynamics(layer, optimizer, tolerance=0.1, every=4, largest=0).before(1, 9, frozen=False)
    optimizer.param_groups[0]["lr"] *= optimizer.param_groups[0]["scale"]
    weight = nn.Parameter(layer.dense_weight().detach())
    dense = torch.optim.AdamW([weight], lr=rate)
    before = layer.dense_weight().detach()
    for optimizer_, parameter in ((optimizer, layer.S), (dense, weight)):
        parameter.grad = torch.randn_like(parameter)
        optimizer_.step()
    factored, whole = layer.dense_weight().detach() - before, weight.detach() - before
    assert torch.linalg.matrix_norm(factored, 2) > torch.linalg.matrix_norm(whole, 2)
    assert factored.norm() < whole.norm()


def test_a_whole_training(train):
    result = train(**DYNAMIC)
    ranks = [tuple(r for pair in entry["ranks"].values() for r in pair) for entry in result.history]
    assert ranks[0] != (6, 6)
    assert ranks[-1] == ranks[-2]  # the last epoch keeps them
    events = [e for e in train.events if e.kind == "epoch"]
    assert events[-1].ranks == ranks[-1]
    assert "smaller" in str(events[-1])
    model = load(result.path)
    assert events[result.best_epoch - 1].compression == pytest.approx(
        model.params_dense / model.params
    )
    for layer in model.structured_layers().values():
        U, V = layer.factors()  # S is folded wherever the layer is deployed
        x = torch.randn(3, layer.spec.in_features)
        assert torch.allclose(layer(x), x @ U @ V.T + layer.bias, atol=1e-5)
        assert max(orthonormality(layer.U), orthonormality(layer.V)) <= 1e-5
    assert all(p.requires_grad for p in result.model.parameters())
    assert math.isfinite(result.history[-1]["spectral"])


@pytest.mark.slow
@pytest.mark.parametrize("moment", [(1, 2), (2, 3)])
@pytest.mark.parametrize("arch", ["mlp", pytest.param("lenet", marks=pytest.mark.slow)])
def test_interrupted_and_resumed_to_the_same_bits(resumed_and_whole, moment, arch):
    choices = DYNAMIC if arch == "mlp" else DYNAMIC | {"arch": "lenet", "conv_rank": 4,
                                                       "hidden": ""}  # fmt: skip
    resumed_and_whole(moment, **choices)


@pytest.mark.parametrize("value", [-0.1, 1.0, 2, math.nan])
def test_a_tolerance_outside_its_range(value):
    with pytest.raises(BadInput, match="rank_tolerance"):
        load_recipe(None, {"rank_tolerance": value})


@pytest.mark.parametrize(("epochs", "frozen"), [(1, 1), (4, 4), (3, 7)])
def test_a_recipe_that_leaves_no_epoch_to_adapt_in(epochs, frozen):
    values = {"rank_tolerance": 0.1, "epochs": epochs, "rank_frozen": frozen}
    with pytest.raises(BadInput, match=f"frozen in the last {frozen} of {epochs} epochs") as error:
        load_recipe(None, values)
    assert "smaller rank_frozen" in error.value.hint
    assert load_recipe(None, values | {"rank_frozen": epochs - 1}).rank_frozen == epochs - 1


def test_a_largest_rank_of_one(train):
    result = train(structure="lowrank:4", rank_tolerance=0.01, rank_max=1, epochs=2, eps=0.0)
    assert {rank for ranks in result.history[-1]["ranks"].values() for rank in ranks} == {1}


def test_nothing_to_adapt(train):
    with pytest.raises(BadInput, match="no low-rank layer"):
        train(structure="kron", rank_tolerance=0.1)
    with pytest.raises(BadInput, match="no convolution"):
        train(conv_rank=4)
    with pytest.raises(BadInput, match="above the largest possible"):
        train(structure="lowrank:100")
