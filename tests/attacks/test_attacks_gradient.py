"""FGSM and PGD against closed forms on linear models, and the promises of ``run``."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from sepdeploy import attacks
from sepdeploy.attacks.gradient import frozen
from sepdeploy.errors import BadInput
from sepdeploy.threat import Attack

FGSM, PGD = "fgsm", "pgd-40"


class Linear(nn.Module):
    """Two classes with logits (0, w·x + b)."""

    def __init__(self, features=12, seed=0):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.w = nn.Parameter(torch.randn(features, generator=generator))
        self.b = nn.Parameter(torch.zeros(()))
        self.eval()

    def forward(self, x):
        score = x.flatten(1) @ self.w + self.b
        return torch.stack([torch.zeros_like(score), score], dim=1)


def images_and_labels(n=6, features=12, seed=1, low=0.0, high=1.0):
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(n, features, generator=generator) * (high - low) + low
    return images, torch.arange(n) % 2


def ascent_direction(model, labels):
    """The direction in which the loss of each sample grows: against its class."""
    return torch.where(labels == 1, -1.0, 1.0)[:, None] * model.w.detach()


def small_net(features=12, seed=3):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(features, 16), nn.ReLU(), nn.Linear(16, 4)).eval()


@pytest.mark.slow
@given(st.floats(0.001, 0.9), st.integers(0, 20))
def test_linf_attacks_reach_the_optimum_of_a_linear_model(eps, seed):
    model = Linear(seed=seed)
    images, labels = images_and_labels(seed=seed)
    best = (images + eps * ascent_direction(model, labels).sign()).clamp(0, 1)
    for spec in (FGSM, PGD):
        found = attacks.run(model, images, labels, Attack(spec, eps))
        assert torch.allclose(found, best, rtol=0, atol=1e-6)


@pytest.mark.slow
@given(st.floats(0.001, 0.2), st.integers(0, 20))
def test_l2_attacks_reach_the_optimum_of_a_linear_model(eps, seed):
    model = Linear(seed=seed)
    images, labels = images_and_labels(seed=seed, low=0.3, high=0.7)  # the box never binds
    direction = ascent_direction(model, labels)
    best = images + eps * direction / direction.norm(dim=1, keepdim=True)
    for spec in (FGSM, "pgd-60"):
        found = attacks.run(model, images, labels, Attack(spec, eps, "l2"))
        assert torch.allclose(found, best, rtol=0, atol=0.02 * eps)


def l2_optimum(images, direction, eps):
    """max w·δ over ‖δ‖ <= eps and 0 <= x + δ <= 1: δ = clip(λ w), λ found by bisection."""
    low, high = torch.zeros(len(images), 1), torch.full((len(images), 1), 1e4)
    for _ in range(80):
        middle = (low + high) / 2
        delta = (images + middle * direction).clamp(0, 1) - images
        long = delta.norm(dim=1, keepdim=True) > eps
        low, high = torch.where(long, low, middle), torch.where(long, middle, high)
    return (images + low * direction).clamp(0, 1)


@pytest.mark.slow
@given(st.floats(0.1, 2.0), st.integers(0, 20))
def test_l2_attacks_never_beat_the_optimum_in_the_box(eps, seed):
    model = Linear(seed=seed)
    images, labels = images_and_labels(seed=seed)
    direction = ascent_direction(model, labels)
    best = (direction * l2_optimum(images, direction, eps)).sum(dim=1)
    clean = (direction * images).sum(dim=1)
    found = attacks.run(model, images, labels, Attack("pgd-100", eps, "l2"))
    gained = (direction * found).sum(dim=1) - clean
    assert (gained <= best - clean + 1e-4).all()
    assert (gained >= 0.8 * (best - clean)).all()


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("spec", [FGSM, "pgd-5"])
@given(eps=st.floats(1e-4, 1), seed=st.integers(0, 20))
def test_the_budget_is_never_exceeded(norm, spec, eps, seed):
    images, labels = images_and_labels(seed=seed)
    found = attacks.run(small_net(), images, labels, Attack(spec, eps, norm, restarts=2))
    delta = found.double() - images.double()
    length = delta.abs().amax(dim=1) if norm == "linf" else delta.norm(dim=1)
    assert float(length.max()) <= eps
    assert found.dtype == torch.float32
    assert 0 <= float(found.min()) <= float(found.max()) <= 1


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("spec", [FGSM, PGD])
def test_a_radius_of_zero_changes_no_bit(norm, spec):
    images, labels = images_and_labels()
    found = attacks.run(small_net(), images, labels, Attack(spec, 0, norm))
    assert torch.equal(found, images)
    assert found.data_ptr() != images.data_ptr()


def test_attacks_raise_the_loss():
    model = small_net()
    images, labels = images_and_labels(40)
    losses = [
        F.cross_entropy(model(attacks.run(model, images, labels, Attack(spec, 0.2))), labels)
        for spec in ("pgd-1", "pgd-20")
    ]
    assert F.cross_entropy(model(images), labels) < losses[0] < losses[1]


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_results_do_not_depend_on_batching(norm):
    model = Linear()
    images, labels = images_and_labels(9)
    ids = torch.arange(9) * 31 + 4
    attack = Attack("pgd-3", 0.3, norm, step_size=0.01, seed=5)
    whole = attacks.run(model, images, labels, attack, ids=ids)
    for size in (1, 2, 5):
        cut = attacks.run(model, images, labels, attack, ids=ids, batch_size=size)
        assert torch.allclose(cut, whole, rtol=0, atol=1e-6)
    back = torch.arange(8, -1, -1)
    turned = attacks.run(model, images[back], labels[back], attack, ids=ids[back])
    assert torch.allclose(turned[back], whole, rtol=0, atol=1e-6)
    other = attacks.run(model, images, labels, attack, ids=ids + 1)
    assert not torch.allclose(other, whole, rtol=0, atol=1e-3)


def test_the_seed_decides_the_start():
    images, labels = images_and_labels()
    runs = [
        attacks.run(small_net(), images, labels, Attack("pgd-2", 0.3, seed=seed))
        for seed in (0, 0, 1)
    ]
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


class Ripples(nn.Module):
    """A rugged landscape in which the start decides which peak is found."""

    def forward(self, x):
        score = 1.6 - torch.sin(40 * x).mean(dim=1) - x.mean(dim=1)
        return torch.stack([score, torch.zeros_like(score)], dim=1)


def test_more_restarts_keep_the_worst_per_sample():
    model = Ripples().eval()
    images = torch.full((60, 3), 0.5)
    labels = torch.zeros(60, dtype=torch.long)
    attack = Attack("pgd-10", 0.4, step_size=0.01, seed=2)
    runs = [attacks.run(model, images, labels, replace(attack, restarts=r)) for r in (1, 2, 8)]
    fooled = [model(x).argmax(dim=1) != labels for x in runs]
    losses = [F.cross_entropy(model(x), labels, reduction="none") for x in runs]
    assert fooled[0].sum() < fooled[1].sum() < fooled[2].sum() < 60
    for less, more in ((0, 1), (1, 2)):
        assert (fooled[more] | ~fooled[less]).all()  # nothing that was fooled stands again
        assert (losses[more][~fooled[more]] >= losses[less][~fooled[more]]).all()
        # what already fooled the model stays as it was first found
        assert torch.equal(runs[more][fooled[less]], runs[less][fooled[less]])


class Watcher(nn.Module):
    """Counts forward passes and sees whether parameters could get gradients."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(12, 4)
        self.frozen = nn.Parameter(torch.ones(()), requires_grad=False)
        self.calls, self.trainable = 0, 0

    def forward(self, x):
        self.calls += 1
        if torch.is_grad_enabled():
            self.trainable += sum(p.requires_grad for p in self.parameters())
        return self.inner(x) * self.frozen


def test_only_input_gradients_are_computed():
    model = Watcher().eval()
    images, labels = images_and_labels()
    with torch.no_grad():  # an attack needs gradients whatever surrounds it
        attacks.run(model, images, labels, Attack("pgd-7", 0.1))
    assert model.calls == 8  # one sees which images stand
    assert model.trainable == 0
    assert all(p.grad is None for p in model.parameters())
    assert [p.requires_grad for p in model.parameters()] == [False, True, True]


def test_parameters_thaw_after_an_error():
    model = Watcher()
    with pytest.raises(ZeroDivisionError), frozen(model):
        raise ZeroDivisionError
    assert [p.requires_grad for p in model.parameters()] == [False, True, True]


def test_inputs_are_left_alone():
    images, labels = images_and_labels()
    before = images.clone()
    attacks.run(small_net(), images, labels, Attack(PGD, 0.2, restarts=2))
    assert torch.equal(images, before)
    assert not images.requires_grad


def test_nothing_to_attack():
    empty = attacks.run(small_net(), torch.zeros(0, 12), torch.zeros(0).long(), Attack(PGD, 0.1))
    assert empty.shape == (0, 12)


def test_training_mode_is_refused():
    images, labels = images_and_labels()
    model = small_net()
    model[1].train()  # one module is enough
    with pytest.raises(BadInput, match="training mode"):
        attacks.run(model, images, labels, Attack(PGD, 0))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": torch.full((6, 12), 1.5)}, "image values run from 1.5"),
        ({"images": torch.full((6, 12), float("nan"))}, "image values run from nan"),
        ({"images": torch.zeros(6, 12, dtype=torch.float64)}, "float64"),
        ({"labels": torch.zeros(5).long()}, "5 labels"),
    ],
)
def test_bad_images(change, message):
    images, labels = images_and_labels()
    given = {"images": images, "labels": labels} | change
    with pytest.raises(BadInput, match=message):
        attacks.run(small_net(), **given, attack=Attack(PGD, 0.1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"eps": -0.1}, "eps"),
        ({"eps": float("nan")}, "eps"),
        ({"norm": "l1"}, "unknown norm 'l1'"),
        ({"restarts": 0}, "restarts"),
        ({"step_size": 0.0}, "step size"),
        ({"step_size": float("nan")}, "step size"),
    ],
)
def test_bad_attacks(change, message):
    with pytest.raises(BadInput, match=message):
        Attack(**{"name": PGD, "eps": 0.1} | change)
