"""Whole trainings on the digits."""

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from compared_trainings import same_bits, state
from torch import nn

from sepdeploy import attacks
from sepdeploy.attacks.draws import derive_seed
from sepdeploy.data import split_validation
from sepdeploy.errors import BadInput
from sepdeploy.models import create, load
from sepdeploy.threat import Attack
from sepdeploy.training import Recipe, finishing, fit, fitting, history_path, load_recipe, loop
from sepdeploy.training.checkpoint import read_history
from sepdeploy.training.descent import steps
from sepdeploy.training.judge import Accuracies
from sepdeploy.training.objectives import Row
from sepdeploy.training.sources import NOISE


def test_robust_training_makes_a_robust_model(tmp_path):
    common = {"structure": "kron", "hidden": "144,144", "epochs": 5, "steps": 3,
              "threads": 1}  # fmt: skip
    clean, robust = {}, {}
    for objective in ("natural", "pgd-at", "trades"):
        recipe = load_recipe(None, common | {"objective": objective})
        result = fit(recipe, out=tmp_path / f"{objective}.pt")
        test = fitting.load("digits").test
        images = torch.from_numpy(test.batch(slice(None)))
        labels = torch.from_numpy(test.labels)
        model = load(result.path)
        adversarial = attacks.run(model, images, labels, Attack("pgd-20", 0.1))
        with torch.no_grad():
            clean[objective], robust[objective] = (
                float((model(x).argmax(dim=1) == labels).float().mean())
                for x in (images, adversarial)
            )
        stored = model.provenance["accuracy"]
        assert stored["test_clean"] == pytest.approx(clean[objective])
    assert min(clean.values()) > 0.9
    assert min(robust["pgd-at"], robust["trades"]) > robust["natural"] + 0.1


@pytest.mark.slow
def test_the_same_recipe_gives_the_same_bits(train):
    first, second = train("a"), train("b")
    assert same_bits(state(first.model), state(second.model))
    assert not same_bits(state(first.model), state(train("c", seed=12).model))


@pytest.mark.slow
def test_the_callers_generator_does_not_matter(train):
    torch.manual_seed(1)
    first = train("a")
    after = torch.get_rng_state()
    torch.manual_seed(1)
    assert torch.equal(torch.get_rng_state(), after)
    torch.manual_seed(2)
    assert same_bits(state(first.model), state(train("b").model))


def test_the_best_epoch_is_chosen_on_held_out_training_images(train, monkeypatch):
    scores = iter([Accuracies(0.5, 0.4), Accuracies(0.8, 0.4), Accuracies(0.7, 0.4)])
    judged = []

    def judge(model, split, attack=None, *, team):
        judged.append((split, attack))
        return next(scores)

    states = []
    monkeypatch.setattr(loop, "accuracies", judge)
    monkeypatch.setattr(finishing, "accuracies", lambda *a, team: Accuracies(0.25, 0.2, 3))
    result = train(watch=lambda e: states.append(e) if e.kind == "epoch" else None, validation=0.2)
    assert result.best_epoch == 2  # equal robust accuracy, so the higher clean one decides
    digits = fitting.load("digits", None)
    _, held = split_validation(digits.train, 0.2, 11)
    assert all(np.array_equal(split.ids, held.ids) for split, _ in judged)
    assert not set(held.ids) & set(digits.test.ids)
    budget = judged[1][1]
    assert (budget.eps, budget.steps, budget.norm) == (0.1, 5, "linf")
    assert result.model.provenance["accuracy"] == {
        "attack": "apgd-ce-5",
        "validation_clean": 0.8,
        "validation_robust": 0.4,
        "test_clean": 0.25,
        "test_robust": 0.2,
        "n": len(digits.test),
        "no_gradient": 3,
    }


def test_the_saved_model_is_the_best_epoch_not_the_last(train, monkeypatch):
    scores = iter([Accuracies(0.5, 0.9), Accuracies(0.5, 0.1), Accuracies(0.5, 0.1)])
    seen = {}
    judge = lambda model, *a, team: (keep(model), next(scores))[1]  # noqa: E731
    monkeypatch.setattr(loop, "accuracies", judge)

    def keep(model):
        seen[len(seen)] = {k: v.clone() for k, v in state(model).items()}

    monkeypatch.setattr(finishing, "accuracies", lambda *a, team: Accuracies(0.0))
    result = train()
    assert result.best_epoch == 1
    assert same_bits(state(load(result.path)), seen[0])
    assert not same_bits(seen[0], seen[2])


@pytest.mark.slow
def test_test_images_never_influence_the_weights(train, small_digits, monkeypatch):
    first = train("a")
    rng = np.random.default_rng(0)
    noise = dataclasses.replace(
        small_digits.test,
        images=rng.integers(0, 256, small_digits.test.images.shape, dtype=np.uint8),
    )
    changed = dataclasses.replace(small_digits, test=noise)
    monkeypatch.setattr(fitting, "load", lambda name, folder: changed)
    second = train("b")
    assert same_bits(state(first.model), state(second.model))
    assert first.model.provenance["accuracy"] != second.model.provenance["accuracy"]


def test_history_is_json_lines(train):
    result = train(condition=0.01, l1=0.02)
    path = history_path(result.path)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert lines == result.history
    assert [entry["epoch"] for entry in lines] == [1, 2, 3]
    for entry in lines:
        assert set(entry) == {
            "epoch", "loss", "penalty", "condition", "l1", "clean_accuracy", "robust_accuracy",
            "condition_numbers", "learning_rate", "learning_rate_scales",
        }  # fmt: skip
        assert set(entry["condition_numbers"]) == {"fc1", "fc2", "head"}
        assert entry["penalty"] > 0
    assert lines[-1]["loss"] < lines[0]["loss"]
    path.write_text(path.read_text() + '{"epoch": 4, "lo')  # a line that was being written
    assert read_history(path) == result.history
    path.write_text("{]\n")
    with pytest.raises(BadInput, match="not a history file"):
        read_history(path)


@pytest.mark.slow
def test_the_condition_term_conditions_and_l1_shrinks(train):
    plain = train("plain", epochs=4)
    conditioned = train("conditioned", epochs=4, condition=2.0)
    sparse = train("sparse", epochs=4, l1=1.0)
    last = [r.history[-1] for r in (plain, conditioned, sparse)]
    assert last[1]["condition"] < 0.5 * last[0]["condition"]
    for name in ("fc1", "fc2"):
        assert last[1]["condition_numbers"][name] < last[0]["condition_numbers"][name]
    assert last[2]["l1"] < 0.9 * last[0]["l1"]


def test_natural_training_judges_clean_accuracy_only(train):
    result = train(objective="natural")
    assert all(entry["robust_accuracy"] is None for entry in result.history)
    provenance = load(result.path).provenance
    assert provenance["objective"] == "natural"
    assert provenance["eps"] is None
    assert provenance["accuracy"]["test_robust"] is None


def test_provenance_tells_how_the_model_came_to_be(train):
    result = train(eps="8/255", norm="l2", steps=3)
    stored = load(result.path).provenance
    assert stored["eps"] == 8 / 255
    assert (stored["norm"], stored["steps"], stored["attack"]) == ("l2", 3, "pgd-3")
    assert (stored["objective"], stored["seed"], stored["epochs"]) == ("pgd-at", 11, 3)
    assert stored["data"] == "digits"
    assert stored["best_epoch"] == result.best_epoch
    assert stored["threads"] == 1
    assert load_recipe(None, stored["recipe"]) == load_recipe(
        None, {"structure": "kron", "hidden": "64,36", "epochs": 3, "batch_size": 256,
               "steps": 3, "threads": 1, "seed": 11, "lr": 0.02, "eps": 8 / 255, "norm": "l2"},
    )  # fmt: skip
    assert set(stored["tool"]) == {"sepdeploy", "torch", "python"}


def test_events(train):
    train()
    kinds = [e.kind for e in train.events]
    assert kinds.count("epoch") == 3
    assert kinds.count("step") == 3 * 6
    assert kinds[-1] == "done"
    step = [e for e in train.events if e.kind == "step"][8]
    assert (step.epoch, step.epochs, step.step, step.steps) == (2, 3, 3, 6)
    assert step.rate > 0
    assert step.eta_s > 0
    done = train.events[-1]
    assert "best epoch" in str(done)
    assert 0 <= done.robust_accuracy <= done.clean_accuracy <= 1


@pytest.mark.slow
def test_a_probe_chooses_threads_and_changes_nothing(train, monkeypatch):
    fixed = train("fixed")
    probed = []

    def choose(step):
        step()
        step()
        probed.append(True)
        return 1

    monkeypatch.setattr(fitting, "choose_threads", choose)
    chosen = train("chosen", threads=0)
    assert probed
    assert chosen.model.provenance["threads"] == 1
    assert same_bits(state(fixed.model), state(chosen.model))


def test_fine_tuning_starts_from_a_given_model(train, small_digits):
    torch.manual_seed(5)
    start = create("mlp", small_digits.input, 10, structure="lowrank:5", hidden=(30,))
    before = {k: v.clone() for k, v in state(start).items()}
    result = train(model=start, lr=1e-9, schedule="constant", epochs=1)
    after = state(result.model)
    assert all(torch.allclose(after[k], before[k], atol=1e-5) for k in before)
    assert result.model.arch_kwargs["structure"] == "lowrank:5"


def test_a_model_for_other_images_is_refused(train):
    from sepdeploy.records import InputSpec

    with pytest.raises(BadInput, match=r"the model takes \(1, 9, 9\)"):
        train(model=create("mlp", InputSpec((1, 9, 9)), 10))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arch": "mpl"}, "unknown architecture 'mpl'"),
        ({"structure": "krom"}, "unknown structure 'krom'"),
        ({"structure": "fc9=kron"}, "unknown layer 'fc9'"),
        ({"arch": "lenet"}, "hidden"),
    ],
)
def test_impossible_networks(train, changes, message):
    with pytest.raises(BadInput, match=message):
        train(**changes)


def test_epoch_noise_differs_and_is_derived(train, monkeypatch):
    seeds = []
    objective = steps.OBJECTIVES["pgd-at"]
    monkeypatch.setitem(
        steps.OBJECTIVES,
        "pgd-at",
        Row(lambda m, b, terms: (seeds.append(terms.attack.seed), objective(m, b, terms))[1]),
    )
    train()
    assert list(dict.fromkeys(seeds)) == [derive_seed(11, NOISE, e) for e in range(3)]


def tiny(classes):
    """A user's own network, with batch normalisation."""
    return nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Linear(64, classes))


def test_a_finished_training_of_the_users_own_network_is_loaded(train):
    arch = f"{__name__}:tiny"
    first = train("own", arch=arch, structure="", hidden="")
    again = train("own", resume=True, arch=arch, structure="", hidden="")
    assert same_bits(state(first.model), state(again.model))


def test_batch_normalisation_of_one_image_is_bad_input(train):
    with pytest.raises(BadInput, match="one image"):
        train(arch=f"{__name__}:tiny", structure="", hidden="", batch_size=32, accumulate=32)


def test_the_radius_grows_in_the_first_epochs():
    recipe = load_recipe(None, {"eps": 0.3, "steps": 6, "eps_warmup": 2, "step_size": 0.06})
    attacks_of = [
        steps.Stepper.terms(SimpleNamespace(recipe=recipe), steps.Moment(epoch, 0)).attack
        for epoch in range(4)
    ]
    assert [a.eps for a in attacks_of] == pytest.approx([0.1, 0.2, 0.3, 0.3])
    assert [a.step_size for a in attacks_of] == pytest.approx([0.02, 0.04, 0.06, 0.06])


def test_the_attack_is_the_one_of_the_recipe():
    values = {
        "norm": "l2", "steps": 6, "trades_beta": 3.0, "mart_beta": 2.0, "inner": "margin",
        "align_weight": 0.7, "align_axes": "class", "align_on": "features",
    }  # fmt: skip
    recipe = Recipe(**values, objective="sar", align_start=2)
    before, after = (
        steps.Stepper.terms(SimpleNamespace(recipe=recipe), steps.Moment(epoch, 0))
        for epoch in (1, 2)
    )
    assert after.attack.norm == values.pop("norm")
    assert after.attack.steps == values.pop("steps")
    assert {name: getattr(after, name) for name in values} == values
    assert before.attack.seed != after.attack.seed
    assert dataclasses.replace(before, attack=after.attack, align_weight=0.7) == after
    assert before.align_weight == 0
