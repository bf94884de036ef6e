import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sepdeploy.errors import BadInput
from sepdeploy.structures import DenseSpec, LowRankSpec


@st.composite
def lowrank_specs(draw):
    n_in, n_out = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    return LowRankSpec(n_in, n_out, draw(st.integers(1, min(n_in, n_out))))


def random_factors(spec, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(shape) for shape in spec.factor_shapes]


@given(lowrank_specs(), st.integers(0, 4))
def test_apply_is_the_product_with_the_dense_matrix(spec, samples):
    U, V = random_factors(spec)
    x = np.random.default_rng(1).standard_normal((samples, spec.in_features))
    W = np.einsum("or,ir->oi", V, U)
    np.testing.assert_allclose(spec.dense_matrix([U, V]), W, atol=1e-12)
    np.testing.assert_allclose(spec.apply(x, [U, V]), x @ W.T, rtol=1e-9, atol=1e-9)


def test_counts():
    spec = LowRankSpec(784, 1024, 20)
    assert spec.weight_params == spec.macs == 20 * (784 + 1024)
    assert spec.params(bias=True) == spec.weight_params + 1024
    assert spec.params(bias=False) == spec.weight_params
    assert spec.dense_macs == 784 * 1024
    assert spec.dense_params(bias=True) == 785 * 1024


@given(lowrank_specs(), st.integers(0, 99))
def test_projection_is_eckart_young(spec, seed):
    weight = np.random.default_rng(seed).standard_normal((spec.out_features, spec.in_features))
    projection = spec.project(weight)
    sigma = np.linalg.svd(weight, compute_uv=False)
    best = math.sqrt(np.sum(sigma[spec.rank :] ** 2) / np.sum(sigma**2))
    left = np.linalg.norm(weight - spec.dense_matrix(projection.factors)) / np.linalg.norm(weight)
    assert projection.relative_error == pytest.approx(best, abs=1e-7)
    assert left == pytest.approx(best, abs=1e-7)
    U = projection.factors[0]
    np.testing.assert_allclose(U.T @ U, np.eye(spec.rank), atol=1e-9)


@given(lowrank_specs(), st.integers(0, 99))
def test_spectrum_is_that_of_the_dense_matrix(spec, seed):
    factors = random_factors(spec, seed)
    sigma = np.linalg.svd(spec.dense_matrix(factors), compute_uv=False)[: spec.rank]
    spectrum = spec.spectrum(factors)
    assert spectrum.exact
    assert spectrum.structural_rank == spec.rank
    assert spectrum.sigma_max == pytest.approx(sigma[0])
    assert spectrum.sigma_min == pytest.approx(sigma[-1], rel=1e-5, abs=1e-9)


@pytest.mark.parametrize("rank", [0, 6, -1, 1.5, True, "3", None])
def test_ranks_that_make_no_sense(rank):
    with pytest.raises(BadInput):
        LowRankSpec(5, 9, rank)


@given(st.integers(1, 8), st.integers(1, 8))
def test_dense_family(n_in, n_out):
    spec = DenseSpec(n_in, n_out)
    weight = np.random.default_rng(0).standard_normal((n_out, n_in))
    x = np.random.default_rng(1).standard_normal((3, n_in))
    assert spec.macs == spec.dense_macs == spec.weight_params == n_in * n_out
    assert spec.params(bias=True) == spec.dense_params(bias=True) == n_in * n_out + n_out
    np.testing.assert_array_equal(spec.dense_matrix([weight]), weight)
    np.testing.assert_allclose(spec.apply(x, [weight]), np.einsum("oi,ni->no", weight, x))
    projection = spec.project(weight)
    assert projection.relative_error == 0
    np.testing.assert_array_equal(projection.factors[0], weight)
    spectrum = spec.spectrum([weight])
    assert spectrum.sigma_max == pytest.approx(np.linalg.norm(weight, 2))
    assert spectrum.structural_rank == min(n_in, n_out)
