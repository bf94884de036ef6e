"""What a file is proven on: edges, louder inputs, the source's own rounding, random sources."""

import numpy as np
import pytest
import torch
from torch import nn

import sepdeploy as sd
from sepdeploy.exporters.modes import TOLERANCE
from sepdeploy.exports.witness import witnessed
from sepdeploy.measure.proof.parity import certify, moves
from sepdeploy.records import Parity

BATCHES = (1, 3)
IMAGES = np.random.default_rng(0).random((4, 6), np.float32)
WEIGHTS = np.random.default_rng(1).standard_normal((6, 3)).astype(np.float32)


def reference(ask, **options):
    return witnessed(ask, IMAGES, kind="data", batches=BATCHES, said_by="the net", **options)


def judged(logits, found):
    return certify(
        logits,
        found.outputs,
        Parity("r", "1", 1, 0.0, 0.0, 0.0, "data"),
        tolerance=found.tolerance,
        quantization="none",
    )


def linear(x):
    return x @ WEIGHTS


def sigmoid(x):
    return (1 / (1 + np.exp(-x.astype(np.float64)))).astype(np.float32)


def test_an_all_zero_an_all_one_and_a_constant_sample_are_asked():
    found = reference(linear)
    asked = {tuple(np.unique(row)) for row in found.inputs}
    assert {(0.0,), (1.0,), (0.5,)} <= asked
    assert found.ordinary == 4
    np.testing.assert_array_equal(found.inputs[:4], IMAGES)
    np.testing.assert_allclose(found.outputs, linear(found.inputs))
    assert found.tolerance == pytest.approx(np.full(7, TOLERANCE), rel=0.5)


def test_a_guard_that_was_dropped_is_seen():
    found = reference(lambda x: x / (np.abs(x).sum(1, keepdims=True) + np.float32(1e-8)))
    with np.errstate(invalid="ignore"):
        wrong = found.inputs / np.abs(found.inputs).sum(1, keepdims=True)
    assert not judged(wrong, found).passed
    assert judged(found.outputs, found).passed


def test_a_source_without_a_value_for_zeros_says_so():
    def ask(x):
        with np.errstate(invalid="ignore"):
            return x / np.abs(x).sum(1, keepdims=True)

    found = reference(ask)
    assert "all-zero" in found.notes[0]
    assert np.isfinite(found.outputs).all()
    assert len(found.inputs) == 6


def test_a_saturated_map_is_no_false_alarm_and_is_made_to_move():
    found = reference(lambda x: sigmoid(linear(x) - 13))
    rounded = np.round(found.outputs * 2.0**23) / 2.0**23  # as kernels do that compute near 1
    assert judged(rounded.astype(np.float32), found).passed
    assert not judged(np.zeros_like(rounded, np.float32), found).passed
    assert np.abs(found.outputs).max() > 0.02  # by louder samples
    assert found.ordinary == 4


@pytest.mark.parametrize("scale", [1.0, 1e-4, 1e-30])
def test_wrong_numbers_are_refused_at_every_scale(scale):
    found = reference(lambda x: linear(x) * np.float32(scale))
    assert judged(found.outputs, found).passed
    assert not judged(found.outputs * np.float32(1.001), found).passed
    assert not judged(np.zeros_like(found.outputs), found).passed
    assert not judged(found.outputs[::-1], found).passed


def test_own_rounding_widens_the_bound_and_no_more():
    """A difference of near equals: float32 gives it with three digits less."""

    def ask(x):
        return (linear(x) * np.float32(1001)) - (linear(x) * np.float32(1000))

    found = reference(ask, exact=lambda x: linear(x.astype(np.float64)))
    assert 1e-5 < np.max(found.tolerance) < 1e-2
    assert judged(linear(found.inputs), found).passed  # more exact than the source
    assert not judged(found.outputs * np.float32(1.02), found).passed


def test_constant_outputs_prove_nothing():
    found = reference(lambda x: np.ones((len(x), 3), np.float32))
    assert judged(found.outputs, found).passed
    assert not judged(found.outputs, found).proven
    assert not moves(found.outputs)
    zero = reference(lambda x: np.zeros((len(x), 3), np.float32))
    assert not judged(zero.outputs, zero).proven
    assert not judged(zero.outputs + np.float32(1e-3), zero).passed


def test_a_source_that_gives_other_numbers_every_time_is_refused():
    rng = np.random.default_rng(0)
    with pytest.raises(sd.BadInput, match="other numbers on every run") as caught:
        reference(lambda x: linear(x) + rng.standard_normal((len(x), 3)).astype(np.float32))
    assert "dropout" in caught.value.hint


def test_a_source_that_nothing_can_agree_with_is_not_proven():
    """Every bit of the input decides: what is left is that the file is not something else."""

    def ask(x):
        return np.modf(linear(x).astype(np.float64) * 2**22)[0].astype(np.float32)

    found = reference(ask)
    assert any("not proven" in note for note in found.notes)
    assert not judged(found.outputs, found).proven


class Counting(nn.Module):
    def __init__(self):
        super().__init__()
        self.f, self.calls = nn.Linear(6, 3), 0

    def forward(self, x):
        self.calls += 1
        return self.f(x) * self.calls


class Dropping(nn.Module):
    def __init__(self):
        super().__init__()
        self.f = nn.Linear(6, 30)  # of three, one in eight masks comes twice

    def forward(self, x):
        return nn.functional.dropout(self.f(x), 0.5, training=True)


@pytest.mark.parametrize("net", [Counting, Dropping])
def test_a_network_that_gives_other_numbers_is_told_so(tmp_path, net):
    with pytest.raises(sd.BadInput, match="gives other numbers on every run"):
        sd.export(sd.wrap(net(), (6,)).eval(), tmp_path / "net", eval_pack=False)


@pytest.mark.slow
def test_a_constant_network_is_exported_and_said_to_be_unproven(tmp_path):
    net = nn.Linear(6, 3)
    nn.init.zeros_(net.weight)
    manifest = sd.export(
        sd.wrap(net, (6,)).eval(), tmp_path / "net", eval_pack=False, formats=("onnx",)
    )
    (artifact,) = manifest.artifacts
    assert not any(p.proven for p in artifact.parity)
    assert "not proven, the torch model gives the same output" in artifact.notes[0]


@pytest.mark.slow
def test_a_saturated_network_is_exported(tmp_path):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 3), nn.Sigmoid())
    nn.init.constant_(net[0].bias, -13)
    manifest = sd.export(sd.wrap(net, (6,)).eval(), tmp_path / "net", eval_pack=False)
    assert all(p.proven for a in manifest.artifacts for p in a.parity)
