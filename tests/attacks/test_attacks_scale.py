"""What changes no decision of a network changes no attack on it; what has no gradient is said."""

from __future__ import annotations

from functools import cache

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sepdeploy import attacks, data
from sepdeploy.attacks import scores
from sepdeploy.attacks.losses import right
from sepdeploy.errors import BadInput
from sepdeploy.layers import KronLinear
from sepdeploy.threat import Attack

RADII = {"linf": 0.08, "l2": 0.6}  # the nets keep 20 to 80 %


class Then(nn.Module):
    """A network with something behind (or before) it."""

    def __init__(self, net, after=lambda z: z, before=lambda x: x):
        super().__init__()
        self.net, self.after, self.before = net, after, before

    def forward(self, x):
        return self.after(self.net(self.before(x)))


@cache
def digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    ds = data.load("digits")
    return (
        torch.tensor(ds.train.batch(slice(None))),
        torch.tensor(ds.train.labels),
        torch.tensor(ds.test.batch(slice(0, 200))),
        torch.tensor(ds.test.labels[:200]),
    )


@cache
def trained(name: str) -> nn.Module:
    torch.manual_seed(0)
    net = {
        "mlp": lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)),
        "cnn": lambda: nn.Sequential(
            nn.Conv2d(1, 8, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(128, 10)
        ),
        "kron": lambda: nn.Sequential(
            nn.Flatten(), KronLinear((8, 8), (16, 16)), nn.ReLU(), nn.Linear(256, 10)
        ),
    }[name]()
    images, labels, *_ = digits()
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    for index in torch.randint(len(images), (150, 64)):
        optimizer.zero_grad()
        F.cross_entropy(net(images[index]), labels[index]).backward()
        optimizer.step()
    return net.eval()


def standing(model: nn.Module, name: str, norm: str) -> float:
    """Percent right on attacked images, by the plain network's own decision."""
    *_, images, labels = digits()
    found = attacks.run(model.eval(), images, labels, Attack(name, RADII[norm], norm))
    with torch.no_grad():
        return 100 * float(right(trained_of(model)(found), labels).float().mean())


def trained_of(model: nn.Module) -> nn.Module:
    return model.net if isinstance(model, Then) else model


AFTER = {
    **{f"x{k:g}": (lambda z, k=k: z * k) for k in (1e-30, 1e-6, 10.0, 1e3)},
    "softmax": lambda z: z.softmax(1),
    "sharp softmax": lambda z: torch.softmax(100 * z, dim=-1),
    "log-softmax": lambda z: F.log_softmax(30 * z, dim=1),
    "sigmoid": lambda z: torch.sigmoid(10 * z),
    "module": nn.Sequential(nn.Softmax(1)),
}


@pytest.mark.parametrize("norm", RADII)
@pytest.mark.parametrize("name", ["fgsm", "pgd-10"])
@pytest.mark.parametrize("kind", ["mlp", "cnn", "kron"])
def test_no_scale_and_no_softmax_changes_an_attack(kind: str, name: str, norm: str) -> None:
    net = trained(kind)
    plain = standing(net, name, norm)
    assert 2 < plain < 95
    found = {what: standing(Then(net, after), name, norm) for what, after in AFTER.items()}
    assert max(abs(value - plain) for value in found.values()) <= 0.5, (plain, found)


@pytest.mark.parametrize("kind", ["mlp", "cnn"])
def test_never_weaker_than_pgd_on_the_cross_entropy(kind: str) -> None:
    net, (*_, images, labels) = trained(kind), digits()
    attack = Attack("pgd-20", RADII["linf"])
    point = images.clone()  # the textbook's, written out
    for _ in range(attack.steps):
        point.requires_grad_(True)
        (slope,) = torch.autograd.grad(F.cross_entropy(net(point), labels), point)
        near = torch.clamp(
            point.detach() + attack.step * slope.sign(), images - 0.08, images + 0.08
        )
        point = near.clamp(0, 1)
    textbook = 100 * float(right(net(point), labels).float().mean())
    assert textbook - 6 < standing(net, "pgd-20", "linf") < textbook + 1


@pytest.mark.parametrize("norm", RADII)
@pytest.mark.parametrize(
    "before",
    [lambda x: torch.round(x * 255) / 255, torch.sqrt, lambda x: x + 0 * x.sqrt().log().clamp(-9)],
    ids=["8 bits", "sqrt", "nan"],
)
def test_images_without_gradients_are_counted_and_searched(before, norm: str) -> None:
    net, (*_, images, labels) = trained("mlp"), digits()
    model = Then(net, before=before).eval()
    attack = Attack("pgd-5", 2.5 * RADII[norm], norm)
    made = attacks.make(model, images, labels, attack)
    assert made.images.isfinite().all()
    assert made.blind.float().mean() > 0.9
    clean = right(model(images), labels).float().mean()
    assert right(model(made.images), labels).float().mean() < 0.6 * clean
    assert not attacks.make(net, images, labels, attack).blind.any()


@pytest.mark.parametrize(
    ("after", "labels", "message"),
    [
        (lambda z: z[:, :1], None, "(5, 1) for 5 images"),
        (lambda z: z[:, :, None, None], None, "(5, 10, 1, 1) for 5 images"),
        (lambda z: z.detach(), None, "does not depend on its input"),
        (lambda z: torch.ones_like(z), None, "does not depend on its input"),
        (lambda z: z[:, :3], torch.full((5,), 3), "labels go up to 3, the model has 3 classes"),
        (lambda z: z, torch.full((5,), -1), "label -1 is no class"),
        (lambda z: z, torch.rand(5), "labels are torch.float32"),
        (lambda z: z, torch.zeros(5, 1).long(), "labels are torch.int64 (5, 1)"),
    ],
)
@pytest.mark.parametrize("name", ["fgsm", "pgd-3"])
def test_what_cannot_be_attacked_is_said(after, labels, message: str, name: str) -> None:
    model = Then(trained("mlp"), after).eval()
    given = torch.zeros(5).long() if labels is None else labels
    with pytest.raises(BadInput) as caught:
        attacks.run(model, digits()[2][:5], given, Attack(name, 0.1))
    assert message in caught.value.message


def test_labels_of_any_integer_type() -> None:
    net, (*_, images, labels) = trained("mlp"), digits()
    want = attacks.run(net, images[:9], labels[:9], Attack("pgd-3", 0.1))
    for kind in (torch.int32, torch.uint8):
        found = attacks.run(net, images[:9], labels[:9].to(kind), Attack("pgd-3", 0.1))
        assert torch.equal(found, want)


@pytest.mark.parametrize(("last", "times"), [(nn.Identity(), 1), (nn.Softmax(dim=1), 3)])
def test_only_networks_that_end_in_a_softmax_are_watched(monkeypatch, last, times: int) -> None:
    """Watching costs as much as a small network's own pass."""
    made = []

    class Counted(scores._Watch):
        def __init__(self) -> None:
            made.append(self)
            super().__init__()

    monkeypatch.setattr(scores, "_Watch", Counted)
    logits = nn.Linear(5, 3)
    found = scores.scores_of(nn.Sequential(logits, last))
    images = torch.rand(4, 5)
    for _ in range(3):
        assert torch.equal(found(images), logits(images))
    assert len(made) == times
