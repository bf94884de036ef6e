"""Early stopping, and the finish with frozen ranks that it does not skip."""

import pytest
from compared_trainings import stop_in

from sepdeploy.training import loop
from sepdeploy.training.descent.stopping import may_be_kept, planned_epochs, ranks_frozen
from sepdeploy.training.judge import Accuracies
from sepdeploy.training.ranks.windows import RankDynamics
from sepdeploy.training.recipe.fields import Recipe


def history(*robust):
    return [{"robust_accuracy": r, "clean_accuracy": 0.5} for r in robust]


PRUNED = {"patience": 2, "prune": "magnitude", "prune_start": 3}


@pytest.mark.parametrize(
    ("changes", "scores", "planned"),
    [
        ({}, [0.5, 0.4, 0.3, 0.2], 20),  # without patience nothing stops it
        ({"patience": 2}, [], 20),
        ({"patience": 2}, [0.5, 0.4], 20),
        ({"patience": 2}, [0.5, 0.4, 0.4], 3),
        ({"patience": 2}, [0.5, 0.4, 0.5, 0.4], 3),  # as good as the best is not better
        ({"patience": 2}, [0.5, 0.4, 0.51, 0.4], 20),
        ({"patience": 2}, [0.5] * 8, 3),
        ({"patience": 2}, [0.5, 0.6, 0.4, 0.3], 4),
        (PRUNED, [0.9, 0.1, 0.1, 0.1], 20),
        (PRUNED, [0.9, 0.1, 0.1, 0.3, 0.2, 0.2], 6),
        ({"patience": 2, "rank_tolerance": 0.1, "rank_frozen": 3}, [0.5, 0.4, 0.3], 6),
        # what comes of the finish does not prolong it
        ({"patience": 2, "rank_tolerance": 0.1, "rank_frozen": 3}, [0.5, 0.4, 0.3, 0.9], 6),
        ({"patience": 2, "rank_tolerance": 0.1, "rank_frozen": 0}, [0.5, 0.4, 0.3], 3),
        ({"patience": 2, "rank_tolerance": 0.1, "rank_frozen": 19}, [0.5, 0.4, 0.3], 20),
    ],
)  # fmt: skip
def test_when_a_training_ends(changes, scores, planned):
    assert planned_epochs(Recipe(epochs=20, **changes), history(*scores)) == planned


def test_a_better_clean_accuracy_alone_is_better():
    entries = [{"robust_accuracy": 0.5, "clean_accuracy": c} for c in (0.6, 0.7, 0.8, 0.9)]
    assert planned_epochs(Recipe(epochs=20, patience=2), entries) == 20


def test_a_plateau_ends_a_training_and_its_last_epoch_is_kept(train, monkeypatch):
    monkeypatch.setattr(loop, "accuracies", lambda *a, team: Accuracies(0.5, 0.5))
    result = train(epochs=8, patience=2)
    assert (len(result.history), result.best_epoch) == (3, 3)


def test_which_epochs_are_frozen():
    recipe = Recipe(epochs=6, rank_tolerance=0.1, rank_frozen=2, patience=2)
    assert [ranks_frozen(recipe, [], e) for e in range(6)] == [False] * 4 + [True] * 2
    stale = history(0.5, 0.4, 0.3)
    assert [ranks_frozen(recipe, stale, e) for e in (3, 4)] == [True, True]
    assert not ranks_frozen(recipe, history(0.5, 0.4), 2)


def test_which_epochs_may_be_kept():
    recipe = Recipe(epochs=9, prune="hydra", prune_start=2, prune_epochs=3)
    assert [may_be_kept(recipe, e) for e in range(9)] == [False] * 5 + [True] * 4
    assert may_be_kept(Recipe(), 0)


@pytest.fixture
def declining(monkeypatch):
    """Validation gets worse from epoch to epoch."""

    def restart():
        scores = (Accuracies(n / 200, (n - 1) / 200) for n in range(100, 0, -2))
        monkeypatch.setattr(loop, "accuracies", lambda *a, team: next(scores))

    restart()
    return restart


RECIPE = {
    "structure": "lowrank:12", "rank_tolerance": 0.3, "rank_every": 3, "patience": 1,
    "rank_frozen": 2, "epochs": 9,
}  # fmt: skip


def test_adaptive_ranks_get_their_finish(train, declining, monkeypatch):
    seen = []
    plain = RankDynamics.before

    def before(self, step, steps, *, frozen):
        seen.append(frozen)
        return plain(self, step, steps, frozen=frozen)

    monkeypatch.setattr(RankDynamics, "before", before)
    result = train(**RECIPE)
    assert [entry["epoch"] for entry in result.history] == [1, 2, 3, 4]
    steps = len(seen) // 4
    assert seen == [False] * (2 * steps) + [True] * (2 * steps)
    assert result.history[2]["ranks"] == result.history[3]["ranks"] == result.history[1]["ranks"]
    assert result.best_epoch == 1


@pytest.mark.slow
def test_the_finish_resumes(train, declining):
    whole = train("whole", **RECIPE)
    declining()
    with pytest.raises(KeyboardInterrupt):
        train("stopped", **RECIPE, watch=stop_in(3, 4), every=0)
    resumed = train("stopped", **RECIPE, resume=True)
    assert "resuming in epoch 3, step 4" in [e.message for e in train.events]
    assert len(resumed.history) == len(whole.history) == 4
    for mine, theirs in zip(resumed.history, whole.history, strict=True):
        assert mine["loss"] == theirs["loss"]
        assert mine["ranks"] == theirs["ranks"]


def test_the_time_left_is_that_of_the_shortened_training(train, declining):
    train(**RECIPE)
    last = [e for e in train.events if e.kind == "step"][-1]
    assert last.epoch == 4
    assert last.eta_s == 0
