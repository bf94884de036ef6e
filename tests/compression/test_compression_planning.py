"""Plans against brute force, and projections against the dense weights."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn

from sepdeploy.compression import (
    compress_model,
    factorize_convolutions,
    plan_compression,
)
from sepdeploy.compression.candidates import candidates
from sepdeploy.compression.places import Places
from sepdeploy.errors import BadInput
from sepdeploy.layers import KronLinear, LowRankConv2d, LowRankLinear
from sepdeploy.models import create, wrap
from sepdeploy.records import InputSpec

ONCE = Places(1, 1)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(3)


@pytest.fixture
def mlp():
    return create("mlp", InputSpec((1, 8, 8)), 10, hidden=(48, 36))


@pytest.fixture
def convnet():
    net = nn.Sequential(
        nn.Conv2d(1, 12, 3, padding=1), nn.ReLU(), nn.Conv2d(12, 16, 3, stride=2),
        nn.Conv2d(16, 16, 3, groups=16), nn.Conv2d(16, 24, 1), nn.Flatten(), nn.Linear(24, 10),
    )  # fmt: skip
    return wrap(net, (1, 8, 8)).eval()


@pytest.mark.parametrize("structure", ["kron", "lowrank"])
def test_the_expected_error_is_the_error_of_the_projection(mlp, structure):
    plan = plan_compression(mlp, structure, "3x")
    small, errors = compress_model(mlp, plan.changes)
    assert set(errors) == {"fc1", "fc2"}
    for layer in plan.layers:
        if layer.name in errors:
            assert errors[layer.name] == pytest.approx(layer.relative_error, abs=1e-6)
            dense = mlp.net.get_submodule(layer.name).weight
            found = small.net.get_submodule(layer.name).dense_weight()
            error = float((found - dense).detach().norm() / dense.detach().norm())
            assert error == pytest.approx(layer.relative_error, abs=1e-5)
    assert small.params == plan.params <= plan.limit == mlp.params // 3
    assert small.params_dense == mlp.params
    assert plan.macs == sum(r.macs for r in small.layer_records())


@pytest.mark.parametrize("structure", ["kron", "lowrank"])
@pytest.mark.parametrize("target", ["2x", "4x", "1800"])
def test_no_other_combination_is_much_better(mlp, structure, target):
    plan = plan_compression(mlp, structure, target)
    forms = [candidates(getattr(mlp.net, name), structure, ONCE) for name in ("fc1", "fc2")]
    fixed = mlp.params - sum(x.params_dense for x in plan.layers if x.name != "head")
    best = max(
        (1 - a.lost) * (1 - b.lost)
        for a, b in itertools.product(*forms)
        if fixed + a.params + b.params <= plan.limit
    )
    found = math.prod(1 - x.relative_error**2 for x in plan.layers)
    assert found >= 0.85 * best  # one step of one layer
    for offers, layer in zip(forms, plan.layers, strict=False):
        most = layer.params + plan.limit - plan.params
        left = [c.lost for c in offers if c.params <= most]
        assert min(left) >= layer.relative_error**2 - 1e-9  # no layer could use up what is left


def test_a_layer_that_is_a_kronecker_product_keeps_everything(mlp):
    exact = KronLinear((8, 8), (8, 6))
    with torch.no_grad():
        mlp.net.fc1.weight.copy_(exact.dense_weight())
    plan = plan_compression(mlp, "kron", "2x")
    fc1 = plan.layers[0]
    assert fc1.structure.startswith("kron:8x8-8x6")
    assert fc1.relative_error < 1e-3
    small, _ = compress_model(mlp, plan.changes)
    x = torch.rand(5, 64)
    assert torch.allclose(small.net.fc1(x), mlp.net.fc1(x), atol=1e-4)


def test_the_source_is_left_alone(mlp):
    before = {k: v.clone() for k, v in mlp.net.state_dict().items()}
    compress_model(mlp, plan_compression(mlp, "lowrank", "4x").changes)
    assert all(torch.equal(v, before[k]) for k, v in mlp.net.state_dict().items())
    assert isinstance(mlp.net.fc1, nn.Linear)


def test_a_budget_of_multiply_accumulates(mlp):
    plan = plan_compression(mlp, "kron", "2x", measure="macs")
    assert plan.macs <= plan.limit == plan.macs_before // 2
    small, _ = compress_model(mlp, plan.changes)
    assert sum(r.macs for r in small.layer_records()) == plan.macs


def test_convolutions_become_low_rank(convnet):
    plan = plan_compression(convnet, "lowrank", "1.5x")
    by_name = {x.name: x for x in plan.layers}
    assert by_name["2"].structure.startswith("lowrank:")
    assert by_name["3"].reason.startswith("depthwise")
    assert by_name["4"].structure in ("dense", f"lowrank:{by_name['4'].structure[8:]}")  # 1×1
    small, errors = compress_model(convnet, plan.changes)
    assert isinstance(small.net[2], LowRankConv2d)
    assert errors["2"] <= by_name["2"].relative_error + 1e-6
    assert small.params == plan.params <= plan.limit
    records = small.layer_records()
    assert sum(r.macs for r in records) <= plan.macs_before
    x = torch.rand(2, 1, 8, 8)
    assert small(x).shape == convnet(x).shape


def test_what_a_convolution_is_expected_to_lose(convnet):
    conv = convnet.net[2]
    W = conv.weight.detach().double().numpy()
    out, into = (np.linalg.svd(np.moveaxis(W, mode, 0).reshape(W.shape[mode], -1))[0]
                 for mode in (0, 1))  # fmt: skip
    for form in candidates(conv, "lowrank", ONCE):
        q, p = map(int, form.structure.removeprefix("lowrank:").split("x"))
        V, U = out[:, :p], into[:, :q]
        truncated = np.einsum("op,xp,iq,yq,xyhw->oihw", V, V, U, U, W, optimize=True)
        assert form.lost == pytest.approx(((W - truncated) ** 2).sum() / (W**2).sum(), abs=1e-9)
        error = LowRankConv2d.from_dense(conv, (q, p)).projection_error
        assert form.lost - 0.08 <= error**2 <= form.lost + 1e-9


@pytest.mark.parametrize("structure", ["lowrank", "features.*=lowrank,fc*=kron"])
def test_no_layer_is_given_up_for_others(structure):
    """Random weights, the worst case: every layer loses its energy at a constant price."""
    model = create("vgg16", InputSpec((3, 32, 32)), 10, base=4, hidden=(64, 64)).eval()
    plan = plan_compression(model, structure, "3x")
    changed = [x.relative_error for x in plan.layers if x.structure != "dense"]
    assert len(changed) > 5
    assert max(changed) < 0.98
    assert plan.params > 0.95 * plan.limit


def test_a_convolution_by_name_and_form(convnet):
    plan = plan_compression(convnet, "2=lowrank:4x6")
    assert plan.changes == {"2": "lowrank:4x6"}
    small, errors = compress_model(convnet, plan.changes)
    assert small.net[2].ranks == (4, 6)
    assert small.params == plan.params
    assert errors["2"] == pytest.approx(plan.layers[1].relative_error)
    assert plan_compression(convnet, "2=lowrank:5").changes == {"2": "lowrank:5x5"}
    assert plan_compression(convnet, "2=tucker:4x6") == plan  # another name of the same
    assert plan_compression(convnet, "tucker", target="1.2x").changes.keys() <= {"0", "2"}
    with pytest.raises(BadInput, match="form of convolutions"):
        plan_compression(convnet, "tucker:4x6", layers=["6"])
    for text, message, step in (
        ("2=lowrank:4x6x8", "no form of a convolution", "lowrank:24x32"),
        ("2=cron:3x4-4x4", "no form of a conv", "lowrank:24x32"),
        ("2=kron:3x5-4x4", "it maps 15 → 16, the layer is 12 → 16", "for example kron:"),
        ("2=lowrank:99", "outside 1 … 12", "or leave it out"),
        ("3=lowrank:2", "depthwise", "leave this layer out"),
    ):  # fmt: skip
        with pytest.raises(BadInput, match=message) as error:
            plan_compression(convnet, text)
        assert step in error.value.hint


def test_kron_takes_convolutions_too(convnet):
    plan = plan_compression(convnet, "kron", "2x")
    by_name = {x.name: x for x in plan.layers}
    assert by_name["2"].structure.startswith("kron:")
    assert by_name["6"].structure == "dense"
    small, errors = compress_model(convnet, plan.changes)
    assert small.params == plan.params <= plan.limit
    assert errors["2"] == pytest.approx(by_name["2"].relative_error, abs=1e-6)
    assert sum(r.macs for r in small.layer_records()) == plan.macs
    plan = plan_compression(convnet, "kron", "1x", layers=["*"])
    assert all(x.structure == "dense" for x in plan.layers)


def test_layers_by_name_and_form(mlp):
    plan = plan_compression(mlp, "fc1=kron:8x8-8x6*2,fc2=lowrank:5")
    assert plan.changes == {"fc1": "kron:8x8-8x6*2", "fc2": "lowrank:5"}
    small, _ = compress_model(mlp, plan.changes)
    assert isinstance(small.net.fc2, LowRankLinear)
    assert small.net.fc1.spec.terms == 2
    only = plan_compression(mlp, "kron", "1.2x", layers=["fc2"])
    assert only.layers[0].reason == "not asked for"
    everything = plan_compression(mlp, "kron", "12x", layers=["*"])
    assert everything.params <= mlp.params / 12
    assert everything.layers[-1].structure.startswith("kron:")


def test_a_layer_stays_dense_where_it_does_not_pay():
    model = create("mlp", InputSpec((1, 8, 8)), 10, hidden=(64, 2))
    plan = plan_compression(model, "lowrank", "1.5x")
    assert [x.structure == "dense" for x in plan.layers] == [False, True, True]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("kron",), "leaves shapes or ranks open and there is no target"),
        (("kron", "1000x"), "no plan has at most 5 params; the best reachable is"),
        (("kron", "10"), "no plan has at most 10 params; the best reachable is"),
        (("kron", "0.5x"), "is no budget"),
        (("kronn", "2x"), "layer 'fc1': .*unknown structure 'kronn'; closest: kron"),
        (("kron:8x8-8x7", "2x"), "it maps 64 → 56, the layer is 64 → 48"),
        (("lowrank:99",), "rank 99 of a 64 → 48 layer is above the largest possible, 48"),
        (("lowrank:0",), "rank 0 is outside"),
        (("fc9=kron", "2x"), "unknown layer 'fc9'; closest: "),
        (("shift", "2x"), "unknown structure 'shift'"),
    ],
)
def test_impossible_wishes(mlp, arguments, message):
    with pytest.raises(BadInput, match=message):
        plan_compression(mlp, *arguments)


def test_the_best_reachable_is_reachable(mlp):
    with pytest.raises(BadInput) as error:
        plan_compression(mlp, "lowrank", "1000x")
    smallest = error.value.message.split()[-1].replace(",", "")
    assert plan_compression(mlp, "lowrank", smallest).params == int(smallest)


def test_a_budget_that_needs_the_convolutions():
    model = create("vgg11", InputSpec((3, 32, 32)), 10, base=4, hidden=(64, 64)).eval()
    with pytest.raises(BadInput, match="the best reachable is"):
        plan_compression(model, "fc*=kron", "10x")
    for structure in ("kron", "fc*=kron,features.*=lowrank"):
        assert plan_compression(model, structure, "10x").params <= model.params / 10


def test_impossible_shapes_get_the_nearest_ones(mlp):
    with pytest.raises(BadInput) as error:
        plan_compression(mlp, "fc1=kron:8x8-8x7")
    assert error.value.hint.startswith("for example kron:8x8-8x6, kron:")


def test_weights_that_are_not_finite(mlp):
    with torch.no_grad():
        mlp.net.fc1.weight[0, 0] = math.nan
    with pytest.raises(BadInput, match="layer 'fc1': its weight holds NaN"):
        plan_compression(mlp, "kron", "2x")


def test_other_measures_and_single_layers(mlp):
    with pytest.raises(BadInput, match="unknown budget 'flops'"):
        plan_compression(mlp, "kron", "2x", measure="flops")
    single = wrap(nn.Linear(64, 10), (64,))
    with pytest.raises(BadInput, match="single layer"):
        plan_compression(single, "kron", "1x", layers=["*"])


def test_plans_are_the_same_every_time(mlp):
    assert plan_compression(mlp, "kron", "3x") == plan_compression(mlp, "kron", "3x")


def test_large_layers_are_ranked_by_iterating(monkeypatch, mlp):
    from sepdeploy.layers import energies as module

    exact = {c.structure: c.lost for c in candidates(mlp.net.fc1, "lowrank", ONCE)}
    monkeypatch.setattr(module, "SINGLE_SPECTRUM", 10)
    monkeypatch.setattr(module, "LEADING", 6)
    rough = {c.structure: c.lost for c in candidates(mlp.net.fc1, "lowrank", ONCE)}
    assert rough.keys() == {f"lowrank:{r}" for r in range(1, 7)}
    for form, lost in rough.items():
        assert exact[form] <= lost + 1e-6 <= exact[form] + 0.05


def test_fresh_convolutions_keep_their_norm():
    net = nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.Conv2d(16, 12, 3), nn.Conv2d(12, 12, 3, groups=3),
        nn.Conv2d(12, 8, 1),
    )  # fmt: skip
    before = float(net[1].weight.detach().norm())
    assert list(factorize_convolutions(net, 100)) == ["1"]
    assert net[1].ranks == (8, 6)
    assert float(net[1].dense_weight().detach().norm()) == pytest.approx(before, rel=1e-5)
    assert np.isfinite(before)
