"""The training benchmark: its arithmetic of ratios and bars, not the speed of this machine."""

import pytest
import torch
from torch import nn

from benchmarks.dynamic import EVERY, Training
from benchmarks.ratios import Ratio, table, take_turns
from benchmarks.training import counted, counting_rows, document, layer_rows
from sepdeploy.data import Split
from sepdeploy.layers import KronLinear
from sepdeploy.records import InputSpec


def test_ratios_are_costs_or_speedups_by_their_bar():
    cost = Ratio.of("a", "b", [0.003] * 4, [0.002] * 4, at_most=1.6)
    assert (cost.ms, cost.other_ms) == pytest.approx((3, 2))
    assert cost.ratio == pytest.approx(1.5)
    assert not cost.broken
    assert Ratio.of("a", "b", [0.0034], [0.002], at_most=1.6).broken
    speed = Ratio.of("a", "b", [0.002], [0.003], at_least=1.4)
    assert speed.ratio == pytest.approx(1.5)
    assert not speed.broken
    assert Ratio.of("a", "b", [0.002], [0.003], at_least=1.6).broken
    assert Ratio.of("a", "b", [0.001, 0.1, 0.1, 0.1, 0.001], [0.001]).ratio == pytest.approx(1)
    absent = Ratio("a", "b", note="not installed", at_least=1.5)
    assert absent.ratio is None
    assert not absent.broken
    assert Ratio("a", "b", note="5 instead of 6", broken_by=True).broken
    lines = table([cost, speed, absent]).splitlines()[2:]
    assert lines[0] == "| a | b | 3.00 | 2.00 | 1.50× | ≤ 1.6× |"
    assert lines[1] == "| a | b | 2.00 | 3.00 | 1.50× | ≥ 1.4× |"
    assert lines[2] == "| a | b | | | not installed | ≥ 1.5× |"
    slow = table([Ratio.of("a", "b", [0.004], [0.002], at_most=1.6)])
    assert slow.endswith("| 4.00 | 2.00 | **2.00×** | ≤ 1.6× |")


def test_runs_take_turns():
    calls = []
    runs = {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}
    times = take_turns(runs, 3)
    assert "".join(calls) == "aabb" * 3
    assert {name: len(seconds) for name, seconds in times.items()} == {"a": 3, "b": 3}


def test_products_are_counted():
    layer = KronLinear((64, 64), (64, 64))
    assert counted(layer, parameters=False) == 4
    assert counted(layer, parameters=True) == 6
    assert counted(nn.Linear(4096, 8), parameters=True) == 3
    (row,) = counting_rows()
    assert not row.broken


def test_the_page_has_every_row():
    rows = list(layer_rows(1))
    assert {r.against for r in rows} >= {"its six matrix products", "one term", "dense layer"}
    facts = {"cpu": "a processor", "cores": 2, "load": 0.5, "python": "3.11"}
    page = document(rows, facts, 1)
    assert all(r.what in page for r in rows)
    assert torch.__version__ in page


def test_a_training_with_turning_bases_and_its_frozen_twin(monkeypatch):
    class Noise:
        input = InputSpec((1, 28, 28))
        train = Split(
            torch.rand(256, 1, 28, 28).numpy(), torch.arange(256).numpy() % 10,
            torch.arange(256).numpy(),
        )  # fmt: skip

    monkeypatch.setattr("benchmarks.dynamic.load", lambda name: Noise)
    turning, fixed = Training(0.3, frozen=False), Training(0.3, frozen=True)
    spent = [turning.step(place) for place in range(EVERY)]
    assert spent[0] > 0  # augmented
    assert max(turning.ranks) < 40  # and truncated
    fixed.follow(turning)
    assert fixed.ranks == turning.ranks
    bases = fixed.model.net.fc1.U.detach().clone()
    for place in range(EVERY):
        fixed.step(place)
    assert torch.equal(fixed.model.net.fc1.U, bases)
    assert fixed.ranks == turning.ranks
