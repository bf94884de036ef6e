"""Networks made of butterflies alone, and plans that use them."""

from pathlib import Path

import pytest
import torch

from sepdeploy.compression import compress_model, plan_compression
from sepdeploy.compression.request import structure_map
from sepdeploy.errors import BadInput
from sepdeploy.layers import DebutConv2d, DebutLinear
from sepdeploy.models import create, load, save
from sepdeploy.records import InputSpec

LAYERS = {"conv1", "conv2", "fc1", "fc2", "head"}
IMAGES = InputSpec((1, 16, 16))


def lenet(structure=None):
    torch.manual_seed(0)
    return create("lenet", IMAGES, 10, structure)


def butterflies(model):
    found = model.net.named_modules()
    return {name for name, m in found if isinstance(m, (DebutLinear, DebutConv2d))}


def test_a_plan_of_butterflies_alone_keeps_no_layer_dense_and_its_budget():
    model = lenet()
    plan = plan_compression(model, "all-debut", "3x")
    assert plan.params <= model.params / 3
    small, errors = compress_model(model, plan.changes)
    assert butterflies(small) == errors.keys() == LAYERS
    assert small.params == plan.params
    for layer in plan.layers:
        assert errors[layer.name] == pytest.approx(layer.relative_error, abs=1e-3)
    x = torch.rand(2, 1, 16, 16)
    assert small.net(x).shape == (2, 10)


def test_a_plan_with_debut_leaves_the_classifier():
    plan = plan_compression(lenet(), "debut", "3x")
    assert "head" not in plan.changes
    assert "fc1" in plan.changes


def test_a_budget_out_of_reach_is_told_the_best():
    with pytest.raises(BadInput, match="the best reachable is"):
        plan_compression(lenet(), "all-debut", "1000x")


def test_a_network_made_of_butterflies_is_saved_and_read(tmp_path: Path):
    model = lenet("all-debut:4x")
    assert butterflies(model) == LAYERS
    assert model.params_dense > 2 * model.params
    save(model, tmp_path / "m.pt")
    again = load(tmp_path / "m.pt")
    x = torch.rand(2, 1, 16, 16)
    with torch.no_grad():
        assert torch.equal(again.net(x), model.net(x))


def test_only_families_of_both_kinds_of_layers_make_whole_networks():
    with pytest.raises(BadInput, match="unknown structure 'all-tucker'"):
        lenet("all-tucker")


def test_commas_in_a_chain_part_no_layers():
    text = "fc1=debut:(4,4,4)(4,4,1),fc2=debut:4x"
    assert structure_map(text) == {"fc1": "debut:(4,4,4)(4,4,1)", "fc2": "debut:4x"}
    assert structure_map("debut:(4,4,4)(4,4,1)") == "debut:(4,4,4)(4,4,1)"
