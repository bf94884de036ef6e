"""Deformable butterflies against matrices that are multiplied out by the definition."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sepdeploy.errors import BadInput
from sepdeploy.structures import DebutSpec, parse_structure, spec_from_json
from sepdeploy.structures.debut.chain import (
    merge_all,
    merged_chain,
    read_chain,
    widths,
    with_steps,
    write_chain,
)
from sepdeploy.structures.debut.search import best_chain, chains, padded_size, weights

FC1 = "128←(2,2,64)128←(2,2,32)128←(1,2,32)256←(2,2,16)256←(16,25,1)400"
FC2 = "64←" + "".join(f"(2,2,{2**k})" for k in range(5, 0, -1)) + "64←(2,4,1)128"
CONV13 = (
    "512←(2,4,256)1024←(2,4,128)2048←(2,4,64)4096←(2,2,32)4096←(2,2,16)4096←(2,2,8)4096←(8,9,1)4608"
)
CONV8 = (
    "512←(2,2,256)512←(2,4,128)1024←(2,4,64)2048←(2,2,32)2048←(2,2,16)2048←(2,2,8)2048←(8,9,1)2304"
)


@st.composite
def debut_specs(draw, largest=4, most=4, padded=True):
    sides = st.integers(1, largest)
    chain = with_steps(draw(st.lists(st.tuples(sides, sides), min_size=1, max_size=most)))
    q, p = widths(chain)[0], widths(chain)[-1]
    crop = draw(st.booleans()) if padded else False
    return DebutSpec(chain, max(1, q - crop), max(1, p - crop))


def random_factors(spec, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(shape) for shape in spec.factor_shapes]


def by_definition(spec, factors):
    """R_N ⋯ R_1 entry by entry: blocks of r × s grids of t × t diagonal matrices."""
    whole = np.eye(spec.widths[0])
    for stack, (r, s, t) in zip(factors, spec.chain, strict=True):
        groups = len(stack) // t
        R = np.zeros((groups * r * t, groups * s * t))
        for g, tau, b, a in np.ndindex(groups, t, r, s):
            R[(g * r + b) * t + tau, (g * s + a) * t + tau] = stack[g * t + tau, b, a]
        whole = R @ whole
    return whole[: spec.out_features, : spec.in_features]


@given(debut_specs(), st.integers(0, 3))
def test_apply_and_dense_matrix_are_the_definition(spec, samples):
    factors = random_factors(spec)
    W = by_definition(spec, factors)
    x = np.random.default_rng(1).standard_normal((samples, spec.in_features))
    np.testing.assert_allclose(spec.dense_matrix(factors), W, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(spec.apply(x, factors), x @ W.T, rtol=1e-9, atol=1e-9)
    assert spec.weight_params == spec.macs == sum(f.size for f in factors)
    assert spec_from_json(spec.to_json()) == spec
    assert parse_structure(spec.text, (spec.in_features,), spec.out_features) == spec


@given(debut_specs(padded=False), st.data())
def test_merging_neighbours_leaves_the_matrix(spec, data):
    count = len(spec.chain)
    inner = data.draw(st.sets(st.integers(1, count))) - {count}
    cuts = [0, *sorted(inner), count]
    factors = random_factors(spec)
    merged = DebutSpec.of(merged_chain(spec.chain, cuts))
    joined = [merge_all(spec.chain[a:b], factors[a:b]) for a, b in itertools.pairwise(cuts)]
    assert tuple(f.shape for f in joined) == merged.factor_shapes
    np.testing.assert_allclose(
        merged.dense_matrix(joined), by_definition(spec, factors), rtol=1e-9, atol=1e-12
    )


@pytest.mark.parametrize(
    ("text", "sizes", "count"),
    [
        (FC1, (400, 128), 7680),
        (FC2, (128, 64), 896),
        ("16←(2,2,8)16←(2,6,4)48←(1,2,4)96←(4,3,1)72", (72, 16), 512),
        ("16←(2,6,8)48←(1,2,8)96←(2,2,4)96←(4,3,1)72", (72, 16), 672),
        (CONV13, (4608, 512), 75_776),
        (CONV8, (2304, 512), 37_888),
        ("512<-(8,16,64)(8,32,8)(8,9,1)4608", (4608, 512), 4608 * 8 + 4096 * 8 + 1024 * 8),
    ],
)
def test_published_counts(text, sizes, count):
    """methods.md §11.3, item 7: counts of the papers' chains."""
    spec = parse_structure(f"debut:{text}", sizes[:1], sizes[1])
    assert spec.weight_params == count
    ones = [np.sign(f) for f in random_factors(spec)]
    assert set(np.unique(spec.dense_matrix(ones))) <= {-1.0, 1.0}  # the bipolar test


def test_the_networks_totals():
    """methods.md §11.3, item 8: a LeNet of 61 482 parameters with its layers replaced."""
    fc1, fc2 = (
        parse_structure(f"debut:{t}", n, o) for t, n, o in ((FC1, (400,), 128), (FC2, (128,), 64))
    )
    conv2 = [read_chain(t) for t in (
        "16←(2,2,8)16←(2,6,4)48←(1,2,4)96←(4,3,1)72", "16←(2,6,8)48←(1,2,8)96←(2,2,4)96←(4,3,1)72",
    )]  # fmt: skip
    dense = 61_482
    assert dense - 400 * 128 + fc1.weight_params == 17_962
    assert dense - 72 * 16 + weights(conv2[0]) == 60_842
    rest = dense - 400 * 128 - 128 * 64 - 72 * 16
    assert rest + fc1.weight_params + fc2.weight_params + weights(conv2[1]) == 10_186


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("(2,2,64)(2,2,16)(16,25,1)", "factor 3 from the input, (2,2,64), does not densify"),
        ("(2,2,32)(2,2,16)(16,25,2)", "factor 1 from the input"),
        ("512←(4,8,256)2048←(2,2,128)2730←(4,3,32)2048←(4,4,8)2048←(8,9,1)2304", "factor"),
        ("64←(2,2,32)64←(2,4,16)100←(16,8,1)64", "behind factor 1, its factors make it 128"),
        ("(2,2)", "no chain of factors"),
        ("(0,2,1)", "outside"),
        ("", "no chain"),
    ],
)
def test_chains_that_make_no_sense(text, said):
    with pytest.raises(BadInput) as caught:
        read_chain(text)
    assert said in caught.value.message


def test_a_chain_of_other_sizes_is_told_the_nearest():
    with pytest.raises(BadInput) as caught:
        parse_structure(f"debut:{FC1}", (784,), 128)
    assert "maps 400 → 128, the layer is 784 → 128" in caught.value.message
    offered = caught.value.hint.rpartition(" ")[2]
    near = parse_structure(offered, (784,), 128)
    assert 0.5 < near.weight_params / 7680 < 2


@settings(deadline=None, max_examples=40)
@given(debut_specs(), st.integers(0, 99))
def test_projection_recovers_what_is_a_chain_and_reports_its_error(spec, seed):
    factors = random_factors(spec, seed)
    W = spec.dense_matrix(factors)
    found = spec.project(W)
    left = np.linalg.norm(spec.dense_matrix(found.factors) - W) / np.linalg.norm(W)
    assert left < 1e-6
    noisy = W + np.random.default_rng(seed).standard_normal(W.shape)
    found = spec.project(noisy)
    left = np.linalg.norm(spec.dense_matrix(found.factors) - noisy) / np.linalg.norm(noisy)
    assert found.relative_error == pytest.approx(left, abs=1e-6)
    assert all(b <= a + 1e-9 for a, b in zip(found.sweeps[:-1], found.sweeps[1:], strict=True))


def test_two_factors_of_full_width_are_projected_as_well_as_singular_values_allow():
    """(1, c)(k, 1) chains are depthwise-separable: the best one is known from an SVD."""
    spec = DebutSpec.of(with_steps([(1, 6), (8, 5)]))  # rank one for each of five inputs
    W = np.random.default_rng(0).standard_normal((8, 30))
    best = math.sqrt(
        sum(np.linalg.svd(W[:, 6 * c : 6 * c + 6], compute_uv=False)[0] ** 2 for c in range(5))
    )
    kept = math.sqrt(1 - spec.project(W).relative_error ** 2) * np.linalg.norm(W)
    assert kept == pytest.approx(best, rel=1e-6)


@pytest.mark.parametrize(
    "spec",
    [
        DebutSpec.of(read_chain(FC1)),
        DebutSpec.of(with_steps([(2, 2)] * 6)),
        DebutSpec.of(with_steps([(24, 24), (26, 26)])),  # above 512: iterated
        DebutSpec.of(with_steps([(20, 18), (30, 35)])),
    ],
)
def test_spectrum_is_that_of_the_dense_matrix(spec):
    factors = random_factors(spec)
    sigma = np.linalg.svd(spec.dense_matrix(factors), compute_uv=False)
    found = spec.spectrum(factors)
    assert found.sigma_max == pytest.approx(sigma[0], rel=1e-6)
    assert found.sigma_min == pytest.approx(sigma[found.structural_rank - 1], rel=1e-4)
    assert found.exact == (min(spec.in_features, spec.out_features) <= 512)


def test_a_chain_with_a_singular_block_has_no_smallest_value():
    spec = DebutSpec.of(with_steps([(24, 24), (26, 26)]))
    factors = random_factors(spec)
    factors[0][3] = 0
    assert spec.spectrum(factors).condition_number == math.inf


@settings(deadline=None, max_examples=12)
@given(st.integers(2, 300), st.integers(2, 200))
def test_every_chain_of_the_search_densifies_and_is_what_it_is_called(n_in, n_out):
    q, p = padded_size(n_in), padded_size(n_out)
    for kind in ("monotone", "bulging"):
        for chain in chains(n_in, n_out, kind):
            assert read_chain(write_chain(chain)) == chain
            wide = widths(chain)
            assert (wide[0], wide[-1]) == (q, p)
            assert min(wide) == min(q, p)
            assert weights(chain) < n_in * n_out
            if kind == "monotone":
                assert all(r <= s for r, s, _ in chain) or all(r >= s for r, s, _ in chain)
            else:
                assert max(wide) > max(q, p)


def test_a_budget_is_met_or_the_best_is_told():
    for n_in, n_out, ratio in ((400, 128, 10), (4096, 4096, 30), (127, 2231, 20)):
        for chain in best_chain(n_in, n_out, ratio):
            assert weights(chain) <= n_in * n_out / ratio
    with pytest.raises(BadInput, match="the best reachable is") as caught:
        best_chain(64, 10, 30)
    assert "write it out: debut:(" in caught.value.hint
    (chain,) = best_chain(4608, 512, 30, first=9)[:1]
    assert chain[0][1] == 9


def test_primes_are_padded():
    spec = parse_structure("debut:20x", (2231,), 127)
    assert spec.padded
    assert spec.widths[0] == 2250
    assert spec.widths[-1] == 128
    assert spec.text.endswith("+pad")
    with pytest.raises(BadInput, match="the layer is 2231"):
        parse_structure(spec.text.removesuffix("+pad"), (2231,), 127)


def test_a_plain_name_fits_layers_too_small_for_the_usual_ratio() -> None:
    spec = DebutSpec.parse("", (64,), 128)
    assert 64 * 128 / 16 < spec.weight_params < 64 * 128 / 2
    with pytest.raises(BadInput, match="the best reachable is"):
        DebutSpec.parse("16x", (64,), 128)
