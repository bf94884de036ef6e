"""Fast adversarial training: its guard against catastrophic overfitting, and what that keeps."""

import pytest
from compared_trainings import same_bits, state

from sepdeploy.data import load, split_validation
from sepdeploy.threat import Attack
from sepdeploy.training import guard
from sepdeploy.training.judge import accuracies

ONE_STEP = {"objective": "fast-at", "inner": "fgsm"}
COLLAPSING = {
    "structure": "dense", "hidden": "256,256", "epochs": 15, "batch_size": 64, "steps": 7,
    "lr": 0.004, "eps": 0.3, "inner": "fgsm",
}  # fmt: skip


@pytest.fixture
def collapsing(monkeypatch):
    """What the guard sees is a collapse from the second epoch on."""

    def look(self, at):
        return guard.Look(0.9, 0.8 if at.epoch < 1 else 0.1)

    monkeypatch.setattr(guard.Guard, "look", look)


@pytest.fixture
def taken(monkeypatch):
    """Of every step: (epoch, step), the inner attack, and the weights after it."""
    plain, found = guard.Stepper.take, []

    def take(self, parts, at):
        value = plain(self, parts, at)
        weights = {k: v.clone() for k, v in state(self.model).items()}
        found.append(((at.epoch, at.step), self.terms(at).inner, weights))
        return value

    monkeypatch.setattr(guard.Stepper, "take", take)
    return found


def notes(train):
    return [e.message for e in train.events if e.kind == "note" and "overfitting" in e.message]


@pytest.mark.slow
def test_one_step_collapses_and_the_guard_saves_what_it_can(train):
    validation = split_validation(load("digits", None).train, 0.1, 11)[1]
    left = {}
    for objective in ("pgd-at", "fast-at"):
        model = train(objective, objective=objective, **COLLAPSING).model
        found = {
            name: accuracies(model, validation, Attack(name, 0.3)).robust
            for name in ("fgsm", "apgd-ce-20")
        }
        left[objective] = found["apgd-ce-20"] / found["fgsm"]
    assert left["pgd-at"] < 0.15
    assert left["fast-at"] > 2 * left["pgd-at"]
    assert len(notes(train)) == 1


def test_without_a_collapse_nothing_is_done(train):
    found = train(objective="fast-at", eps=0.05)
    assert not notes(train)
    assert [entry["guard"]["fallen"] for entry in found.history] == [False] * 3
    assert found.history[-1]["guard"]["longer"] > 0.1


def test_a_collapse_is_told_once_and_all_steps_are_taken_from_then_on(train, collapsing, taken):
    history = train(**ONE_STEP).history
    (message,) = notes(train)
    assert message.startswith("epoch 2: catastrophic overfitting, 90% of 146 held-out images stand")
    assert message.endswith("back to the last good state, and on with 2 attack steps (slower)")
    assert {inner for (epoch, _), inner, _ in taken if epoch <= 1} == {"fgsm"}
    assert {inner for (epoch, _), inner, _ in taken if epoch > 1} == {"ce"}
    assert [entry["guard"]["fallen"] for entry in history] == [False, True, True]


def test_the_weights_go_back_to_the_last_look_without_a_finding(train, monkeypatch, taken):
    monkeypatch.setattr(guard, "EVERY", 2)
    looks = iter([guard.Look(0.9, 0.8), guard.Look(0.9, 0.1)])
    monkeypatch.setattr(guard.Guard, "look", lambda self, at: next(looks))
    back = []
    plain = guard.Stepper.restore

    def restore(self, held):
        plain(self, held)
        back.append((len(taken), {k: v.clone() for k, v in state(self.model).items()}))

    monkeypatch.setattr(guard.Stepper, "restore", restore)
    train(**ONE_STEP, epochs=1)
    ((steps, weights),) = back
    assert steps == 4
    assert same_bits(weights, taken[1][2])
    assert not same_bits(weights, taken[3][2])


@pytest.mark.parametrize("at", [(1, 3), (3, 2)])
def test_interrupted_before_and_after_a_collapse(resumed_and_whole, collapsing, at):
    resumed, _ = resumed_and_whole(at, **ONE_STEP)
    assert resumed.history[-1]["guard"]["fallen"]


def test_radius_zero_needs_no_guard(train):
    assert "guard" not in train(objective="fast-at", eps=0.0, epochs=1).history[0]
