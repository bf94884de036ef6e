import math
import tracemalloc
from functools import reduce

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sepdeploy.errors import BadInput
from sepdeploy.structures import KronSpec


@st.composite
def kron_specs(draw, max_modes=4, max_terms=3, max_size=5):
    d = draw(st.integers(2, max_modes))
    shape = st.tuples(*[st.integers(1, max_size)] * d)
    return KronSpec(draw(shape), draw(shape), draw(st.integers(1, max_terms)))


def random_factors(spec, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(shape) for shape in spec.factor_shapes]


def numpy_kron(factors):
    return sum(reduce(np.kron, [f[k] for f in factors]) for k in range(len(factors[0])))


@given(kron_specs(), st.integers(0, 99))
def test_dense_matrix_is_numpys_kron(spec, seed):
    factors = random_factors(spec, seed)
    np.testing.assert_allclose(spec.dense_matrix(factors), numpy_kron(factors), atol=1e-12)


@given(kron_specs(), st.integers(0, 3))
def test_apply_is_the_product_with_numpys_kron(spec, samples):
    factors = random_factors(spec)
    x = np.random.default_rng(1).standard_normal((samples, spec.in_features))
    np.testing.assert_allclose(
        spec.apply(x, factors), x @ numpy_kron(factors).T, rtol=1e-9, atol=1e-9
    )


@pytest.mark.parametrize(
    ("in_shape", "out_shape", "weights"),
    [
        ((64, 32), (64, 64), 6144),  # VGG-16 FC1 with 2×2 pooling
        ((64, 64), (64, 64), 8192),  # VGG-16 FC2
        ((32, 24), (24, 32), 1536),  # ViT projection
        ((16, 48), (48, 64), 3840),  # ViT fc1
        ((32, 96), (32, 64), 7168),  # MLP layer 1
    ],
)
def test_parameter_counts_of_published_layers(in_shape, out_shape, weights):
    spec = KronSpec(in_shape, out_shape)
    n_out = math.prod(out_shape)
    assert spec.weight_params == weights
    assert spec.params(bias=False) == weights
    assert spec.params(bias=True) == weights + n_out
    assert spec.dense_params(bias=True) == (math.prod(in_shape) + 1) * n_out


def test_macs_of_two_modes_by_hand():
    # B first: 28·28·64 + 28·64·64; A first: 28·64·28 + 64·28·64: the same here, not below
    assert KronSpec((28, 28), (64, 64)).macs == 28 * 28 * 64 + 28 * 64 * 64
    shrinking = KronSpec((64, 64), (64, 2))
    assert shrinking.order == (1, 0)
    assert shrinking.macs == 64 * 64 * 2 + 64 * 64 * 2
    assert KronSpec((64, 64), (2, 64)).order == (0, 1)


@given(kron_specs())
def test_terms_multiply_counts(spec):
    one = KronSpec(spec.in_shape, spec.out_shape)
    assert spec.weight_params == spec.terms * one.weight_params
    assert spec.macs == spec.terms * one.macs


@given(kron_specs(), st.integers(0, 99))
def test_balance_keeps_the_operator_and_evens_the_scales(spec, seed):
    factors = random_factors(spec, seed)
    factors[0] = factors[0] * 1e3
    balanced = spec.balance(factors)
    np.testing.assert_allclose(
        spec.dense_matrix(balanced), spec.dense_matrix(factors), rtol=1e-8, atol=1e-9
    )
    scales = [
        np.linalg.norm(f, axis=(1, 2)) / math.sqrt(i)
        for f, i in zip(balanced, spec.in_shape, strict=True)
    ]
    for scale in scales[1:]:
        np.testing.assert_allclose(scale, scales[0], rtol=1e-9)


def test_balance_of_a_zero_factor_is_zero_not_nan():
    spec = KronSpec((2, 3), (3, 2), 2)
    A, B = random_factors(spec)
    B[1] = 0
    balanced = spec.balance([A, B])
    assert all(np.isfinite(f).all() for f in balanced)
    np.testing.assert_allclose(spec.dense_matrix(balanced), np.kron(A[0], B[0]), atol=1e-12)


def test_factors_of_wrong_shapes_are_refused():
    spec = KronSpec((2, 3), (3, 2))
    with pytest.raises(BadInput, match="expected"):
        spec.dense_matrix([np.zeros((1, 3, 2))])


# --- projection -----------------------------------------------------------------------------


def rearranged(weight, spec):
    """R[(p,i),(q,j)] = W[(p,q),(i,j)], element by element."""
    (p, q), (i, j) = spec.out_shape, spec.in_shape
    R = np.empty((p * i, q * j))
    for a in range(p):
        for b in range(q):
            for c in range(i):
                for d in range(j):
                    R[a * i + c, b * j + d] = weight[a * q + b, c * j + d]
    return R


@settings(deadline=None, max_examples=30)
@given(kron_specs(max_modes=2, max_terms=3, max_size=4), st.integers(0, 99))
def test_projection_is_optimal_and_its_error_is_exact(spec, seed):
    weight = np.random.default_rng(seed).standard_normal((spec.out_features, spec.in_features))
    projection = spec.project(weight)
    sigma = np.linalg.svd(rearranged(weight, spec), compute_uv=False)
    best = math.sqrt(max(0.0, 1 - np.sum(sigma[: spec.terms] ** 2) / np.sum(sigma**2)))
    left = np.linalg.norm(weight - spec.dense_matrix(projection.factors)) / np.linalg.norm(weight)
    assert projection.relative_error == pytest.approx(best, abs=1e-6)
    assert projection.relative_error == pytest.approx(left, abs=1e-9)


@pytest.mark.parametrize(
    "spec",
    [
        KronSpec((6, 5), (4, 7)),
        KronSpec((6, 5), (4, 7), 3),
        KronSpec((4, 3, 2), (2, 5, 3)),
        KronSpec((4, 4, 4), (4, 4, 4), 2),
        KronSpec((2, 3, 2, 2), (3, 2, 2, 3)),
    ],
    ids=str,
)
def test_projection_recovers_a_true_kronecker_sum(spec):
    weight = numpy_kron(random_factors(spec, 3))
    projection = spec.project(weight)
    assert projection.relative_error < 1e-6
    np.testing.assert_allclose(spec.dense_matrix(projection.factors), weight, atol=1e-4)


@pytest.mark.parametrize(
    "spec", [KronSpec((3, 2, 4), (2, 3, 2)), KronSpec((3, 2, 4), (2, 3, 2), 3)], ids=str
)
def test_error_of_more_modes_is_the_residual_and_falls_with_terms(spec):
    weight = np.random.default_rng(0).standard_normal((12, 24))
    projection = spec.project(weight)
    left = np.linalg.norm(weight - spec.dense_matrix(projection.factors)) / np.linalg.norm(weight)
    assert projection.relative_error == pytest.approx(left, abs=1e-9)
    more = KronSpec(spec.in_shape, spec.out_shape, spec.terms + 2).project(weight)
    assert more.relative_error < projection.relative_error


def test_more_modes_start_from_the_best_of_two():
    # Merging the last two modes can only do better, and not by much on a near-Kronecker matrix.
    three = KronSpec((4, 3, 2), (3, 2, 4))
    noise = np.random.default_rng(5).standard_normal((24, 24))
    weight = numpy_kron(random_factors(three, 4)) + 0.05 * noise
    merged = KronSpec((4, 6), (3, 8)).project(weight).relative_error
    assert merged <= three.project(weight).relative_error <= 1.2 * merged


def test_projection_of_a_zero_weight_has_no_error():
    for spec in (KronSpec((2, 3), (3, 2), 2), KronSpec((2, 3, 2), (3, 2, 2))):
        projection = spec.project(np.zeros((spec.out_features, spec.in_features)))
        assert projection.relative_error == 0
        assert all((f == 0).all() for f in projection.factors)


def test_more_terms_than_the_rearranged_matrix_has_rank():
    spec = KronSpec((2, 1), (1, 2), 5)
    weight = np.random.default_rng(0).standard_normal((2, 2))
    projection = spec.project(weight)
    assert tuple(f.shape for f in projection.factors) == spec.factor_shapes
    np.testing.assert_allclose(spec.dense_matrix(projection.factors), weight, atol=1e-12)


@pytest.mark.parametrize("weight", [np.zeros((3, 3)), np.full((6, 6), np.nan), np.zeros(6)])
def test_projection_refuses_other_shapes_and_nan(weight):
    with pytest.raises(BadInput):
        KronSpec((2, 3), (3, 2)).project(weight)


# --- spectrum -------------------------------------------------------------------------------


@given(kron_specs(max_terms=1, max_size=4), st.integers(0, 99))
def test_singular_values_of_one_term_are_exact(spec, seed):
    factors = random_factors(spec, seed)
    sigma = np.linalg.svd(numpy_kron(factors), compute_uv=False)[: spec.structural_rank]
    np.testing.assert_allclose(spec.singular_values(factors), sigma, rtol=1e-7, atol=1e-9)
    spectrum = spec.spectrum(factors)
    assert spectrum.exact
    assert spectrum.structural_rank == spec.structural_rank
    assert spectrum.sigma_max == pytest.approx(sigma[0])
    assert spectrum.sigma_min == pytest.approx(sigma[-1], rel=1e-6, abs=1e-9)
    if sigma[-1] > 1e-6 * sigma[0]:
        assert spectrum.condition_number == pytest.approx(sigma[0] / sigma[-1], rel=1e-5)


def test_crossed_shapes_lower_the_structural_rank():
    assert KronSpec((32, 24), (24, 32)).structural_rank == 576
    assert KronSpec((32, 24), (32, 24)).structural_rank == 768


def test_a_factor_that_lost_rank_has_an_infinite_condition_number():
    spec = KronSpec((2, 2), (2, 2))
    A = np.array([[[1.0, 0.0], [0.0, 0.0]]])
    assert spec.spectrum([A, np.eye(2)[None]]).condition_number == math.inf


@settings(deadline=None)
@given(kron_specs(max_terms=3, max_size=4), st.integers(0, 99))
def test_largest_singular_value_of_a_sum(spec, seed):
    spec = KronSpec(spec.in_shape, spec.out_shape, spec.terms + 1)
    factors = random_factors(spec, seed)
    spectrum = spec.spectrum(factors)
    assert not spectrum.exact
    assert spectrum.sigma_min is None
    assert spectrum.condition_number is None
    assert spectrum.sigma_max == pytest.approx(np.linalg.norm(numpy_kron(factors), 2), rel=1e-9)
    with pytest.raises(BadInput, match="closed-form"):
        spec.singular_values(factors)


def test_equal_singular_values_do_not_stall_the_iteration():
    spec = KronSpec((4, 4), (4, 4), 2)
    eye = np.stack([np.eye(4)] * 2)
    assert spec.spectrum([eye, eye]).sigma_max == pytest.approx(2)


def test_spectrum_of_zero_factors():
    for terms in (1, 2):
        spec = KronSpec((2, 3), (3, 2), terms)
        assert spec.spectrum([np.zeros(s) for s in spec.factor_shapes]).sigma_max == 0


def test_spectrum_of_a_large_layer_decomposes_its_factors_only(monkeypatch):
    spec = KronSpec((64, 64), (64, 64))
    real, sizes = np.linalg.svd, []

    def watched(matrix, *args, **kwargs):
        sizes.append(np.shape(matrix))
        return real(matrix, *args, **kwargs)

    monkeypatch.setattr(np.linalg, "svd", watched)
    spec.spectrum(random_factors(spec))
    assert sizes
    assert all(max(size) <= 64 for size in sizes)


def test_spectrum_of_a_sum_never_forms_the_dense_matrix():
    spec = KronSpec((64, 64), (64, 64), 2)
    factors = random_factors(spec)
    tracemalloc.start()
    spectrum = spec.spectrum(factors)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4096 * 4096 * 8 / 2
    # ‖A⊗B‖ = ‖A‖‖B‖ bounds the sum from above
    bound = sum(np.linalg.norm(factors[0][k], 2) * np.linalg.norm(factors[1][k], 2) for k in (0, 1))
    assert 0.5 * bound < spectrum.sigma_max <= bound * (1 + 1e-9)
