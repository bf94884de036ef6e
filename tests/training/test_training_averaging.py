"""Averaged weights, recomputed batch statistics, early stopping."""

from itertools import starmap

import numpy as np
import pytest
import torch
from torch import nn

from sepdeploy.data import Split
from sepdeploy.errors import BadInput
from sepdeploy.models import load, wrap
from sepdeploy.training import load_recipe, loop
from sepdeploy.training.descent.averaging import Average, recompute_statistics
from sepdeploy.training.judge import Accuracies


def split(n=300):
    rng = np.random.default_rng(0)
    images = rng.random((n, 1, 8, 8), dtype=np.float32)
    return Split(images, np.zeros(n, np.int64), np.arange(n))


def norm_model():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 6), nn.BatchNorm1d(6), nn.ReLU(),
                        nn.Linear(6, 10))  # fmt: skip
    return wrap(net, (1, 8, 8), mean=(0.4,), std=(0.2,))


def drift(model, average, n, *, step=True):
    seen = []
    for k in range(n):
        with torch.no_grad():
            for p in model.net.parameters():
                p.add_(torch.randn_like(p))
        seen.append(model.net[1].weight.detach().clone())
        (average.after_step if step else average.after_epoch)(k)
    return seen


def test_swa_is_the_plain_mean():
    model = norm_model()
    average = Average(model, decay=0, start=2)
    seen = drift(model, average, 6, step=False)
    assert torch.allclose(average.weights["1.weight"], torch.stack(seen[2:]).mean(0), atol=1e-6)


def test_ema_is_its_recursion():
    model = norm_model()
    average = Average(model, decay=0.6, start=0)
    seen = drift(model, average, 30)
    expected = seen[0].clone()
    for n, w in enumerate(seen[1:], start=1):
        d = min(0.6, (1 + n) / (10 + n))
        expected = d * expected + (1 - d) * w
    assert torch.allclose(average.weights["1.weight"], expected, atol=1e-4)


def test_applied_and_taken_back():
    model = norm_model().train()
    average = Average(model, decay=0, start=0)
    drift(model, average, 3, step=False)
    before = {k: v.clone() for k, v in model.net.state_dict().items()}
    with average.applied(split(256)):
        assert torch.equal(model.net[1].weight, average.weights["1.weight"])
        x = torch.from_numpy(split(256).images)
        hidden = model.net[1]((x.flatten(1) - 0.4) / 0.2)
        assert torch.allclose(model.net[2].running_mean, hidden.mean(0), atol=1e-4)
        assert torch.allclose(model.net[2].running_var, hidden.var(0), rtol=1e-3)
    after = model.net.state_dict()
    assert all(torch.equal(after[k], before[k]) for k in before)
    assert model.net[2].training
    assert model.net[2].momentum == 0.1


def test_statistics_are_of_all_images_also_where_these_are_sorted_by_class():
    sorted_images = split(1000)
    sorted_images.images[:] *= np.linspace(0, 1, 1000, dtype=np.float32)[:, None, None, None]
    model = norm_model().train()
    recompute_statistics(model, sorted_images)
    hidden = model.net[1]((torch.from_numpy(sorted_images.images).flatten(1) - 0.4) / 0.2)
    assert torch.allclose(model.net[2].running_mean, hidden.mean(0), atol=2e-2)
    assert torch.allclose(model.net[2].running_var, hidden.var(0), rtol=2e-2)


def test_no_statistics_no_pass(monkeypatch):
    model = wrap(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), (1, 8, 8))
    monkeypatch.setattr(Split, "batch", lambda *a: pytest.fail("not needed"))
    recompute_statistics(model, split())


@pytest.mark.slow
@pytest.mark.parametrize("choice", [{"ema": 0.9}, {"swa": True, "average_start": 1}])
def test_trained_and_resumed_to_the_same_bits(resumed_and_whole, choice):
    _, whole = resumed_and_whole((2, 3), **choice, epochs=4)
    last = whole.history[-1]
    pick = max((last["raw"], last["average"]), key=loop.score)
    assert last["robust_accuracy"] == pick["robust_accuracy"]


def test_the_better_of_both_is_kept(train, monkeypatch):
    scores = starmap(Accuracies, [(0.5, 0.2), (0.5, 0.4), (0.9, 0.3), (0.9, 0.1)])
    # raw, then average, of two epochs
    monkeypatch.setattr(loop, "accuracies", lambda *a, team: next(scores))
    result = train(swa=True, epochs=2)
    assert result.best_epoch == 1
    assert [e["robust_accuracy"] for e in result.history] == [0.4, 0.3]
    assert load(result.path).provenance["accuracy"]["validation_robust"] == 0.4


def test_patience_stops_early_and_resumes_to_the_same_end(train, monkeypatch):
    fixed = {1: 0.3, 2: 0.6, 3: 0.5, 4: 0.5, 5: 0.9}

    def judged(self):
        return Accuracies(0.9, fixed[self.epoch + 1])

    monkeypatch.setattr(loop.Trainer, "_validate", judged)
    result = train(epochs=5, patience=2)
    assert (len(result.history), result.best_epoch) == (4, 2)
    assert load(result.path).provenance["epochs"] == 4
    again = train(epochs=5, patience=2, resume=True)
    assert again.best_epoch == 2


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"ema": 0.9, "swa": True}, "exclude each other"),
        ({"ema": 0.9, "rank_tolerance": 0.1}, "cannot be averaged"),
        ({"ema": 1.0}, "ema = 1.0 is outside"),
        ({"inner": "pgd"}, "unknown inner 'pgd'"),
        ({"swa": "yes"}, "is not true or false"),
    ],
)
def test_wishes_that_make_no_sense(values, message):
    with pytest.raises(BadInput, match=message):
        load_recipe(None, values)


@pytest.mark.slow
@pytest.mark.parametrize(("objective", "as_before"), [("mart", 0), ("fr", 1), ("sar", 1)])
def test_each_objective_trains(train, objective, as_before):
    choice = {"epochs": 2, "inner": "rs-fgsm"}
    late = {"align_start": 1} if as_before else {}  # before it, this is PGD-AT
    plain, result = train("plain", **choice), train(objective=objective, **choice, **late)
    assert result.model.provenance["objective"] == objective
    losses, others = ([entry["loss"] for entry in r.history] for r in (result, plain))
    assert np.isfinite(losses).all()
    assert [a == b for a, b in zip(losses, others, strict=True)] == [bool(as_before), False]
