"""`train --from`: the training of a structured net begins at the nearest one to a trained net."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from sepdeploy.cli import run
from sepdeploy.models import create, load, save
from sepdeploy.models.checkpoint import structure_forms
from sepdeploy.records import InputSpec
from sepdeploy.workflows.warm_start import warm_start

DIGITS = InputSpec((1, 8, 8))


@pytest.fixture
def dense(tmp_path):
    torch.manual_seed(0)
    model = create("mlp", DIGITS, 10, hidden=(36, 16)).eval()
    save(model, tmp_path / "dense.pt")
    return tmp_path / "dense.pt"


def start(path, **recipe):
    told = []
    _, model = warm_start(path, None, recipe, told.append)
    return model.eval(), [event.message for event in told]


def test_layers_are_the_nearest_to_those_of_the_trained_net(dense):
    source = load(dense)
    model, told = start(dense, structure="fc1=lowrank:5,fc2=kron:6x6-4x4+sumbias")
    assert model.arch_kwargs["hidden"] == [36, 16] or model.arch_kwargs["hidden"] == (36, 16)
    W = source.net.get_submodule("fc1").weight.detach().numpy()
    left, sigma, right = np.linalg.svd(W, full_matrices=False)
    nearest = (left[:, :5] * sigma[:5]) @ right[:5]
    found = model.net.get_submodule("fc1")
    np.testing.assert_allclose(found.dense_weight().detach(), nearest, atol=1e-5)
    assert torch.equal(found.bias, source.net.get_submodule("fc1").bias)
    head, own = (m.net.get_submodule("head") for m in (model, source))
    assert torch.equal(head.weight, own.weight)
    bias = source.net.get_submodule("fc2").bias.detach().numpy().reshape(4, 4)
    nearest = bias.mean(1, keepdims=True) + bias.mean(0) - bias.mean()
    found = model.net.get_submodule("fc2").whole_bias().detach().reshape(4, 4)
    np.testing.assert_allclose(found, nearest, atol=1e-6)
    error = np.sqrt((sigma[5:] ** 2).sum() / (sigma**2).sum())
    assert f"fc1 {error:.2f}" in told[-1]


def test_a_budget_is_planned_within_the_widths_of_the_trained_net(dense):
    model, _ = start(dense, structure="lowrank", target="2x")
    assert model.params <= load(dense).params / 2
    assert model.net.get_submodule("fc1").spec.out_features == 36


def test_convolutions_start_from_the_trained_ones_too(tmp_path):
    torch.manual_seed(0)
    source = create("lenet", DIGITS, 10).eval()
    save(source, tmp_path / "dense.pt")
    model, _ = start(tmp_path / "dense.pt", conv_rank=16)
    x = torch.rand(3, 1, 8, 8)
    assert set(structure_forms(model.net)) == {"conv2"}
    full, far = source(x), model(x)
    assert 0 < (full - far).norm() < full.norm()


@pytest.mark.slow
def test_a_training_from_it_learns_from_there(dense, tmp_path):
    out = tmp_path / "small.pt"
    words = "--structure fc1=lowrank:30 --objective natural --epochs 1 --lr 1e-9 --threads 1"
    assert run(["train", "--from", str(dense), *words.split(), "-o", str(out), "-q"]) == 0
    model, _ = start(dense, structure="fc1=lowrank:30")
    x = torch.rand(3, 1, 8, 8)
    assert torch.allclose(load(out)(x), model(x), atol=1e-4)
    assert "started_from" in load(out).provenance


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("--hidden 64,16", "layer 'fc1' is 64 → 36 in .* and 64 → 64 in the recipe"),
        ("--hidden 36", "layer 'head' is 16 → 10 in .* and 36 → 10"),
        ("--hidden 36,16,16", "'fc3'"),
        ("--structure kron:8x8-8x8,kron:8x8-4x4", "it maps 64 → 64, the layer is 64 → 36"),
        ("--arch lenet", "is a network 'mlp', the recipe asks for 'lenet'"),
    ],
)
def test_other_sizes_are_one_line_and_nothing_is_written(dense, tmp_path, capsys, words, says):
    out = tmp_path / "new" / "small.pt"
    code = run(["train", "--from", str(dense), *words.split(), "-o", str(out)])
    lines = capsys.readouterr().err.splitlines()
    assert code == 2
    (line,) = [x for x in lines if x.startswith("error: ")]
    assert re.search(says, line), line
    assert not out.parent.exists()
