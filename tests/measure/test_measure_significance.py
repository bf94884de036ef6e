"""The tests of significance against scipy, brute force and closed forms."""

from __future__ import annotations

import itertools
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from sepdeploy.measure.statistics import binomial_tail, mann_whitney_p, mcnemar_p, wilcoxon_p

ALTERNATIVES = ["two-sided", "less", "greater"]
small = st.integers(-9, 9).map(float)


@pytest.mark.parametrize("alternative", ALTERNATIVES)
@pytest.mark.parametrize(
    ("n", "m", "method"), [(5, 7, "exact"), (8, 40, "exact"), (30, 45, "asymptotic")]
)
def test_mann_whitney_equals_scipy(alternative, n, m, method):
    rng = np.random.default_rng(n * m)
    a, b = rng.normal(0.3, 1, n), rng.normal(0, 1, m)
    expected = stats.mannwhitneyu(a, b, alternative=alternative, method=method).pvalue
    assert mann_whitney_p(a, b, alternative) == pytest.approx(expected, rel=1e-9)


@given(st.lists(small, min_size=9, max_size=30), st.lists(small, min_size=9, max_size=30))
def test_mann_whitney_with_ties_equals_scipy(a, b):
    if len({*a, *b}) == 1:
        assert mann_whitney_p(a, b) == 1.0
        return
    for alternative in ALTERNATIVES:
        expected = stats.mannwhitneyu(a, b, alternative=alternative, method="asymptotic").pvalue
        assert mann_whitney_p(a, b, alternative) == pytest.approx(expected, rel=1e-9)


def test_mann_whitney_refuses_nothing():
    with pytest.raises(ValueError, match="not empty"):
        mann_whitney_p([], [1.0])


@pytest.mark.parametrize("alternative", ALTERNATIVES)
@pytest.mark.parametrize("n", [1, 6, 30, 60])
def test_wilcoxon_exact_equals_scipy(alternative, n):
    values = np.random.default_rng(n).normal(0.2, 1, n)
    expected = stats.wilcoxon(values, alternative=alternative, method="exact").pvalue
    assert wilcoxon_p(values, alternative) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("alternative", ALTERNATIVES)
def test_wilcoxon_of_many_pairs_equals_scipy(alternative):
    values = np.round(np.random.default_rng(3).normal(0.1, 1, 200), 1)
    expected = stats.wilcoxon(
        values[values != 0], alternative=alternative, method="asymptotic", correction=True
    ).pvalue
    assert wilcoxon_p(values, alternative) == pytest.approx(expected, rel=1e-9)


@given(st.lists(small, min_size=1, max_size=9))
def test_wilcoxon_with_ties_equals_all_sign_patterns(values):
    kept = np.array([v for v in values if v != 0])
    if not kept.size:
        assert wilcoxon_p(values, "greater") == 1.0
        return
    ranks = stats.rankdata(np.abs(kept))
    seen = ranks[kept > 0].sum()
    sums = [
        sum(r for r, sign in zip(ranks, signs, strict=True) if sign)
        for signs in itertools.product([0, 1], repeat=kept.size)
    ]
    assert wilcoxon_p(values, "greater") == pytest.approx(np.mean([s >= seen for s in sums]))
    assert wilcoxon_p(values, "less") == pytest.approx(np.mean([s <= seen for s in sums]))


def test_wilcoxon_smallest_possible_value_is_two_to_minus_n():
    assert wilcoxon_p(np.arange(1, 31), "greater") == 2.0**-30


@given(st.integers(0, 120), st.integers(0, 120))
def test_mcnemar_equals_the_binomial_test(lost, gained):
    expected = stats.binomtest(lost, lost + gained).pvalue if lost + gained else 1.0
    assert mcnemar_p(lost, gained) == pytest.approx(expected, rel=1e-9)
    assert mcnemar_p(lost, gained) == mcnemar_p(gained, lost)


def test_mcnemar_closed_form_and_large_counts():
    assert mcnemar_p(20, 0) == 2 * 0.5**20
    assert 0 <= mcnemar_p(5200, 4800) < 0.01
    assert binomial_tail(0, 7) == 1.0
    assert binomial_tail(7, 7) == 0.5**7


def test_statistics_is_a_leaf():
    code = (
        "import sys, sepdeploy.measure.statistics; "
        "heavy = {'torch', 'onnxruntime', 'scipy', 'rich', 'typer'}; "
        "sys.exit(bool(heavy & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
