"""MART, FR and SAR against their formulas; inner attacks against their definitions."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sepdeploy.attacks.balls import BALLS
from sepdeploy.errors import BadInput
from sepdeploy.threat import Attack
from sepdeploy.training.objectives import INNER
from sepdeploy.training.objectives.alignment import alignment
from sepdeploy.training.objectives.batch import Batch, Terms
from sepdeploy.training.objectives.frequency import frequency, spectral_distance
from sepdeploy.training.objectives.inner import adversarial
from sepdeploy.training.objectives.mart import mart
from sepdeploy.training.objectives.pgd_at import pgd_at

ATTACK = Terms(Attack("pgd-4", 0.1, seed=3, step_size=0.03))


def attack_with(**changes):
    own = {k: changes.pop(k) for k in list(changes) if k in Attack.__dataclass_fields__}
    return replace(ATTACK, attack=replace(ATTACK.attack, **own), **changes)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(256, 5)
    ).double().float()  # fmt: skip


@pytest.fixture
def batch():
    torch.manual_seed(1)
    return Batch(torch.rand(16, 1, 8, 8), torch.randint(5, (16,)), torch.arange(16))


def test_mart_is_its_formula(model, batch):
    found = adversarial(model, batch, ATTACK)
    with torch.no_grad():
        p, q = model(batch.images).softmax(1), model(found).softmax(1)
    total = 0.0
    for n, y in enumerate(batch.labels):
        wrong = max(float(q[n, k]) for k in range(5) if k != y)
        bce = -math.log(float(q[n, y])) - math.log(1.0001 - wrong)
        kl = sum(float(p[n, k]) * math.log(float(p[n, k] / q[n, k])) for k in range(5))
        total += bce + ATTACK.mart_beta * kl * (1.0000001 - float(p[n, y]))
    assert float(mart(model, batch, ATTACK).detach()) == pytest.approx(total / 16, rel=1e-4)


def mart_by_hand(W, b, x, attacked, y, beta):
    """MART of a linear model with fixed attacked images, in float64 numpy."""

    def log_probabilities(images):
        z = images @ W.T + b
        return z - np.log(np.exp(z).sum(1, keepdims=True))

    clean, found = log_probabilities(x), log_probabilities(attacked)
    at = np.arange(len(y)), y
    wrong = np.exp(found)
    wrong[at] = 0
    bce = -found[at] - np.log(1.0001 - wrong.max(1))
    kl = (np.exp(clean) * (clean - found)).sum(1)
    return (bce + beta * kl * (1.0000001 - np.exp(clean)[at])).mean()


def test_the_mart_gradient_flows_through_all_its_terms():
    torch.manual_seed(2)
    net = nn.Linear(6, 4)
    batch = Batch(0.2 + 0.6 * torch.rand(12, 6), torch.arange(12) % 4, torch.arange(12))
    attack = attack_with(mart_beta=5.0)
    mart(net, batch, attack).backward()
    x, found = (t.double().numpy() for t in (batch.images, adversarial(net, batch, attack)))
    W, b = (p.detach().double().numpy() for p in (net.weight, net.bias))
    y, h = batch.labels.numpy(), 1e-5
    expected = np.empty_like(W)
    for at in np.ndindex(*W.shape):
        step = np.zeros_like(W)
        step[at] = h
        ends = [mart_by_hand(V, b, x, found, y, 5.0) for V in (W + step, W - step)]
        expected[at] = (ends[0] - ends[1]) / (2 * h)
    np.testing.assert_allclose(net.weight.grad.numpy(), expected, atol=2e-5)


def test_the_two_transform_of_a_difference_is_the_difference_of_transforms(model, batch):
    a, b = torch.randn(16, 5), torch.randn(16, 5)
    spectra = torch.fft.fft2(a) - torch.fft.fft2(b)
    expected = (spectra.real.abs() + spectra.imag.abs()).mean() / 2
    assert torch.allclose(spectral_distance(a - b, (0, 1)), expected, rtol=1e-5)


def test_the_batch_form_is_larger_by_the_root_of_the_batch():
    torch.manual_seed(0)
    D = torch.randn(128, 10)
    ratio = spectral_distance(D, (0, 1)) / spectral_distance(D, (1,))
    assert float(ratio) == pytest.approx(math.sqrt(128), rel=0.1)


@pytest.mark.parametrize("axes", ["batch-class", "class"])
def test_fr_is_cross_entropy_plus_distance(model, batch, axes):
    attack = attack_with(align_weight=0.7, align_axes=axes)
    found = adversarial(model, batch, attack)
    D = model(batch.images) - model(found)
    dims = (0, 1) if axes == "batch-class" else (1,)
    expected = F.cross_entropy(model(found), batch.labels) + 0.7 * spectral_distance(D, dims)
    assert torch.allclose(frequency(model, batch, attack), expected)
    off = attack_with(align_weight=0.0)
    for objective in (frequency, alignment):
        assert torch.allclose(objective(model, batch, off), pgd_at(model, batch, off))


def test_sar_aligns_logits_or_the_last_feature_map(model, batch):
    found = adversarial(model, batch, ATTACK)
    base = F.cross_entropy(model(found), batch.labels)
    logits = attack_with(align_weight=0.5)
    D = model(batch.images) - model(found)
    assert torch.allclose(alignment(model, batch, logits), base + 0.5 * spectral_distance(D, (1,)))
    maps = model[:2](batch.images) - model[:2](found)
    features = attack_with(align_weight=0.5, align_on="features")
    loss = alignment(model, batch, features)
    assert torch.allclose(loss, base + 0.5 * spectral_distance(maps, (2, 3)))
    loss.backward()
    assert all(p.grad is not None for p in model.parameters())
    assert not any(m._forward_hooks for m in model.modules())


def test_a_network_without_feature_maps(batch):
    flat = nn.Sequential(nn.Flatten(), nn.Linear(64, 5))
    with pytest.raises(BadInput, match="no feature map"):
        alignment(flat, batch, attack_with(align_on="features"))


@pytest.mark.parametrize("name", INNER)
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_inner_attacks_stay_in_the_ball_and_hurt(model, batch, name, norm):
    eps = 0.1 if norm == "linf" else 1.0
    attack = attack_with(inner=name, norm=norm, eps=eps, step_size=eps / 4)
    found = adversarial(model, batch, attack)
    delta = (found - batch.images).flatten(1)
    size = delta.abs().amax(1) if norm == "linf" else delta.norm(dim=1)
    reach = 3 * eps if name == "n-fgsm" else eps  # which steps from a start in twice the ball
    assert float(size.max()) <= reach * (1 + 1e-5)
    assert 0 <= float(found.min()) <= float(found.max()) <= 1
    with torch.no_grad():
        before = F.cross_entropy(model(batch.images), batch.labels)
        assert F.cross_entropy(model(found), batch.labels) > before or name == "kl"
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


def test_fgsm_is_one_signed_step(model, batch):
    x = batch.images.clone().requires_grad_()
    F.cross_entropy(model(x), batch.labels, reduction="sum").backward()
    expected = (batch.images + 0.1 * x.grad.sign()).clamp(0, 1)
    found = adversarial(model, batch, attack_with(inner="fgsm"))
    assert torch.allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_rs_fgsm_is_one_step_of_five_quarters_of_the_radius_from_a_random_start(norm):
    torch.manual_seed(5)
    net, eps = nn.Linear(40, 2), 0.1
    batch = Batch(0.3 + 0.4 * torch.rand(50, 40), torch.arange(50) % 2, torch.arange(50))
    attack = attack_with(inner="rs-fgsm", norm=norm, eps=eps)
    start = BALLS[norm](batch.images, eps).start(attack.attack.seed, batch.ids) - batch.images
    w = (net.weight[1] - net.weight[0]).detach().double().numpy()
    up = np.where(batch.labels == 1, -1, 1)[:, None]  # towards the other class
    if norm == "linf":
        moved = start.double().numpy() + 1.25 * eps * up * np.sign(w)
        expected = np.clip(moved, -eps, eps)
    else:
        moved = start.double().numpy() + 1.25 * eps * up * w / np.linalg.norm(w)
        expected = moved * np.minimum(1, eps / np.linalg.norm(moved, axis=1, keepdims=True))
    found = (adversarial(net, batch, attack) - batch.images).double().numpy()
    np.testing.assert_allclose(found, expected, atol=1e-6)
    if norm == "linf":  # ε(u + 5/4) against the way up, u uniform in ±1: at least ε/4, ε for 5/8
        along = found * up * np.sign(w) / eps
        assert along.min() >= 0.25 - 1e-5
        assert (along > 1 - 1e-5).mean() == pytest.approx(5 / 8, abs=0.03)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_n_fgsm_is_one_step_of_the_radius_from_noise_of_twice_the_radius(norm):
    torch.manual_seed(5)
    net, eps = nn.Linear(40, 2), 0.1
    batch = Batch(0.4 + 0.2 * torch.rand(50, 40), torch.arange(50) % 2, torch.arange(50))
    attack = attack_with(inner="n-fgsm", norm=norm, eps=eps)
    start = BALLS[norm](batch.images, 2 * eps).start(attack.attack.seed, batch.ids)
    assert ((start - batch.images).abs() > 1.9 * eps).any() == (norm == "linf")
    w = (net.weight[1] - net.weight[0]).detach()
    up = torch.where(batch.labels == 1, -1, 1)[:, None]  # towards the other class
    step = eps * up * (w.sign() if norm == "linf" else w / w.norm())
    found = adversarial(net, batch, attack)
    assert torch.allclose(found, (start + step).clamp(0, 1), atol=1e-6)


@pytest.mark.parametrize("name", INNER)
def test_noise_belongs_to_the_sample(model, batch, name):
    attack = attack_with(inner=name)
    whole = adversarial(model, batch, attack)
    half = Batch(batch.images[8:], batch.labels[8:], batch.ids[8:])
    assert torch.allclose(adversarial(model, half, attack), whole[8:], atol=1e-5)
    other = adversarial(model, batch, attack_with(inner=name, seed=4))
    assert torch.allclose(other, whole, atol=1e-5) == (
        name == "fgsm"
    )  # which starts at the image itself
