"""Schedules, optimisers, the choice of threads, progress lines."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from sepdeploy.training import Event
from sepdeploy.training.descent.optimizers import make_optimizer
from sepdeploy.training.descent.schedule import SCHEDULES, learning_rate
from sepdeploy.training.machine import threads


def torch_rates(make, total):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.3)
    scheduler = make(optimizer)
    rates = []
    for _ in range(total):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


def test_cosine_is_torchs():
    expected = torch_rates(lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 40), 40)
    assert [learning_rate("cosine", 0.3, t, 40) for t in range(40)] == pytest.approx(expected)


def test_one_cycle_is_nearly_torchs():
    total = 2000
    expected = torch_rates(lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 0.3, total), total)
    found = [learning_rate("one-cycle", 0.3, t, total) for t in range(total)]
    assert found == pytest.approx(expected, abs=0.3 * 0.01)  # torch counts one step less
    assert max(found) == pytest.approx(0.3)
    assert found[0] == pytest.approx(0.3 / 25)
    assert found[-1] < 1e-4


@pytest.mark.parametrize("name", SCHEDULES)
def test_rates_stay_between_zero_and_the_peak(name):
    rates = [learning_rate(name, 2.0, t, 17) for t in range(17)]
    assert all(0 < r <= 2 for r in rates)
    peak = rates.index(max(rates))
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    assert learning_rate(name, 2.0, 0, 0) <= 2


def test_only_matrices_decay():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    model[2].bias.requires_grad_(False)
    optimizer = make_optimizer("adamw", model, lr=0.1, momentum=0.9, weight_decay=0.5)
    decay = {
        id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]
    }
    assert {name: decay.get(id(p)) for name, p in model.named_parameters()} == {
        "0.weight": 0.5, "0.bias": 0.0, "1.weight": 0.0, "1.bias": 0.0, "2.weight": 0.5,
        "2.bias": None,
    }  # fmt: skip


def test_sgd_momentum():
    model = nn.Linear(2, 2)
    nesterov = make_optimizer("sgd", model, lr=0.1, momentum=0.9, weight_decay=0)
    assert nesterov.param_groups[0]["nesterov"]
    plain = make_optimizer("sgd", model, lr=0.1, momentum=0.0, weight_decay=0)
    assert not plain.param_groups[0]["nesterov"]


@pytest.fixture
def two_cores(monkeypatch):
    monkeypatch.setattr(threads, "available_cores", lambda: 2)
    with threads.cpu_threads(2):
        yield


@pytest.fixture
def stepping(monkeypatch):
    """Give steps that take as long as the number of threads says, by a clock of their own."""
    clock = SimpleNamespace(now=0.0, steps=0)
    monkeypatch.setattr(threads, "time", SimpleNamespace(perf_counter=lambda: clock.now))

    def make(one, two):
        def step():
            clock.steps += 1
            clock.now += one if torch.get_num_threads() == 1 else two

        step.clock = clock
        return step

    return make


@pytest.mark.parametrize(
    ("one", "two", "chosen"), [(0.04, 0.01, 2), (0.01, 0.02, 1), (0.04, 0.038, 1)]
)
def test_two_threads_must_earn_their_core(two_cores, stepping, one, two, chosen):
    assert threads.choose_threads(stepping(one, two)) == chosen
    assert torch.get_num_threads() == 2


def test_a_hopeless_probe_is_short(two_cores, stepping):
    step = stepping(0.005, 0.5)
    assert threads.choose_threads(step) == 1
    assert step.clock.now < 0.6  # one step with two threads, not five


def test_one_core_or_one_allowed_thread_needs_no_probe(monkeypatch):
    def never():
        raise AssertionError

    monkeypatch.setattr(threads, "available_cores", lambda: 1)
    assert threads.choose_threads(never) == 1
    monkeypatch.setattr(threads, "available_cores", lambda: 8)
    with threads.cpu_threads(1):  # as OMP_NUM_THREADS=1 does
        assert threads.choose_threads(never) == 1
    monkeypatch.undo()
    assert threads.available_cores() >= 1


@pytest.mark.parametrize(
    ("event", "text"),
    [
        (Event("note", message="1 thread"), "1 thread"),
        (
            Event("step", 2, 6, 5, 40, loss=0.51234, rate=1234.5, eta_s=75),
            "epoch 2/6 · step 5/40 · loss 0.5123 · 1234 images/s · 1 min 15 s left",
        ),
        (
            Event(
                "epoch",
                2,
                6,
                loss=0.5,
                rate=10,
                clean_accuracy=0.987,
                robust_accuracy=0.5,
                judged_by="pgd-5",
            ),
            "epoch 2/6 · loss 0.5000 · validation clean 98.70% · robust 50.00% (pgd-5) · "
            "10 images/s",
        ),
        (Event("step", 1, 1, 1, 2, eta_s=7261), "epoch 1/1 · step 1/2 · 2 h 01 min left"),
        (Event("step", 1, 1, 1, 2, eta_s=59.4), "epoch 1/1 · step 1/2 · 59 s left"),
    ],
)
def test_progress_lines(event, text):
    assert str(event) == text
    assert event.lasting == (event.kind != "step")
