"""Masks on factors: counts, learned scores, zeros in the file that is saved."""

import math
from fractions import Fraction

import numpy as np
import onnx
import pytest
import torch
from torch import nn

import sepdeploy as sd
from sepdeploy.compression.masks import (
    fold_cores,
    initial_scores,
    prunable,
    sparsity_of,
    top_masks,
)
from sepdeploy.errors import BadInput
from sepdeploy.layers import KronLinear, LowRankConv2d, LowRankLinear
from sepdeploy.models import load
from sepdeploy.training import load_recipe
from sepdeploy.training.pruning import Pruner


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(4)


@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.5, 0.95, 0.9999])
def test_masks_keep_the_largest(sparsity):
    values = {"a": torch.randn(7, 9), "b": torch.ones(10, 10), "c": torch.randn(1, 3, 4)}
    masks = top_masks(values, sparsity)
    for name, mask in masks.items():
        n = mask.numel()
        assert int(mask.sum()) == max(1, math.ceil(round((1 - sparsity) * n, 6)))
        kept, lost = values[name][mask].abs(), values[name][~mask].abs()
        assert not len(lost) or kept.min() >= lost.max()


def scores_by_hand(values):
    """w² over the sum of squares of the entries behind it in ascending order, exactly."""
    entries = sorted((Fraction(float(v)) ** 2, k) for k, v in enumerate(values.flatten()))
    squares = [square for square, _ in entries]
    return {k: square / sum(squares[at:]) for at, (square, k) in enumerate(entries)}


@pytest.mark.parametrize("sparsity", [0.0, 0.4, 0.8, 0.95, 0.999])
def test_one_budget_for_the_network(sparsity):
    values = {"a": torch.randn(6, 8), "b": torch.randn(3, 4) * 50, "c": torch.randn(20)}
    masks = top_masks(values, sparsity, "network")
    ranked = sorted(
        ((score, name, k) for name, v in values.items() for k, score in scores_by_hand(v).items()),
        reverse=True,
    )
    keep = max(3, math.ceil(round((1 - sparsity) * 80, 6)))
    expected = {(name, k) for _, name, k in ranked[:keep]}
    found = {(n, int(k)) for n, m in masks.items() for k in m.flatten().nonzero()}
    assert found == expected
    assert all(m.any() and m.shape == values[n].shape for n, m in masks.items())


def test_the_scale_of_a_tensor_does_not_matter_but_its_size():
    values = {"large": torch.randn(100, 100), "small": torch.randn(10, 10)}
    masks = top_masks(values, 0.9, "network")
    scaled = top_masks(
        {"large": values["large"] * 2**-13, "small": values["small"]}, 0.9, "network"
    )
    assert all(torch.equal(masks[n], scaled[n]) for n in masks)
    shares = {n: float(m.float().mean()) for n, m in masks.items()}
    assert shares["small"] > 3 * shares["large"]
    assert sum(int(m.sum()) for m in masks.values()) == 1010


def test_tensors_of_zeros_keep_one_entry():
    masks = top_masks({"a": torch.zeros(5, 5), "b": torch.randn(10)}, 0.99, "network")
    assert [int(m.sum()) for m in masks.values()] == [1, 1]


def test_sparsity_counts_parameters_not_tensors():
    weights = {"large": torch.zeros(90), "small": torch.ones(10)}
    assert sparsity_of(weights) == 0.9


def test_what_is_prunable():
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3), LowRankConv2d(4, 4, (3, 3), (2, 2)), KronLinear((2, 2), (3, 3)),
        LowRankLinear(9, 8, 2), nn.Linear(8, 6), nn.Linear(6, 3),
    )  # fmt: skip
    assert list(prunable(net)) == [
        "0.weight", "1.reduce.weight", "1.core.weight", "1.expand.weight", "2.factors.0",
        "2.factors.1", "3.U", "3.V", "4.weight",
    ]  # fmt: skip
    assert list(prunable(net, classifier=True)) == [*prunable(net), "5.weight"]
    with pytest.raises(BadInput, match="nothing to prune"):
        prunable(nn.Linear(3, 2))


def test_folded_cores_keep_the_function_and_the_zeros():
    layer = LowRankLinear(9, 8, 3)
    nn.init.normal_(layer.S)
    x = torch.randn(5, 9)
    before = layer(x).detach()
    fold_cores(layer)
    assert torch.allclose(layer(x), before, atol=1e-5)
    with torch.no_grad():
        layer.V[2:5] = 0
    assert (layer.factors()[1][2:5] == 0).all()
    assert not layer.S.requires_grad


def test_scores_start_in_proportion_to_the_weights():
    w = torch.randn(6, 8)
    scores = initial_scores({"w": w})["w"]
    assert torch.allclose(scores, math.sqrt(6 / 8) * w / w.abs().max())
    conv = initial_scores({"w": torch.randn(6, 4, 3, 3)})["w"]
    assert float(conv.abs().max()) == pytest.approx(math.sqrt(6 / 36))


@pytest.mark.parametrize(
    ("layer", "inputs"),
    [
        (nn.Linear(48, 5), {"weight": 48}),
        (nn.Conv2d(4, 6, (3, 5)), {"weight": 60}),
        (LowRankLinear(48, 20, 3), {"U": 48, "V": 3}),
        (LowRankLinear(20, 48, 3), {"U": 20, "V": 3}),
        (KronLinear((4, 9), (5, 7), terms=2), {"factors.0": 2 * 4, "factors.1": 2 * 9}),
        (LowRankConv2d(8, 10, (3, 3), (4, 5)), {"reduce.weight": 8, "core.weight": 36,
                                                "expand.weight": 5}),
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_scores_know_how_many_inputs_each_factor_has(layer, inputs):
    for net, prefix in ((layer, ""), (nn.Sequential(layer), "0.")):
        scores = initial_scores(prunable(net, classifier=True))
        largest = {name: float(score.abs().max()) for name, score in scores.items()}
        assert largest == {
            prefix + name: pytest.approx(math.sqrt(6 / n)) for name, n in inputs.items()
        }


def recipe(**changes):
    values = {"prune": "hydra", "sparsity": 0.5, "prune_start": 1, "prune_epochs": 1, "epochs": 4}
    return load_recipe(None, values | changes)


def test_scores_learn_through_the_masks():
    net = nn.Sequential(nn.Linear(6, 5, bias=False), nn.Linear(5, 2))
    pruner = Pruner(net, recipe(optimizer="sgd", momentum=0.0))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    dense = net[0].weight.detach().clone()
    pruner.before(1, 0.1)
    mask = top_masks(pruner.scores, 0.5)["0.weight"]
    assert torch.equal(net[0].weight.detach(), dense * mask)
    before = pruner.scores["0.weight"].clone()
    net(torch.randn(8, 6)).square().sum().backward()
    gradient = net[0].weight.grad.clone()
    head = net[1].weight.detach().clone()
    pruner.step(1, optimizer)
    assert torch.allclose(pruner.scores["0.weight"], before - 0.1 * gradient * dense, atol=1e-6)
    assert torch.equal(net[1].weight, head)  # frozen
    pruner.before(2, 0.1)  # fine-tuning begins
    assert torch.equal(net[0].weight.detach(), dense * pruner.masks["0.weight"])
    net(torch.randn(8, 6)).square().sum().backward()
    pruner.step(2, optimizer)
    assert (net[0].weight[~pruner.masks["0.weight"]] == 0).all()
    assert not torch.equal(net[1].weight, head)


CHOICES = [
    {"prune": "magnitude", "structure": "kron", "sparsity": 0.75, "prune_start": 1},
    {"prune": "hydra", "structure": "lowrank:8", "sparsity": 0.6, "prune_start": 1,
     "weight_decay": 0.01},
    {"prune": "hydra", "structure": "dense", "sparsity": 0.9, "prune_start": 1,
     "prune_scope": "network"},
]  # fmt: skip


@pytest.mark.parametrize("choice", CHOICES)
def test_the_saved_model_has_its_zeros(train, choice):
    result = train(**choice)
    first = 2 if choice["prune"] == "magnitude" else 3
    assert result.best_epoch >= first
    model = load(result.path)
    found = sparsity_of(prunable(model.net))
    assert found == pytest.approx(choice["sparsity"], abs=0.01)
    assert model.provenance["sparsity"] == pytest.approx(found)
    assert [e["sparsity"] > 0.5 for e in result.history] == [False, True, True]


def test_the_classifier_is_pruned_on_demand(train):
    choice = {"prune": "magnitude", "prune_scope": "network", "epochs": 1, "sparsity": 0.99}
    net = train(**choice, prune_classifier=True).model.net
    weights = prunable(net, classifier=True)
    total = sum(w.numel() for w in weights.values())
    assert sum(int((w != 0).sum()) for w in weights.values()) == math.ceil(0.01 * total)
    assert not (train(**choice).model.net.head.weight == 0).any()


@pytest.mark.slow
def test_exported_files_hold_the_zeros(train, tmp_path):
    choice = {"structure": "fc1=kron,fc2=lowrank:8", "prune_scope": "network", "prune_start": 0}
    model = train(prune="magnitude", sparsity=0.75, epochs=1, **choice).model
    kept = {name: int((w != 0).sum()) for name, w in prunable(model.net).items()}
    assert (
        len(
            {
                round(n / w.numel(), 2)
                for n, w in zip(kept.values(), prunable(model.net).values(), strict=True)
            }
        )
        > 1
    )  # no share of each
    manifest = sd.export(model, tmp_path / "m", formats=["onnx"], eval_pack=False)
    graph = onnx.load(tmp_path / manifest.artifacts[0].path).graph
    arrays = [onnx.numpy_helper.to_array(i) for i in graph.initializer]
    counts = [int(np.count_nonzero(array)) for array in arrays if array.ndim > 1]
    first, second, *low_rank = kept.values()
    # a small Kronecker layer may be exported as one matrix, whose zeros are those of A ⊗ B
    assert {first, second} <= set(counts) or first * second in counts
    assert set(low_rank) <= set(counts)


@pytest.mark.slow
@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize(
    "moment", [(2, 3), *(pytest.param(m, marks=pytest.mark.slow) for m in ((1, 3), (3, 1)))]
)
def test_interrupted_and_resumed_to_the_same_bits(resumed_and_whole, choice, moment):
    resumed_and_whole(moment, **choice)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 2}, "pruning ends after epoch 2 of 2, none is left to fine-tune"),
        ({"rank_tolerance": 0.1}, "ranks adapt cannot be pruned"),
        ({"swa": True}, "averaging starts before the masks are fixed"),
        ({"sparsity": 1.0}, "sparsity = 1.0 is outside"),
        ({"prune": "random"}, "unknown prune 'random'"),
        ({"prune_scope": "layer"}, "unknown prune_scope 'layer'"),
    ],
)
def test_wishes_that_make_no_sense(changes, message):
    with pytest.raises(BadInput, match=message) as error:
        recipe(**changes)
    if "rank_tolerance" in changes:
        assert error.value.hint == "leave prune out, or rank_tolerance"
