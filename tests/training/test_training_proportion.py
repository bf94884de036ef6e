"""Learning rates of factors: in proportion to their size, whatever the family and the optimiser."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from sepdeploy.errors import BadInput
from sepdeploy.layers import KronLinear, LowRankConv2d, LowRankLinear
from sepdeploy.training import fit, history_path
from sepdeploy.training.checkpoint import read_history
from sepdeploy.training.descent.optimizers import make_optimizer
from sepdeploy.training.descent.proportion import learning_scales, warmed_up
from sepdeploy.training.recipe.reading import recipe_from

LAYERS = {
    "kron": lambda: KronLinear((34, 34), (20, 20)),
    "sum of terms": lambda: KronLinear((16, 16), (16, 16), terms=4),
    "three modes": lambda: KronLinear((8, 8, 8), (8, 8, 8)),
    "low rank": lambda: LowRankLinear(256, 128, 24),
    "low-rank convolution": lambda: LowRankConv2d(32, 48, (3, 3), (12, 16)),
}
CORES = ("S", "core.weight")  # between bases: they hold the size of the weight, and keep the rate


def test_cores_keep_the_rate() -> None:
    net = nn.Sequential(LAYERS["low rank"](), LAYERS["low-rank convolution"]())
    for adaptive in (True, False):
        scales = learning_scales(net, {}, adaptive=adaptive)
        assert set(scales) == {"0.U", "0.V", "1.reduce.weight", "1.expand.weight"}


def rms(tensor: torch.Tensor) -> float:
    return float(tensor.detach().square().mean().sqrt())


def moved(layer: nn.Module, optimizer: str, gradient: torch.Tensor, lr: float) -> dict[str, float]:
    """Return by what share of its size each factor moves in one step against a gradient of W."""
    before = {name: p.detach().clone() for name, p in layer.named_parameters()}
    scales = learning_scales(layer, {}, adaptive=optimizer == "adamw")
    made = make_optimizer(optimizer, layer, lr=lr, momentum=0.0, weight_decay=0, scales=scales)
    for group in made.param_groups:
        group["lr"] = lr * group["scale"]
    layer.dense_weight().backward(gradient)
    made.step()
    after = dict(layer.named_parameters())
    return {n: rms(after[n] - b) / rms(b) for n, b in before.items() if b.dim() > 1}


@pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)
def test_a_step_of_adam_moves_factors_by_a_fifth_and_large_ones_by_less(make) -> None:
    torch.manual_seed(1)
    layer = make()
    gradient = torch.randn(layer.dense_weight().shape)
    sizes = dict(layer.named_parameters())
    for name, share in moved(layer, "adamw", gradient, lr=4e-3).items():
        if name in CORES:
            continue
        shape = sizes[name].flatten(1).shape if sizes[name].dim() == 4 else sizes[name].shape
        side = math.sqrt(shape[-1] * shape[-2])
        assert share == pytest.approx(0.2 * min(1, math.sqrt(34 / side)), rel=0.02), name


@pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)
def test_a_plain_step_moves_factors_as_far_as_it_would_move_the_weight(make) -> None:
    torch.manual_seed(2)
    layer = make()
    weight = layer.dense_weight().detach()
    gradient = torch.randn(weight.shape)
    for name, share in moved(layer, "sgd", gradient, lr=1e-5).items():
        if name in CORES:
            continue
        assert share == pytest.approx(1e-5 / rms(weight), rel=0.3), name


def test_dense_layers_biases_and_norms_keep_the_rate() -> None:
    net = nn.Sequential(
        nn.Linear(64, 64), nn.BatchNorm1d(64), KronLinear((8, 8), (8, 8)), nn.Linear(64, 10)
    )
    scales = learning_scales(net, {}, adaptive=True)
    size = 2 ** (1 / 4) / math.sqrt(8)  # entries of variance gain / modes
    assert scales == pytest.approx(
        {"2.factors.0": size / 0.02, "2.factors.1": size / 0.02}, rel=5e-3
    )


def test_a_bias_for_several_outputs_moves_each_as_far_as_its_own_would() -> None:
    net = nn.Sequential(KronLinear((4, 4), (9, 16), bias="sum"))
    assert not any("biases" in name for name in learning_scales(net, {}, adaptive=True))
    scales = learning_scales(net, {}, adaptive=False)
    assert scales["0.biases.0"] == 1 / 4
    assert scales["0.biases.1"] == pytest.approx(1 / 3, abs=1e-3)


def test_patterns_beat_the_rule_and_the_last_one_counts() -> None:
    net = nn.Sequential(KronLinear((8, 8), (8, 8)), nn.Linear(64, 10))
    scales = learning_scales(net, {"*": 1, "1.weight": 0.5, "0.factors.1": 3}, adaptive=True)
    assert scales == {"1.weight": 0.5, "0.factors.1": 3}
    with pytest.raises(BadInput, match=r"'fc9\.\*', which no parameter matches"):
        learning_scales(net, {"fc9.*": 2}, adaptive=True)


def test_a_core_whose_rank_adapts_has_a_rate_of_its_own() -> None:
    net = nn.Sequential(LAYERS["low rank"](), KronLinear((8, 8), (8, 8)))
    with pytest.raises(BadInput, match="rate follows its rank"):
        learning_scales(net, {"0.S": 2}, adaptive=True, dynamic=True)
    assert learning_scales(net, {"*": 1}, adaptive=True, dynamic=True) == {}
    assert learning_scales(net, {"0.S": 2}, adaptive=True)["0.S"] == 2


@pytest.mark.parametrize("text", ["fc1", "fc1=", "=2", "fc1=-1", "fc1=nan", "fc1=1e7"])
def test_scales_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(BadInput, match=r"lr_scale = .* is not PATTERN=NUMBER"):
        recipe_from({"lr_scale": text}, where="recipe")


def test_factors_without_a_size_keep_the_rate() -> None:
    layer = KronLinear((4, 4), (4, 4))
    with torch.no_grad():
        for factor in layer.factors():
            factor.zero_()
    assert learning_scales(layer, {}, adaptive=True) == {}
    assert learning_scales(layer, {}, adaptive=False) == {}


def test_large_steps_set_in_slowly_and_small_ones_at_once() -> None:
    assert warmed_up(10, 0) == 1
    assert warmed_up(10, 0.025) == pytest.approx(5.5)
    assert warmed_up(10, 0.05) == warmed_up(10, 1) == 10
    assert warmed_up(0.1, 0) == 0.1


def test_scales_are_told_and_written_down(tmp_path) -> None:
    recipe = recipe_from(
        {"structure": "kron", "hidden": "64", "epochs": 1, "objective": "natural", "threads": 1},
        where="recipe",
    )
    events = []
    out = tmp_path / "model.pt"
    fit(recipe, out=out, on_progress=events.append)
    told = [e.message for e in events if e.kind == "detail"]
    (entry,) = read_history(history_path(out))
    assert list(entry["learning_rate_scales"]) == ["fc1.factors.0", "fc1.factors.1"]
    assert all(
        f"fc1.factors.0 x{entry['learning_rate_scales']['fc1.factors.0']:g}" in t for t in told
    )
    assert len(told) == 1
