"""One plan over all families, judged by what the network answers."""

import itertools
import json
from copy import deepcopy

import numpy as np
import pytest
import torch
from mobile_net import mobile_net
from torch import nn

import sepdeploy as sd
from sepdeploy import data
from sepdeploy.compression import compress_model, plan_automatically, plan_compression
from sepdeploy.compression.automatic import _Trial
from sepdeploy.compression.knapsack import lower_bound, solve
from sepdeploy.errors import BadInput
from sepdeploy.models import create, save, wrap
from sepdeploy.records import InputSpec


def divergence(model, other, images):
    with torch.no_grad():
        p, q = (torch.softmax(net(images).double(), 1) for net in (model.net, other.net))
    return float((p * (p / q).log()).sum(1).mean())


@pytest.fixture
def mobile():
    model = sd.wrap(mobile_net(base=8), (1, 8, 8)).eval()
    for module in model.net.modules():  # answers that differ from image to image
        if isinstance(module, nn.BatchNorm2d):
            nn.init.constant_(module.running_var, 0.02)
    return model


@pytest.mark.parametrize("measure", ["params", pytest.param("macs", marks=pytest.mark.slow)])
def test_it_is_never_worse_than_a_single_family(mobile, measure):
    images = torch.rand(32, 1, 8, 8)
    plan = plan_automatically(mobile, "2x", images.numpy(), measure=measure)
    small, _ = compress_model(mobile, plan.changes)
    assert small.params == plan.params
    assert getattr(plan, measure) <= plan.limit
    rivals = {r.structure: r.divergence for r in plan.tried.rivals}
    assert plan.tried.samples == 32
    assert rivals["auto"] == pytest.approx(divergence(mobile, small.eval(), images), rel=1e-3)
    reached = 0
    for family in ("kron", "lowrank", "debut", "pdp"):
        try:
            single = plan_compression(mobile, family, "2x", measure=measure)
        except BadInput:
            assert rivals[family] is None
            continue
        other, _ = compress_model(mobile, single.changes)
        found = divergence(mobile, other.eval(), images)
        assert rivals[family] == pytest.approx(found, rel=0.02, abs=1e-5)
        assert rivals["auto"] <= found * 1.001
        reached += 1
    assert reached


def test_a_layer_that_nobody_hears_is_what_gets_small():
    """By energy both layers are alike; the answers depend on one of them alone."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(32, 64), nn.Linear(64, 64), nn.Linear(64, 4)).eval()
    with torch.no_grad():
        net[2].weight.copy_(torch.eye(64)[:4])
        net[1].weight[4:].mul_(3)  # outputs that the classifier does not look at
    model = wrap(net, (32,))
    plan = plan_automatically(model, "1.5x", torch.randn(64, 32).numpy(), layers=["1"])
    by_name = {x.name: x for x in plan.layers}
    assert by_name["0"].structure == by_name["2"].structure == "dense"
    assert by_name["1"].structure != "dense"


def test_budgets_out_of_reach_and_no_budget(mobile):
    images = torch.rand(8, 1, 8, 8).numpy()
    with pytest.raises(BadInput, match="the best reachable is"):
        plan_automatically(mobile, "1000x", images)
    with pytest.raises(BadInput, match="how small"):
        plan_automatically(mobile, "", images)
    with pytest.raises(BadInput, match="unknown layer"):
        plan_automatically(mobile, "2x", images, layers=["nine"])


@pytest.mark.parametrize("seed", range(6))
def test_the_knapsack_is_solved(seed):
    rng = np.random.default_rng(seed)
    layers = [
        [(int(c), float(x)) for c, x in zip(rng.integers(1, 60, 4), rng.random(4), strict=True)]
        for _ in range(5)
    ]
    room = int(rng.integers(60, 160))
    every = [
        sum(loss for _, loss in choice)
        for choice in itertools.product(*layers)
        if sum(cost for cost, _ in choice) <= room
    ]
    found = solve(layers, room)
    if not every:
        assert found is None
        return
    chosen, gap = found
    picked = [forms[k] for forms, k in zip(layers, chosen, strict=True)]
    assert sum(cost for cost, _ in picked) <= room
    assert sum(loss for _, loss in picked) == pytest.approx(min(every))
    assert gap == 0
    assert lower_bound(layers, room) <= min(every) + 1e-9


def test_a_large_budget_is_solved_to_a_stated_gap():
    rng = np.random.default_rng(0)
    layers = [
        [(int(c), float(np.exp(-c / 2e5))) for c in np.sort(rng.integers(1, 10**6, 8))]
        for _ in range(20)
    ]
    chosen, gap = solve(layers, 8 * 10**6)
    picked = [forms[k] for forms, k in zip(layers, chosen, strict=True)]
    assert sum(cost for cost, _ in picked) <= 8 * 10**6
    total = sum(loss for _, loss in picked)
    assert total * (1 - gap) == pytest.approx(lower_bound(layers, 8 * 10**6), rel=1e-6)
    assert gap < 0.05


def test_a_network_without_answers_is_refused_and_a_form_without_any_is_last(mobile):
    images = torch.randn(8, 1, 8, 8)
    trial = _Trial(mobile, images)
    assert trial.divergence(mobile.net) == pytest.approx(0, abs=1e-6)
    broken = deepcopy(mobile.net)
    head = [m for m in broken.modules() if isinstance(m, nn.Linear)][-1]
    nn.init.constant_(head.weight, 3e38)
    assert trial.divergence(broken) == float("inf")
    mobile.net = broken
    with pytest.raises(BadInput, match="not finite"):
        plan_automatically(mobile, "2x", images.numpy())


@pytest.mark.slow
def test_the_command_shows_what_was_compared(tmp_path, call):
    torch.manual_seed(0)
    model = create("lenet", data.load("digits").input, 10).eval()
    save(model, tmp_path / "bare.pt")
    model.provenance = {"data": "digits"}
    save(model, tmp_path / "m.pt")
    got = call("compress", tmp_path / "bare.pt", "--structure", "auto", "--target", "2x")
    assert (got.code, "names no data set" in got.err) == (2, True)
    save(create("mlp", InputSpec((12,)), 10, hidden=(8,)), tmp_path / "flat.pt")
    words = ("--structure", "auto", "--target", "2x", "--data", "digits")
    got = call("compress", tmp_path / "flat.pt", *words)
    assert (got.code, "the model takes (12,)" in got.err) == (2, True)
    words = ["compress", tmp_path / "m.pt", "--structure", "auto", "--target", "2x"]
    got = call(*words, "--dry-run")
    assert got.code == 0, got.err
    assert "chosen on 128 training images" in got.err + got.out
    words = ["compress", tmp_path / "bare.pt", *words[2:], "--data", "digits"]
    words += ["--calibration-samples", "16", "-o", tmp_path / "m-auto.pt"]
    got = call(*words, "--dry-run")
    assert "chosen on 16 training images" in got.err + got.out
    assert not (tmp_path / "m-auto.pt").exists()
    got = call(*words, "--json")
    assert got.code == 0, got.err
    found = json.loads(got.out)
    assert found["params"] <= found["params_before"] / 2
    assert found["tried"]["rivals"][0]["structure"] == "auto"
    assert (tmp_path / "m-auto.pt").exists()
    got = call("compress", tmp_path / "m.pt", "--structure", "kron", "--data", "digits")
    assert (got.code, "nothing is measured" in got.err) == (2, True)
