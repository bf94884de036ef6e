import numpy as np
import pytest

from sepdeploy.structures import singular


@pytest.fixture
def clustered():
    """650×700 with five known leading singular values, two of them equal, over a flat floor."""
    rng = np.random.default_rng(0)
    left = np.linalg.qr(rng.standard_normal((650, 650)))[0]
    right = np.linalg.qr(rng.standard_normal((700, 650)))[0]
    sigma = np.concatenate([[9.0, 7.0, 7.0, 5.0, 4.0], np.linspace(1, 0.5, 645)])
    return left * sigma @ right.T, sigma


@pytest.mark.parametrize("count", [1, 3, 5])
def test_iterated_triplets_of_a_large_matrix(clustered, count, monkeypatch):
    matrix, sigma = clustered
    monkeypatch.setattr(np.linalg, "svd", _small_only(np.linalg.svd))
    left, found, right = singular.leading_triplets(matrix, count)
    np.testing.assert_allclose(found, sigma[:count], rtol=1e-9)
    np.testing.assert_allclose(matrix @ right, left * found, atol=1e-5)
    np.testing.assert_allclose(right.T @ right, np.eye(count), atol=1e-9)


def _small_only(svd):
    def checked(matrix, **options):
        assert min(matrix.shape) < 300, "the full matrix was decomposed"
        return svd(matrix, **options)

    return checked


@pytest.mark.parametrize("shape", [(40, 30), (30, 40)])
def test_the_gram_route_agrees_with_the_svd(shape, monkeypatch):
    monkeypatch.setattr(singular, "GRAM_DECOMPOSITION", 10)
    matrix = np.random.default_rng(1).standard_normal(shape)
    left, found, right = singular.leading_triplets(matrix, 6)
    u, sigma, vt = np.linalg.svd(matrix)
    np.testing.assert_allclose(found, sigma[:6], rtol=1e-9)
    np.testing.assert_allclose(left * found @ right.T, u[:, :6] * sigma[:6] @ vt[:6], atol=1e-9)


def test_a_basis_of_full_size_is_exact_even_for_a_multiple_of_the_identity():
    matrix = 3 * np.eye(20)
    _, sigma, right, met = singular.block_lanczos(lambda x: matrix @ x, lambda y: y * 3, 20, 4)
    assert met
    np.testing.assert_allclose(sigma, 3)
    np.testing.assert_allclose(right.T @ right, np.eye(4), atol=1e-12)


def test_an_operator_of_rank_one():
    matrix = np.outer(np.arange(1.0, 31), np.ones(25))
    _, sigma, _, met = singular.block_lanczos(lambda x: matrix @ x, lambda y: matrix.T @ y, 25, 2)
    assert met
    assert sigma[0] == pytest.approx(np.linalg.norm(matrix))
    assert sigma[1] == pytest.approx(0, abs=1e-9)
