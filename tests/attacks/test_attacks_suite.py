"""The attacks of an evaluation against closed forms, and what all of them promise."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from sepdeploy import attacks
from sepdeploy.attacks import apgd, carlini_wagner, fab, projected, square
from sepdeploy.attacks.fab import nearest
from sepdeploy.attacks.goals import Goal, cross_entropy, dlr, rivals, scale_of
from sepdeploy.threat import parse_attack

ALL = (
    "apgd-ce-20", "apgd-dlr-20", "apgd-t-10", "fab-t-10", "square@400", "jitter-10x2",
    "pgd-margin-10", "pgd-dlr-10x2", "pgd-t-20", pytest.param("aa-fast", marks=pytest.mark.slow),
)  # fmt: skip
LINF_AND_L2 = [
    pytest.param(*(name.values if hasattr(name, "values") else (name,)), norm,
                 marks=getattr(name, "marks", ()))
    for name in ALL for norm in ("linf", "l2")
] + [pytest.param("cw-100", "l2", marks=pytest.mark.slow)]  # fmt: skip


class Linear(nn.Module):
    """Two classes that one hyperplane parts."""

    def __init__(self, features=16, seed=0, scale=1.0):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.w = nn.Parameter(torch.randn(features, generator=generator) * scale)
        self.b = nn.Parameter(-0.5 * self.w.detach().sum())
        self.eval()

    def forward(self, x):
        score = x.flatten(1) @ self.w + self.b
        return torch.stack([-score, score], dim=1)


def net(classes=5, scale=1.0, seed=3):
    torch.manual_seed(seed)
    found = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, classes)).eval()
    with torch.no_grad():
        found[3].weight.mul_(scale)
        found[3].bias.mul_(scale)
    return found


def pictures(n=24, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(n, 1, 8, 8, generator=generator)


def stands(model, images, labels):
    with torch.no_grad():
        return model(images).argmax(dim=1) == labels


def attacked(name, model, images, labels, eps, norm="linf"):
    return attacks.run(model, images, labels, parse_attack(name, eps, norm))


@pytest.mark.parametrize(
    ("name", "norm"),
    [p for p in LINF_AND_L2 if not p.values[0].startswith(("square", "jitter"))],
)
def test_a_linear_classifier_falls_just_beyond_its_distance(name, norm):
    """Distance to the plane: |w·x + b| over ‖w‖₁ in L∞ and over ‖w‖₂ in L2."""
    model, far = Linear(), 0.05
    generator = torch.Generator().manual_seed(5)
    images = 0.5 + 0.02 * torch.randn(24, 16, generator=generator)  # far from the box
    labels = torch.arange(24) % 2
    with torch.no_grad():
        length = model.w.abs().sum() if norm == "linf" else model.w.norm()
        wanted = far * length * (2 * labels - 1)
        images += ((wanted - model(images)[:, 1]) / model.w.square().sum())[:, None] * model.w
    assert float((images - 0.5).abs().max()) < 0.4
    assert stands(model, attacked(name, model, images, labels, 0.97 * far, norm), labels).all()
    fallen = attacked(name, model, images, labels, 1.05 * far, norm)
    assert not stands(model, fallen, labels).any()


@pytest.mark.parametrize(("name", "norm"), LINF_AND_L2)
def test_every_attack_stays_in_the_ball_and_answers_by_the_image(name, norm):
    model, images = net(), pictures()
    with torch.no_grad():
        labels = model(images).argmax(dim=1)
    labels[:4] = (labels[:4] + 1) % 5  # wrong from the start: nothing is left to attack
    eps = 0.08 if norm == "linf" else 0.6
    found = attacked(name, model, images, labels, eps, norm)
    moved = found.double() - images.double()
    reach = moved.abs().amax() if norm == "linf" else moved.flatten(1).norm(dim=1).amax()
    assert float(reach) <= np.float32(eps)
    assert float(found.min()) >= 0
    assert float(found.max()) <= 1
    assert torch.equal(found[:4], images[:4])
    verdict = stands(model, found, labels)
    assert int(verdict.sum()) < len(images) - 4
    parts = [
        attacks.run(
            model, images[k : k + 10], labels[k : k + 10], parse_attack(name, eps, norm),
            ids=torch.arange(k, min(k + 10, len(images))),
        )
        for k in range(0, len(images), 10)
    ]  # fmt: skip
    assert int((stands(model, torch.cat(parts), labels) != verdict).sum()) <= 1  # a last bit


@pytest.mark.parametrize("name", ALL)
def test_the_scale_of_logits_changes_no_verdict(name):
    images, plain = pictures(), net()
    with torch.no_grad():
        labels = plain(images).argmax(dim=1)
    expected = stands(plain, attacked(name, plain, images, labels, 0.05), labels)
    for power in (-6, -3, 3, 6):
        model = net(scale=2.0 ** (10 * power / 3))  # a power of two rounds nothing
        found = stands(model, attacked(name, model, images, labels, 0.05), labels)
        assert int((found != expected).sum()) <= 1


@pytest.mark.slow
def test_more_room_never_helps_the_network():
    model, images = net(), pictures()
    with torch.no_grad():
        labels = model(images).argmax(dim=1)
    counts = [
        int(stands(model, attacked("aa-fast", model, images, labels, eps), labels).sum())
        for eps in (0.0, 0.01, 0.02, 0.03, 0.05)
    ]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] == len(images)
    assert counts[-1] < counts[1]


@given(st.integers(0, 10_000), st.sampled_from(["linf", "l2"]))
@settings(max_examples=40)
def test_the_way_to_a_hyperplane_is_the_shortest(seed, norm):
    """The oracle is a bisection on the same water level in float64."""
    rng = np.random.default_rng(seed)
    point, slope = rng.random((3, 20)), rng.standard_normal((3, 20))
    slope[rng.random((3, 20)) < 0.2] = 0
    rise = rng.standard_normal(3) * rng.choice([0.1, 1, 100])
    found = nearest(
        torch.tensor(point, dtype=torch.float32), torch.tensor(slope, dtype=torch.float32),
        torch.tensor(rise, dtype=torch.float32), norm,
    ).double().numpy()  # fmt: skip
    for row in range(3):
        towards = slope[row] * np.sign(rise[row])
        room = np.where(towards > 0, 1 - point[row], point[row])
        speed = np.ones(20) if norm == "linf" else np.abs(towards)

        def gain(level, towards=towards, room=room, speed=speed):
            return float(np.sum(np.abs(towards) * np.minimum(level * speed, room)))

        low, high = 0.0, 1e6
        for _ in range(200):
            middle = (low + high) / 2
            low, high = (middle, high) if gain(middle) < abs(rise[row]) else (low, middle)
        best = np.sign(towards) * np.minimum(high * speed, room)
        np.testing.assert_allclose(found[row], best, atol=2e-4)


def test_the_losses_are_those_of_the_papers():
    logits = torch.tensor([[2.0, 5.0, 1.0, -3.0], [4.0, 3.5, 0.0, 1.0]], requires_grad=True)
    labels = torch.tensor([1, 1])
    goal = Goal(labels, torch.ones(2))
    # −(z_y − max_{i≠y} z_i)/(z_π1 − z_π3)
    expected = [-(5 - 2) / (5 - 1), -(3.5 - 4) / (4 - 1)]
    assert dlr(logits, goal).tolist() == pytest.approx(expected)
    targeted = Goal(labels, torch.ones(2), torch.tensor([3, 0]))
    # −(z_y − z_t)/(z_π1 − (z_π3 + z_π4)/2)
    expected = [-(5 + 3) / (5 - (1 - 3) / 2), -(3.5 - 4) / (4 - (1 + 0) / 2)]
    assert dlr(logits, targeted).tolist() == pytest.approx(expected)
    (own,) = torch.autograd.grad(cross_entropy(logits, goal).sum(), logits)
    (plain,) = torch.autograd.grad(F.cross_entropy(logits, labels, reduction="sum"), logits)
    assert torch.allclose(F.normalize(own), F.normalize(plain), atol=1e-6)
    assert rivals(logits, labels).tolist() == [[0, 2, 3], [0, 3, 2]]


def test_a_spread_of_nothing_is_no_division_by_zero():
    assert scale_of(torch.zeros(2, 3)).tolist() == [1.0, 1.0]


def test_square_asks_no_more_than_it_may_and_only_for_what_stands():
    asked = []

    def predict(batch):
        asked.append(len(batch))
        score = batch.reshape(len(batch), -1).mean(axis=1) - 0.5
        return np.stack([-score, score], axis=1).astype(np.float32)

    images = (
        np.full((3, 1, 6, 6), 0.5, np.float32) + np.float32([0.01, 0.2, -0.3])[:, None, None, None]
    )
    labels = np.array([1, 1, 1])
    search = square.SQUARE.search(parse_attack("square@50", 0.05))
    found = search.run(predict, images, labels, np.arange(3))
    assert len(asked) <= 51  # the images themselves, then the queries
    assert asked[0] == 3
    assert asked[1] == 2  # the third is wrong as it is
    assert asked[-1] == 1  # the first fell
    assert predict(found).argmax(axis=1).tolist() == [0, 1, 0]


@pytest.mark.parametrize(
    ("method", "shown"),
    [
        (apgd.TARGETED, "APGD(loss='dlr', targets=9, rho=0.75"),
        (fab.TARGETED, "FAB(targets=9, alpha_max=0.1"),
        (square.SQUARE, "Square(share=0.8"),
        (carlini_wagner.L2, "CarliniWagner(searches=9"),
        (projected.JITTER, "Jitter(loss='jitter', targets=0, sharpness=10.0"),
    ],
)
def test_an_attack_says_what_decides_its_result(method, shown):
    assert repr(method).startswith(shown)
