"""Every architecture trains with every structure it admits, and comes back from its file."""

import functools
import math

import numpy as np
import pytest
import torch

from sepdeploy.compression.masks import prunable, sparsity_of
from sepdeploy.data import Dataset, Split
from sepdeploy.errors import BadInput
from sepdeploy.layers import LowRankConv2d, is_structured
from sepdeploy.models import ARCHITECTURES, load
from sepdeploy.records import InputSpec
from sepdeploy.training import fit, fitting, load_recipe, loop

# Scaled down until a training costs a fraction of a second.
SMALL = {
    "lenet": {},
    "mlp": {"hidden": (36, 16)},
    "resnet18": {"base": 4},
    "resnet20": {"base": 4},
    "vgg11": {"base": 4, "hidden": (36, 16)},
    "vgg16": {"base": 4, "hidden": (36, 16)},
    "vgg16_bn": {"base": 4, "hidden": (36, 16)},
    "vit_b_16": {"width": 12, "depth": 1, "patch": 8, "heads": 2},
    "vit_tiny": {"width": 12, "depth": 1, "patch": 8},
}
# Of the blocks above, or of plain convolutions alone.
DEEPER = {
    "densenet40", "mobilenet_v2", "resnet56", "shiftresnet20", "shiftresnet56", "shiftresnet110",
}  # fmt: skip
CONVOLUTIONAL = [arch for arch in SMALL if arch.startswith(("lenet", "resnet", "vgg"))]
CHOICES = {
    "kron": {"structure": "kron", "condition": 0.01, "l1": 1e-4},
    "several terms of full rank": {"structure": "kron:aligned*2", "logdet": 1e-3},
    "kron, scores pruned": {"structure": "kron", "prune": "hydra", "sparsity": 0.5},
    "lowrank": {"structure": "lowrank:3", "condition": 0.01, "spectral": 0.01},
    "lowrank, pruned": {"structure": "lowrank:3", "prune": "magnitude", "sparsity": 0.5},
    "lowrank, ranks adapt": {"structure": "lowrank:4", "rank_tolerance": 0.2, "rank_every": 2,
                             "rank_frozen": 0},
}  # fmt: skip
CONVOLUTIONS = {
    "Tucker": {"conv_rank": 3, "spectral_relative": 0.01},
    "Tucker, ranks adapt": {"conv_rank": 3, "rank_tolerance": 0.2, "rank_every": 2,
                            "rank_frozen": 0},
    "Tucker and kron, pruned": {"conv_rank": 3, "structure": "kron", "prune": "magnitude",
                                "sparsity": 0.5},
}  # fmt: skip

QUICK_ARCHITECTURES = ("lenet", "mlp", "resnet20", "vgg16_bn", "vit_tiny")
QUICK_CHOICES = ("kron", "lowrank, ranks adapt", "Tucker and kron, pruned")


def combinations(architectures, choices):
    """All of them; those that differ little from others are left to the slow tests."""
    for arch in architectures:
        for name, choice in choices.items():
            quick = arch in QUICK_ARCHITECTURES and name in QUICK_CHOICES
            marks = () if quick else pytest.mark.slow
            yield pytest.param(arch, choice, id=f"{arch}, {name}", marks=marks)


@pytest.fixture(autouse=True)
def small_world(monkeypatch):
    """Few small images, and architectures whose own widths are small."""
    rng = np.random.default_rng(5)

    def split(n, first):
        images = rng.integers(0, 256, (n, 3, 16, 16), dtype=np.uint8)
        return Split(images, np.arange(n) % 4, np.arange(first, first + n))

    input = InputSpec((3, 16, 16), class_names=("a", "b", "c", "d"))
    found = Dataset("noise", split(24, 0), split(4, 24), input)
    monkeypatch.setattr(fitting, "load", lambda name, folder: found)
    for arch, options in SMALL.items():
        monkeypatch.setitem(ARCHITECTURES, arch, functools.partial(ARCHITECTURES[arch], **options))


@pytest.fixture
def before(monkeypatch):
    """The weights that a training starts from, as dense matrices and kernels."""
    found = {}
    run = loop.Trainer.run

    def watched(self):
        found.update(operators(self.model.net))
        run(self)

    monkeypatch.setattr(loop.Trainer, "run", watched)
    return found


def operators(net):
    """The operator of every structured layer and factored convolution, whatever its rank."""
    found = {}
    for name, module in net.named_modules():
        if is_structured(module):
            found[name] = module.dense_weight().detach().clone()
        elif isinstance(module, LowRankConv2d):
            reduce, core, expand = (
                part.weight.detach() for part in (module.reduce, module.core, module.expand)
            )
            found[name] = torch.einsum(
                "op,pqhw,qi->oihw", expand[..., 0, 0], core, reduce[..., 0, 0]
            )
    return found


def train(arch, choice, folder):
    if arch.startswith("resnet") and "structure" in choice:  # its only linear layer
        choice = choice | {"structure": f"head={choice['structure']}"}
    pruned = {"prune_epochs": 1, "epochs": 2} if choice.get("prune") == "hydra" else {}
    recipe = load_recipe(
        None,
        {"arch": arch, "data": "noise", "epochs": 1, "batch_size": 8, "steps": 1, "eps": 0.02,
         "threads": 1, "validation": 0.2, "lr": 0.01, "seed": 3} | choice | pruned,
    )  # fmt: skip
    return fit(recipe, out=folder / "m.pt")


def check(result, before, choice):
    for entry in result.history:
        assert math.isfinite(entry["loss"])
        assert math.isfinite(entry["penalty"])
    after = operators(result.model.net)
    assert after.keys() == before.keys() != set()
    for name, operator in after.items():
        assert operator.isfinite().all()
        assert not torch.allclose(operator, before[name], atol=1e-6), name
    if choice.get("prune"):
        pruned = sparsity_of(prunable(result.model.net))
        assert pruned == pytest.approx(0.5, abs=0.02)
    again = load(result.path)
    x = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits = result.model.eval()(x)
        assert logits.shape == (3, 4)
        assert torch.allclose(again(x), logits, atol=1e-6)


@pytest.mark.parametrize(("arch", "choice"), list(combinations(SMALL, CHOICES)))
def test_linear_layers(arch, choice, before, tmp_path):
    check(train(arch, choice, tmp_path), before, choice)


@pytest.mark.parametrize(("arch", "choice"), list(combinations(CONVOLUTIONAL, CONVOLUTIONS)))
def test_convolutions(arch, choice, before, tmp_path):
    check(train(arch, choice, tmp_path), before, choice)
    assert any(isinstance(m, LowRankConv2d) for m in load(tmp_path / "m.pt").net.modules())


@pytest.mark.parametrize("arch", sorted(SMALL.keys() - set(CONVOLUTIONAL)))
def test_no_convolution_to_factor(arch, tmp_path):
    with pytest.raises(BadInput, match=f"{arch} has no convolution that it applies to"):
        train(arch, CONVOLUTIONS["Tucker"], tmp_path)


def test_nothing_is_left_out():
    assert {*SMALL, *DEEPER} == ARCHITECTURES.keys()
