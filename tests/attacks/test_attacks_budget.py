"""Attack names, radii, step sizes; per-sample noise; the constraint holding exactly."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sepdeploy.attacks import parse_attack
from sepdeploy.attacks.balls import BALLS, L2Ball, LinfBall, float32_floor
from sepdeploy.attacks.draws import derive_seed
from sepdeploy.attacks.noise import gaussian, uniform
from sepdeploy.errors import BadInput
from sepdeploy.threat import Attack, default_step_size, parse_eps

WORD = (1 << 64) - 1


@pytest.mark.parametrize(
    ("text", "name", "steps"),
    [
        ("fgsm", "fgsm", 1),
        ("FGSM-1", "fgsm", 1),
        ("pgd-40", "pgd-40", 40),
        ("pgd-1", "pgd-1", 1),
        (" Pgd-7 ", "pgd-7", 7),
        ("pgd", "pgd-20", 20),
    ],
)
def test_names(text, name, steps):
    found = parse_attack(text, 0.1, "l2", seed=3)
    assert found == Attack(name, 0.1, "l2", seed=3)
    assert found.steps == steps
    assert parse_attack(found.name, 0.1, "l2", seed=3) == found


def test_an_attack_prints_what_decides_its_result():
    shown = repr(Attack("pgd-40", 0.1, "l2", restarts=3, seed=5, step_size=0.01))
    for part in ("pgd-40", "0.1", "l2", "restarts=3", "seed=5", "step_size=0.01"):
        assert part in shown


def test_only_the_very_attack_is_taken_for_a_stored_one():
    attack = Attack("pgd-40", 8 / 255, seed=1)
    assert attack.made(attack.details() | {"made_by": "another version"})
    others = [None, {}, *(attack.details() | {k: 9} for k in attack.details())]
    assert not any(attack.made(stored) for stored in others)


@pytest.mark.parametrize("text", ["pgd-0", "pgd--3", "pgd-x", "pgd-1e3", "pgd-9999999", "fgsm-2"])
def test_impossible_steps(text):
    with pytest.raises(BadInput, match="step"):
        parse_attack(text, 0.1)


@pytest.mark.parametrize("text", ["pdg-40", "", "squares", "-3"])
def test_unknown_attacks(text):
    with pytest.raises(BadInput, match="unknown attack"):
        parse_attack(text, 0.1)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("8/255", 8 / 255),
        ("0.1", 0.1),
        (" 8 / 255 ", 8 / 255),
        (0.3, 0.3),
        (0, 0.0),
        ("1e-3", 1e-3),
    ],
)
def test_radii(text, value):
    assert parse_eps(text) == value


@pytest.mark.parametrize("text", ["-0.1", "8/0", "nan", "inf", "a", "", "8/255/2", -1, math.nan])
def test_impossible_radii(text):
    with pytest.raises(BadInput, match="eps"):
        parse_eps(text)


@given(st.floats(1e-6, 10), st.integers(1, 1000))
def test_default_steps_can_cross_the_ball(eps, steps):
    size = default_step_size(eps, steps)
    assert size * steps >= 1.2499 * eps
    assert size <= 1.25 * eps


def test_default_steps_of_the_usual_attacks():
    assert default_step_size(0.1, 7) == pytest.approx(0.025)
    assert default_step_size(8 / 255, 10) == pytest.approx(2 / 255)
    assert default_step_size(0.1, 40) == pytest.approx(0.01)


def splitmix(z):
    """The finalizer of SplitMix64 in unbounded integers."""
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & WORD
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & WORD
    return z ^ (z >> 31)


def test_splitmix_reference_value():
    # first output of the published generator seeded with 0
    assert splitmix(0x9E3779B97F4A7C15) == 0xE220A8397B1DCDAF


@given(st.integers(0, (1 << 63) - 1), st.integers(-(1 << 63), (1 << 63) - 1), st.integers(1, 9))
def test_uniform_is_splitmix_of_seed_id_and_position(seed, identity, count):
    golden = 0x9E3779B97F4A7C15
    half = (count + 1) // 2
    key = splitmix(splitmix(((identity + derive_seed(seed)) * golden) & WORD))
    words = [splitmix((key + (k + 1) * golden) & WORD) for k in range(half)]
    ks = [w >> 41 for w in words] + [(w >> 17) & ((1 << 23) - 1) for w in words]
    expected = [(2 * k + 1) / 2**23 - 1 for k in ks[:count]]
    found = uniform(seed, torch.tensor([identity]), (count,))
    assert found.tolist() == [expected]


@pytest.mark.parametrize("draw", [uniform, gaussian])
def test_noise_belongs_to_the_sample(draw):
    ids = torch.tensor([5, 900, 3, 77, 5])
    together = draw(9, ids, (2, 3, 7))
    assert together.dtype == torch.float32
    assert together.shape == (5, 2, 3, 7)
    for row, identity in enumerate(ids):
        assert torch.equal(draw(9, identity[None], (2, 3, 7))[0], together[row])
    assert torch.equal(together[0], together[4])
    assert not torch.equal(together[0], together[1])
    assert not torch.equal(draw(10, ids, (2, 3, 7)), together)


def test_noise_has_the_right_distribution():
    ids = torch.arange(200)
    u = uniform(1, ids, (1001,)).double()
    assert u.abs().max() < 1
    assert (u != 0).all()
    # a histogram of 200,200 values in 50 bins, chi-square with 49 degrees of freedom
    counts = torch.histc(u, 50, -1, 1)
    assert ((counts - 4004) ** 2 / 4004).sum() < 94
    g = gaussian(1, ids, (1001,)).double()
    assert abs(g.mean()) < 0.01
    assert abs(g.var() - 1) < 0.02
    assert abs((g**4).mean() - 3) < 0.1
    # neighbours in position and in id are uncorrelated
    for a, b in ((u[:, 1:], u[:, :-1]), (u[1:], u[:-1]), (g[:, 500:1000], g[:, :500])):
        assert abs(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1]) < 0.01


@given(st.lists(st.integers(0, 1 << 62), min_size=1, max_size=4))
def test_derived_seeds(parts):
    seed = derive_seed(*parts)
    assert 0 <= seed < 1 << 63
    assert seed == derive_seed(*parts)
    assert seed != derive_seed(*parts, 0)
    assert seed != derive_seed(parts[0] + 1, *parts[1:])


@given(st.floats(1e-30, 1e30))
def test_float32_floor(value):
    down = float32_floor(value)
    assert down <= value
    assert float(np.nextafter(np.float32(down), np.float32(np.inf))) > value


values = st.floats(0, 1, width=32)
radii = st.one_of(st.floats(1e-6, 2), st.sampled_from([8 / 255, 0.1, 0.3, 1 / 3, 0.031, 0.5]))


@given(st.lists(values, min_size=1, max_size=8), radii, st.integers(0, 99))
def test_linf_holds_exactly(pixels, eps, seed):
    images = torch.tensor([pixels])
    ball = LinfBall(images, eps)
    ids = torch.tensor([seed])
    for point in (
        ball.start(seed, ids),
        ball.step(images, torch.ones_like(images), 10 * eps),
        ball.step(images, -torch.ones_like(images), 10 * eps),
        ball.project(torch.full_like(images, 1e9)),
    ):
        assert point.dtype == torch.float32
        assert (point.double() - images.double()).abs().max() <= eps
        assert point.min() >= 0
        assert point.max() <= 1


@given(st.lists(values, min_size=1, max_size=8), radii)
def test_linf_bounds_are_the_tightest(pixels, eps):
    images = torch.tensor([pixels])
    upper = LinfBall(images, eps).project(torch.full_like(images, 2.0))
    above = torch.nextafter(upper, torch.tensor(2.0)).double()
    eps32 = float32_floor(eps)
    assert ((above > 1) | (above - images.double() > eps32)).all()


@given(st.lists(values, min_size=1, max_size=30), radii, st.integers(0, 99))
def test_l2_holds_exactly(pixels, eps, seed):
    images = torch.tensor([pixels])
    ball = L2Ball(images, eps)
    gradient = uniform(seed, torch.tensor([0]), images.shape[1:])
    for point in (
        ball.start(seed, torch.tensor([seed])),
        ball.step(images, gradient, 10 * eps),
        ball.step(images, torch.zeros_like(images), eps),
        images + 3,
    ):
        final = ball.finish(ball.project(point))
        delta = final.double() - images.double()
        assert float(delta.pow(2).sum().sqrt()) <= eps
        assert final.min() >= 0
        assert final.max() <= 1


@pytest.mark.parametrize("norm", BALLS)
@given(seed=st.integers(0, 50), eps=radii)
def test_projection_is_idempotent_and_keeps_inner_points(norm, seed, eps):
    images = (uniform(seed, torch.arange(3), (4,)) + 1) / 2
    ball = BALLS[norm](images, eps)
    inner = ball.project((images + ball.start(seed, torch.arange(3))) / 2)
    assert torch.allclose(ball.project(inner.clone()), inner, rtol=0, atol=1e-6)
    outer = ball.project(images + 5 * uniform(seed + 1, torch.arange(3), (4,)))
    assert torch.allclose(ball.project(outer.clone()), outer, rtol=0, atol=1e-6)


def test_linf_projection_is_the_nearest_point():
    images = torch.tensor([[0.05, 0.5, 0.95]])
    found = LinfBall(images, 0.1).project(torch.tensor([[-1.0, 0.55, 2.0]]))
    assert torch.allclose(found, torch.tensor([[0.0, 0.55, 1.0]]))


def test_l2_start_is_uniform_in_the_ball():
    images = torch.full((4000, 2), 0.5)
    delta = L2Ball(images, 0.4).start(3, torch.arange(4000)) - images
    share = (delta.norm(dim=1) / 0.4) ** 2  # uniform in (0, 1) for a uniform point of a disc
    counts = torch.histc(share, 20, 0, 1)
    assert ((counts - 200) ** 2 / 200).sum() < 45
    assert delta.mean(dim=0).abs().max() < 0.01


def test_linf_start_fills_the_box():
    images = torch.full((50, 100), 0.5)
    delta = LinfBall(images, 0.25).start(3, torch.arange(50)) - images
    assert 0.24 < delta.max() <= 0.25
    assert abs(delta.double().var() - 0.25**2 / 3) < 0.001


def test_images_of_an_earlier_revision_are_not_of_the_same_attack():
    attack = parse_attack("pgd-40", 0.1)
    stored = attack.details()
    assert attack.made(stored)
    assert not attack.made({**stored, "revision": 1})
    assert not attack.made({k: v for k, v in stored.items() if k != "revision"})
