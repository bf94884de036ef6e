from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.distributions import Categorical, kl_divergence

from sepdeploy.threat import Attack
from sepdeploy.training.objectives import OBJECTIVES
from sepdeploy.training.objectives.batch import Batch, Terms
from sepdeploy.training.objectives.inner import divergence, evaluating

ATTACK = Terms(Attack("pgd-7", 0.1, seed=4, step_size=0.025))


def make_batch(n=10, features=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    images = 0.3 + 0.4 * torch.rand(n, features, generator=generator)
    return Batch(images, torch.arange(n) % 2, torch.arange(n) + 50)


def linear(features=6, seed=1):
    torch.manual_seed(seed)
    return nn.Linear(features, 2)


def hardest(model, batch, eps):
    """The worst image in an L∞ ball for a linear model of two classes."""
    w = (model.weight[1] - model.weight[0]).detach()
    sign = torch.where(batch.labels == 1, -1.0, 1.0)[:, None]
    return batch.images + eps * sign * w.sign()


def test_natural_is_cross_entropy():
    model, batch = linear(), make_batch()
    expected = F.cross_entropy(model(batch.images), batch.labels)
    assert torch.allclose(OBJECTIVES["natural"](model, batch, ATTACK), expected)


def test_pgd_at_is_the_loss_at_the_worst_image():
    model, batch = linear(), make_batch()
    attack = Terms(
        Attack("pgd-8", 0.1, seed=4, step_size=0.025)
    )  # 8 · ε/4 crosses the ball from any start
    expected = F.cross_entropy(model(hardest(model, batch, 0.1)), batch.labels)
    found = OBJECTIVES["pgd-at"](model, batch, attack).item()
    assert found == pytest.approx(expected.item(), abs=1e-6)


def test_pgd_at_with_l2():
    model, batch = linear(), make_batch()
    w = (model.weight[1] - model.weight[0]).detach()
    sign = torch.where(batch.labels == 1, -1.0, 1.0)[:, None]
    worst = batch.images + 0.1 * sign * w / w.norm()
    attack = Terms(Attack("pgd-20", 0.1, "l2", seed=4, step_size=0.03))
    expected = F.cross_entropy(model(worst), batch.labels).item()
    assert OBJECTIVES["pgd-at"](model, batch, attack).item() == pytest.approx(expected, abs=1e-4)


def test_divergence_is_the_sum_of_kl_divergences():
    logits, other = torch.randn(5, 4), torch.randn(5, 4)
    expected = kl_divergence(Categorical(logits=other), Categorical(logits=logits)).sum()
    assert torch.allclose(divergence(logits, other.softmax(dim=1)), expected, atol=1e-6)


def test_trades_on_a_linear_model():
    # for two classes the divergence grows with the change of the logit difference, so its
    # maximum lies at one of the two opposite corners
    model, batch = linear(), make_batch()
    attack = Terms(Attack("pgd-40", 0.1, seed=4, step_size=0.025), trades_beta=3.0)
    w = (model.weight[1] - model.weight[0]).detach()
    clean = model(batch.images)
    corners = [model(batch.images + s * 0.1 * w.sign()) for s in (-1, 1)]
    kl = torch.stack(
        [kl_divergence(Categorical(logits=clean), Categorical(logits=c)) for c in corners]
    )
    natural = F.cross_entropy(clean, batch.labels)
    found = OBJECTIVES["trades"](model, batch, attack)
    assert found <= natural + 3 * kl.max(dim=0).values.mean() + 1e-5
    assert found >= natural + 3 * kl.min(dim=0).values.mean() - 1e-5


def test_the_trades_gradient_flows_through_both_arguments():
    model, batch = linear(), make_batch()
    beta = 5.0
    found = OBJECTIVES["trades"](
        model, batch, Terms(Attack("pgd-5", 0.1, seed=4, step_size=0.03), trades_beta=beta)
    )
    (gradient,) = torch.autograd.grad(found, model.weight)
    seen = []  # the adversarial images come last
    handle = model.register_forward_pre_hook(lambda m, x: seen.append(x[0].detach().clone()))
    OBJECTIVES["trades"](
        model, batch, Terms(Attack("pgd-5", 0.1, seed=4, step_size=0.03), trades_beta=beta)
    )
    handle.remove()
    clean, adversarial = model(batch.images), model(seen[-1])
    kl = kl_divergence(Categorical(logits=clean), Categorical(logits=adversarial)).mean()
    expected = F.cross_entropy(clean, batch.labels) + beta * kl
    (oracle,) = torch.autograd.grad(expected, model.weight)
    assert torch.allclose(gradient, oracle, atol=1e-6)
    assert (seen[-1] - batch.images).abs().max() <= 0.1 + 1e-7
    assert (seen[-1] - batch.images).abs().max() > 0.09


@pytest.mark.parametrize("name", ["pgd-at", "trades"])
def test_a_radius_of_zero_is_natural_training(name):
    model, batch = linear(), make_batch()
    attack = Terms(Attack("pgd-7", 0.0, seed=4, step_size=0.0))
    expected = F.cross_entropy(model(batch.images), batch.labels)
    found = OBJECTIVES[name](model, batch, attack).item()
    assert found == pytest.approx(expected.item(), abs=1e-6)


class Probe(nn.Module):
    """Records, call by call, the mode and whether parameters could get gradients."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Dropout(0.5))
        self.head = nn.Linear(5, 2)
        self.calls = []

    def forward(self, x):
        self.calls.append((self.training, any(p.requires_grad for p in self.parameters())))
        return self.head(self.net(x))


@pytest.mark.parametrize(("name", "clean"), [("pgd-at", 0), ("trades", 1)])
def test_attacks_run_in_evaluation_mode_without_parameter_gradients(name, clean):
    model, batch = Probe().train(), make_batch()
    model.net[1].eval()  # a module that was put aside stays aside
    loss = OBJECTIVES[name](model, batch, ATTACK)
    inner = model.calls[clean : clean + ATTACK.attack.steps]
    outer = model.calls[clean + ATTACK.attack.steps :]
    assert inner == [(False, False)] * ATTACK.attack.steps
    assert outer == [(True, True)] * (1 + clean)
    assert model.training
    assert model.head.training
    assert not model.net[1].training
    assert all(p.grad is None for p in model.parameters())
    loss.backward()
    assert all(p.grad is not None for p in model.head.parameters())


def test_batch_statistics_see_adversarial_images_once():
    model = Probe().train()
    OBJECTIVES["pgd-at"](model, make_batch(), ATTACK)
    assert int(model.net[1].num_batches_tracked) == 1


@pytest.mark.parametrize("name", ["pgd-at", "trades"])
def test_noise_follows_the_sample_not_the_batch(name):
    batch = make_batch(8)

    def adversarial_images(part, seed=4):
        model = linear()
        inputs = []
        model.register_forward_pre_hook(lambda m, x: inputs.append(x[0].detach().clone()))
        attack = Terms(
            Attack("pgd-1", 0.1, seed=seed, step_size=0.001)
        )  # the start survives one small step
        OBJECTIVES[name](model, part, attack)
        return inputs[-1]

    whole = adversarial_images(batch)
    index = torch.tensor([6, 1])
    part = Batch(batch.images[index], batch.labels[index], batch.ids[index])
    # one step is 0.001, and its sign may hang on the last bit; the noise is up to 0.1
    assert torch.allclose(adversarial_images(part), whole[index], rtol=0, atol=0.0021)
    assert (
        ((adversarial_images(batch, seed=5) - whole).abs() > 0.0021).any(dim=1).all()
    )  # there is noise


def test_modes_are_restored_after_an_error():
    model = Probe().train()
    model.head.eval()
    with evaluating(model):
        assert not any(m.training for m in model.modules())
    with pytest.raises(ZeroDivisionError), evaluating(model):
        raise ZeroDivisionError
    assert model.training
    assert model.net[2].training
    assert not model.head.training


@pytest.mark.parametrize("name", ["trades", "mart"])
def test_the_published_search_starts_beside_the_image_without_a_cut(name):
    """x + 0.001·N, then signed steps, each cut to the ball and to [0, 1], as in the released code.

    The noise at pixels 0 and 1 is kept until the first step; MART does so with inner = "near".
    """
    batch = make_batch()
    batch = Batch((batch.images > 0.5).float(), batch.labels, batch.ids)
    model, seen = linear(), []
    model.register_forward_pre_hook(lambda m, x: seen.append(x[0].detach().clone()))
    terms = Terms(
        Attack("pgd-4", 0.1, seed=4, step_size=0.03), inner="near" if name == "mart" else ""
    )
    OBJECTIVES[name](model, batch, terms)
    target = model(batch.images).softmax(dim=1).detach()
    points = seen[1:5] if name == "trades" else seen[:4]
    start = points[0]
    assert (start - batch.images).std().item() == pytest.approx(0.001, rel=0.3)
    assert (start < 0).any()
    assert (start > 1).any()
    for before, after in pairwise(points):
        leaf = before.clone().requires_grad_(True)
        logits = model(leaf)
        if name == "trades":
            loss = F.kl_div(logits.log_softmax(dim=1), target, reduction="sum")
        else:
            loss = F.cross_entropy(logits, batch.labels, reduction="sum")
        (slope,) = torch.autograd.grad(loss, leaf)
        moved = before + 0.03 * slope.sign()
        low, high = batch.images - 0.1, batch.images + 0.1
        expected = torch.minimum(torch.maximum(moved, low), high).clamp(0, 1)
        assert torch.allclose(after, expected, atol=1e-6)
