"""Ranks that adapt stay within the budget that they were planned into."""

import numpy as np
import pytest
import torch
from low_rank_cases import conv, core_of, linear, orthonormality

import sepdeploy as sd
from sepdeploy import data
from sepdeploy.errors import BadInput
from sepdeploy.models import create, load, save
from sepdeploy.training.ranks.dynamic import ranks_of, read_factors
from sepdeploy.training.ranks.windows import RankDynamics

GROWING = {"objective": "natural", "structure": "lowrank", "rank_tolerance": 1e-4, "rank_every": 2}


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(2)


def lost(W, axis, rank):
    """Squared norm of what a weight loses to the best basis of this rank along one axis."""
    sigma = np.linalg.svd(np.moveaxis(W, axis, 0).reshape(W.shape[axis], -1), compute_uv=False)
    return (sigma[rank:] ** 2).sum()


@pytest.mark.parametrize(
    ("make", "start", "wide"),
    [(conv, (4, 3), (9, 8)), (conv, (1, 5), (7, 7)), (linear, 3, 9), (linear, 1, 9)],
)
def test_a_truncation_returns_to_the_ranks_of_the_start(make, start, wide):
    layer, _ = make(start)
    planned = ranks_of(layer)
    optimizer = torch.optim.AdamW([core_of(layer)])
    dynamics = RankDynamics(layer, optimizer, tolerance=1e-9, every=2, largest=0, growing=False)
    grown, _ = make(wide)
    W = grown.dense_weight().detach().double().numpy()
    factors = read_factors(grown)
    stored = core_of(grown).detach().clone()
    layer.set_factors(factors.U, stored, factors.V)
    optimizer.state[core_of(layer)] = {"step": torch.tensor(1.0), "exp_avg": stored.clone()}
    dynamics.after(1, 9, frozen=False)
    assert ranks_of(layer) == planned
    after = read_factors(layer)
    assert max(orthonormality(after.U), orthonormality(after.V)) <= 1e-5
    # no better than the worse mode alone, no worse than both together
    error = ((W - layer.dense_weight().detach().double().numpy()) ** 2).sum()
    q, p = (planned["net"] * 2)[:2]
    tails = lost(W, 1, q), lost(W, 0, p)
    assert max(tails) * 0.999 <= error <= sum(tails) * 1.001
    # a moment that equals the core turns with it
    moment = optimizer.state[core_of(layer)]["exp_avg"]
    assert torch.allclose(moment, core_of(layer).detach(), atol=1e-5)


@pytest.mark.parametrize("changes", [{}, {"rank_max": 7}, {"target": ""}])
def test_a_target_holds_to_the_end(train, changes):
    choices = GROWING | {"target": "3000"} | changes
    structure = "lowrank" if choices["target"] else "lowrank:11"
    result = train(**choices | {"structure": structure})
    largest = [max(map(max, entry["ranks"].values())) for entry in result.history]
    if choices["target"]:
        assert max(largest) <= min(11, choices.get("rank_max", 11))
        assert load(result.path).params <= 3000
    else:
        assert max(largest) > 11  # the tolerance alone would have let them grow


@pytest.mark.parametrize("moment", [(1, 2), (2, 3)])
def test_a_target_holds_after_an_interruption(resumed_and_whole, moment):
    resumed, _ = resumed_and_whole(moment, **GROWING, target="3000")
    assert resumed.model.params <= 3000


@pytest.mark.parametrize("target", ["2x", ""])
def test_fine_tuning_keeps_the_budget_of_the_compression(tmp_path, target):
    model = create("lenet", data.load("digits").input, 10)
    model.provenance["data"] = "digits"
    save(model, tmp_path / "big.pt")
    recipe = tmp_path / "tune.toml"
    recipe.write_text(
        'epochs = 2\nobjective = "natural"\nthreads = 1\nbatch-size = 512\n'
        "rank-tolerance = 1e-4\nrank-every = 2\n"
    )
    structure = "lowrank" if target else "conv2=lowrank:2x3,fc1=lowrank:4"
    plans = []
    found = sd.compress(
        tmp_path / "big.pt", structure=structure, target=target, finetune=recipe,
        on_plan=plans.append,
    )  # fmt: skip
    assert (found.params <= plans[0].params) == bool(target)
    if target:
        assert found.params <= found.limit


def test_epochs_of_a_single_step_cannot_adapt(train):
    choices = GROWING | {"structure": "lowrank:4", "epochs": 2}
    images = len(data.load("digits").train)
    with pytest.raises(BadInput, match="is a single step of batch_size = 2000") as error:
        train(**choices, batch_size=2000)
    assert "batch_size of at most" in error.value.hint
    assert list(train.folder.iterdir()) == []
    train(**choices, batch_size=images * 8 // 10)  # two steps, of which the first augments
