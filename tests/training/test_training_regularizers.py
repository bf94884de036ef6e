import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from experiments.literal_determinant import compare, literal_term
from sepdeploy.layers import KronLinear, LowRankConv2d, LowRankLinear
from sepdeploy.training.penalties.matrices import regularized_matrices
from sepdeploy.training.penalties.regularizers import (
    JITTER,
    TERMS,
    condition_term,
    frobenius_term,
    l1_term,
    layer_mean,
    logdet_term,
    penalty,
    spectral_relative_term,
    spectral_squared_term,
    spectral_term,
    term_values,
)


def matrix(m, n, seed, dtype=torch.float64):
    return torch.randn(m, n, dtype=dtype, generator=torch.Generator().manual_seed(seed))


sizes = st.integers(1, 9)
seeds = st.integers(0, 1000)


@given(sizes, sizes, seeds)
def test_condition_term_is_log_arithmetic_over_geometric_mean(m, n, seed):
    A = matrix(m, n, seed)
    squares = torch.linalg.svdvals(A) ** 2
    k = len(squares)
    shifted = squares / squares.mean() + JITTER
    expected = -shifted.log().mean()
    assert condition_term(A) == pytest.approx(float(expected), abs=1e-9)
    if squares.min() > 0.01 * squares.mean():  # then the jitter is negligible
        plain = squares.mean().log() - squares.log().mean()
        assert condition_term(A) == pytest.approx(float(plain), abs=2 * k * JITTER * 100)


@given(sizes, sizes, seeds, st.floats(1e-6, 1e6))
def test_condition_term_ignores_scale_and_transposition(m, n, seed, scale):
    A = matrix(m, n, seed)
    value = float(condition_term(A))
    assert condition_term(scale * A) == pytest.approx(value, rel=1e-6, abs=1e-9)
    assert condition_term(A.mT) == pytest.approx(value, rel=1e-6, abs=1e-9)
    assert value >= -1.01 * JITTER


@given(sizes, seeds, st.floats(0.01, 100))
def test_condition_term_vanishes_for_scaled_orthogonal_matrices(n, seed, scale):
    Q, _ = torch.linalg.qr(matrix(n + 3, n, seed))
    assert abs(float(condition_term(scale * Q))) <= 1.01 * JITTER


@given(st.integers(2, 9), st.integers(2, 9), seeds)
def test_condition_term_bounds_the_condition_number(m, n, seed):
    A = matrix(m, n, seed)
    sigma = torch.linalg.svdvals(A)
    kappa, k = float(sigma[0] / sigma[-1]), min(m, n)
    if kappa < 100:
        assert kappa**2 <= 4 * math.exp(k * (float(condition_term(A)) + 1e-2))


@pytest.mark.parametrize("name", TERMS)
def test_gradients_against_finite_differences(name):
    torch.manual_seed(0)
    for shape in ((5, 3), (3, 5), (4, 4), (2, 3, 4)):
        A = torch.randn(shape, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(TERMS[name], (A,), eps=1e-6, atol=1e-6, rtol=1e-5)


@given(sizes, sizes, seeds)
def test_logdet_is_half_the_mean_square_log_determinant(m, n, seed):
    A = matrix(m, n, seed)
    squares = torch.linalg.svdvals(A) ** 2
    shifted = squares + JITTER * squares.mean()
    expected = shifted.log().sum() ** 2 / (2 * len(squares))
    assert logdet_term(A) == pytest.approx(float(expected), rel=1e-6, abs=1e-9)
    assert logdet_term(A.mT) == pytest.approx(float(expected), rel=1e-6, abs=1e-9)


@given(st.integers(1, 6), seeds)
def test_logdet_is_four_times_the_literal_term_where_that_works(n, seed):
    Q, _ = torch.linalg.qr(matrix(n + 2, n, seed))
    A = Q * torch.linspace(0.8, 1.3, n, dtype=torch.float64)
    assert logdet_term(A) == pytest.approx(4 * float(literal_term(A)), abs=1e-3)


def test_the_literal_term_is_dead_where_ours_is_not():
    for shape in ((64, 64), (32, 64)):  # the determinant underflows; is 0 by construction
        found = compare(*shape)
        assert found["literal"][1] == 0
        assert min(found["logdet"][1], found["condition"][1]) > 1e-2


@given(sizes, seeds)
def test_determinant_and_norm_bound_the_condition_number(n, seed):
    A = matrix(n, n, seed)
    sigma = torch.linalg.svdvals(A)
    if n > 1 and sigma[0] / sigma[-1] < 100:
        determinant = math.exp(math.sqrt(2 * n * float(logdet_term(A))) / 2)
        if torch.linalg.det(A).abs() < 1:
            determinant = 1 / determinant
        size = math.sqrt(float(frobenius_term(A)) / n)
        assert float(sigma[0] / sigma[-1]) < 2 / determinant * size**n * 1.01


@given(sizes, sizes, seeds)
def test_spectral_term_is_the_spread_of_squared_singular_values(m, n, seed):
    S = matrix(m, n, seed)
    squares = torch.linalg.svdvals(S) ** 2
    expected = math.sqrt(len(squares)) * float(squares.std(correction=0)) if len(squares) > 1 else 0
    assert spectral_term(S) == pytest.approx(expected, rel=1e-9, abs=1e-9)
    assert spectral_squared_term(S) == pytest.approx(expected**2, rel=1e-9, abs=1e-9)
    assert spectral_relative_term(S) == pytest.approx(
        expected / float(squares.mean()), rel=1e-9, abs=1e-9
    )
    assert spectral_term(S.mT) == pytest.approx(expected, rel=1e-9, abs=1e-9)


@given(st.integers(2, 9), st.integers(2, 9), seeds)
def test_spectral_term_bounds_the_condition_number(m, n, seed):
    S = matrix(m, n, seed)
    sigma = torch.linalg.svdvals(S)
    R, smallest, kappa = float(spectral_term(S)), float(sigma[-1]), float(sigma[0] / sigma[-1])
    if smallest > 1e-3:
        assert kappa**2 <= 1 + math.sqrt(2) * R / smallest**2 + 1e-9
        assert math.log(kappa) <= R / (math.sqrt(2) * smallest**2) + 1e-9


@given(sizes, seeds, st.floats(0.1, 10))
def test_spectral_terms_scale_as_they_say(n, seed, scale):
    S = matrix(n + 1, n, seed)
    assert spectral_term(scale * S) == pytest.approx(
        scale**2 * float(spectral_term(S)), rel=1e-9, abs=1e-9
    )
    assert spectral_squared_term(scale * S) == pytest.approx(
        scale**4 * float(spectral_squared_term(S)), rel=1e-9, abs=1e-9
    )
    assert spectral_relative_term(scale * S) == pytest.approx(
        float(spectral_relative_term(S)), rel=1e-9, abs=1e-9
    )


def test_spectral_gradient_against_the_closed_form():
    S = matrix(5, 5, 4).requires_grad_()
    (gradient,) = torch.autograd.grad(spectral_term(S), S)
    with torch.no_grad():
        centred = S.T @ S - S.square().sum() / 5 * torch.eye(5, dtype=S.dtype)
        expected = 2 * S @ centred / torch.linalg.norm(centred)
    assert torch.allclose(gradient, expected, atol=1e-10)


@pytest.mark.parametrize("start", [torch.zeros(3, 3), 2 * torch.eye(4)])
def test_spectral_gradient_is_zero_where_the_term_is(start):
    for term in (spectral_term, spectral_squared_term, spectral_relative_term):
        S = start.clone().requires_grad_()
        value = term(S)
        (gradient,) = torch.autograd.grad(value, S)
        assert value.item() == 0
        assert torch.equal(gradient, torch.zeros_like(S))


def test_gradient_against_the_closed_form():
    A = matrix(6, 4, 1).requires_grad_()
    (gradient,) = torch.autograd.grad(condition_term(A), A)
    with torch.no_grad():
        G = A.T @ A
        expected = 2 * A / torch.trace(G) - 2 / 4 * A @ torch.linalg.inv(G)
    assert torch.allclose(gradient, expected, atol=1e-4)


def test_descending_the_gradient_conditions_a_matrix():
    A = matrix(8, 8, 3)
    A[0] *= 1e-3
    before = torch.linalg.cond(A)
    for _ in range(300):
        A.requires_grad_()
        (gradient,) = torch.autograd.grad(condition_term(A), A)
        A = (A - 0.3 * gradient).detach()
    assert torch.linalg.cond(A) < 0.05 * before


def test_float32_determinants_do_not_underflow():
    # det(AᵀA) of this matrix is about e^-135: zero in float32, and its gradient with it
    A = (matrix(64, 64, 0, torch.float32) / 8 / math.sqrt(3)).requires_grad_()
    value = condition_term(A)
    value.backward()
    assert 0.5 < value.item() < 2
    assert A.grad.abs().max() > 1e-4


def test_singular_and_zero_matrices_stay_finite():
    for A in (torch.ones(5, 5), torch.zeros(4, 3)):
        A.requires_grad_()
        value = condition_term(A)
        value.backward()
        assert math.isfinite(value.item())
        assert torch.isfinite(A.grad).all()
        assert value.item() > 3


def test_stacks_are_averaged():
    stack = torch.stack([matrix(4, 3, s) for s in range(5)])
    single = torch.stack([condition_term(A) for A in stack])
    assert torch.allclose(condition_term(stack), single.mean())


@pytest.mark.parametrize("name", TERMS)
def test_precision_does_not_follow_autocast(name):
    A = matrix(16, 16, 2, torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = TERMS[name](A)
    assert inside == TERMS[name](A)
    assert inside.dtype == torch.float64


@pytest.mark.parametrize("name", TERMS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_small_types_lose_nothing_but_the_rounding_of_the_weights(name, dtype):
    A = (100 * matrix(64, 64, 2)).to(dtype)
    assert TERMS[name](A) == pytest.approx(float(TERMS[name](A.double())), rel=1e-12)


def test_the_norms_of_a_large_half_precision_matrix():
    A = torch.full((64, 64), 100.0, dtype=torch.float16)
    assert float(frobenius_term(A)) == 64 * 64 * 100.0**2
    assert float(l1_term(A)) == 100


@given(sizes, sizes, seeds)
def test_l1_is_the_mean_absolute_value(m, n, seed):
    A = matrix(m, n, seed)
    assert l1_term(A) == pytest.approx(float(A.abs().sum()) / (m * n))


def test_which_matrices_are_regularised():
    kron = KronLinear((4, 4), (6, 5), terms=2)
    low = LowRankLinear(30, 12, 3)
    net = nn.Sequential(kron, nn.ReLU(), low, nn.Linear(12, 2))
    found = regularized_matrices(net)
    assert list(found) == ["0", "2"]
    assert [tuple(A.shape) for A in found["0"]] == [(2, 6, 4), (2, 5, 4)]
    assert found["2"][0] is low.S
    dense = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    assert [g[0].shape for g in regularized_matrices(dense).values()] == [(3, 4), (2, 3)]
    assert list(regularized_matrices(nn.Linear(2, 2))) == ["net"]


def test_scope_all_takes_plain_weights_and_tucker_cores():
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3), LowRankConv2d(8, 6, (3, 3), (4, 5)), nn.Flatten(),
        KronLinear((4, 4), (2, 5)), nn.Linear(10, 3),
    )  # fmt: skip
    only = regularized_matrices(net)
    assert {k: [tuple(A.shape) for A in g] for k, g in only.items()} == {
        "1": [(5, 36)], "3": [(1, 2, 4), (1, 5, 4)],
    }  # fmt: skip
    found = regularized_matrices(net, "all")
    assert list(found) == ["0", "1", "3", "4"]
    assert found["0"][0].shape == (8, 27)
    assert found["4"][0].shape == (3, 10)


def test_penalty_is_a_weighted_mean_over_layers():
    groups = {"a": [matrix(4, 4, 1), matrix(3, 5, 2)], "b": [matrix(6, 2, 3)]}
    phi = [sum(float(condition_term(A)) for A in g) for g in groups.values()]
    one = [sum(float(l1_term(A)) for A in g) for g in groups.values()]
    expected = 0.3 * sum(phi) / 2 + 0.7 * sum(one) / 2
    assert penalty(groups, {"condition": 0.3, "l1": 0.7}) == pytest.approx(expected, rel=1e-6)
    assert layer_mean(groups, l1_term) == pytest.approx(sum(one) / 2, rel=1e-6)
    assert penalty(groups, {"l1": 0.7}) == pytest.approx(0.7 * sum(one) / 2, rel=1e-6)
    assert penalty(groups, dict.fromkeys(TERMS, 0.0)) is None
    assert penalty({}, {"condition": 1, "l1": 1}) is None


def test_values_for_the_history():
    groups = {"a": [matrix(4, 4, 1)]}
    found = term_values(groups, {"spectral": 0.1, "logdet": 0})
    assert list(found) == ["condition", "spectral", "l1"]
    assert found["spectral"] == pytest.approx(float(spectral_term(groups["a"][0])), rel=1e-6)
    assert term_values({}, {}) == {"condition": 0.0, "l1": 0.0}


@given(sizes, seeds)
def test_the_flow_of_the_squared_spectral_term_shrinks_the_norm(n, seed):
    S = matrix(n + 1, n, seed).requires_grad_()
    value = spectral_squared_term(S)
    (gradient,) = torch.autograd.grad(value, S)
    # d‖S‖²/dt = −2⟨∇R², S⟩ = −8R²
    shrinks = 2 * float((gradient * S.detach()).sum())
    assert shrinks == pytest.approx(8 * float(value.detach()), rel=1e-9, abs=1e-9)


@given(sizes, seeds, seeds)
def test_penalties_do_not_depend_on_the_choice_of_bases(n, seed, turn):
    S = matrix(n + 2, n, seed)
    P, Q = (torch.linalg.qr(matrix(k, k, turn)).Q for k in (n + 2, n))
    for name in set(TERMS) - {"l1"}:
        assert TERMS[name](P @ S @ Q) == pytest.approx(float(TERMS[name](S)), rel=1e-6, abs=1e-6)
