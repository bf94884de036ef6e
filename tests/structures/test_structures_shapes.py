import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sepdeploy.errors import BadInput
from sepdeploy.structures import (
    STRUCTURES,
    DenseSpec,
    KronSpec,
    LowRankSpec,
    parse_structure,
    spec_from_json,
    suggest_shapes,
    two_modes,
)


@pytest.mark.parametrize(
    ("shape", "modes"),
    [
        ((1, 28, 28), (28, 28)),
        ((3, 32, 32), (96, 32)),
        ((1, 8, 8), (8, 8)),
        ((16, 5, 5), (16, 25)),
        ((32, 32), (32, 32)),
        ((1024,), (32, 32)),
        ((16, 16, 16), (16, 256)),
        ((512, 2, 2), (32, 64)),  # its own axes would be 128 times apart
        ((7,), (1, 7)),
        ((1,), (1, 1)),
    ],
)
def test_two_modes_keep_the_axes_of_a_sample(shape, modes):
    assert two_modes(shape) == modes


def test_suggestions_start_with_the_most_balanced():
    first = suggest_shapes(4096, 4096)[0]
    assert (first.in_shape, first.out_shape) == ((64, 64), (64, 64))
    three = suggest_shapes(4096, 4096, d=3)[0]
    assert (three.in_shape, three.out_shape) == ((16, 16, 16), (16, 16, 16))
    uneven = suggest_shapes(768, 3072)[0]
    assert sorted(uneven.in_shape) == [24, 32]
    assert sorted(uneven.out_shape) == [48, 64]
    assert uneven.structural_rank == 768


@given(st.integers(1, 60), st.integers(1, 60), st.integers(2, 3))
def test_suggestions_are_all_different_and_fit(n_in, n_out, d):
    specs = suggest_shapes(n_in, n_out, d)
    assert specs
    assert len(set(specs)) == len(specs)
    assert all((s.in_features, s.out_features) == (n_in, n_out) for s in specs)
    spread = [sum(max(m) / min(m) for m in (s.in_shape, s.out_shape)) for s in specs]
    assert spread == sorted(spread)


@pytest.mark.parametrize("arguments", [(0, 4), (4, -1), (4, 4, 1), (4, 4, 5), ("4", 4)])
def test_suggestions_for_nonsense(arguments):
    with pytest.raises(BadInput):
        suggest_shapes(*arguments)


@pytest.mark.parametrize(
    ("text", "shape", "features", "spec"),
    [
        ("dense", (1, 28, 28), 10, DenseSpec(784, 10)),
        ("kron", (1, 28, 28), 1024, KronSpec((28, 28), (32, 32))),
        ("kron*3", (1, 28, 28), 1024, KronSpec((28, 28), (32, 32), 3)),
        ("kron", (3, 32, 32), 2048, KronSpec((96, 32), (64, 32))),
        ("kron:aligned", (3, 32, 32), 2048, KronSpec((96, 32), (64, 32))),
        ("kron:aligned*2", (512, 7, 7), 4096, KronSpec((512, 49), (128, 32), 2)),
        ("kron:aligned", (784,), 1000, KronSpec((16, 49), (20, 50))),
        ("kron:28x28-64x64", (1, 28, 28), 4096, KronSpec((28, 28), (64, 64))),
        ("kron:28x28-64x64*2", (784,), 4096, KronSpec((28, 28), (64, 64), 2)),
        ("kron:4x7x28-4x8x8", (1, 28, 28), 256, KronSpec((4, 7, 28), (4, 8, 8))),
        (" lowrank:40 ", (28, 28), 50, LowRankSpec(784, 50, 40)),
    ],
)
def test_structure_strings(text, shape, features, spec):
    assert parse_structure(text, shape, features) == spec


@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 3))
def test_aligned_shapes_have_the_largest_rank_there_is(n_in, n_out, first):
    def pairs(n):
        found = [(a, n // a) for a in range(1, n + 1) if n % a == 0]
        proper = [pair for pair in found if 1 not in pair]  # others say dense in another way
        return proper or found

    sides = itertools.product(pairs(first * n_in), pairs(n_out))
    best = max(min(a, p) * min(b, q) for (a, b), (p, q) in sides)
    spec = parse_structure("kron:aligned", (first, n_in), n_out)
    assert (spec.in_features, spec.out_features) == (first * n_in, n_out)
    assert math.prod(map(min, spec.in_shape, spec.out_shape)) >= best


@pytest.mark.parametrize(
    "text",
    [
        "",
        "kron:",
        "kron:28x28",
        "kron:28-28",
        "kron:28x28-64x64x1",
        "kron:28x28-64x64*0",
        "kron:28x28-64x64*",
        "kron:0x28-64x64",
        "kron*x",
        "kron:aligned-64x64",
        "kron:aligned*",
        "kron:aligned*0",
        "kron:28x28-64x63",
        "kron:99999999999999999999x1-64x64",
        "lowrank",
        "lowrank:",
        "lowrank:0",
        "lowrank:-3",
        "lowrank:9999",
        "lowrank:4.5",
        "lowrank:٣",
        "dense:3",
        "kronn",
        "debut:3",
    ],
)
def test_malformed_structure_strings(text):
    with pytest.raises(BadInput) as caught:
        parse_structure(text, (1, 28, 28), 4096)
    assert "\n" not in caught.value.message
    assert caught.value.hint


def test_an_unknown_structure_names_the_closest():
    with pytest.raises(BadInput, match="closest: kron"):
        parse_structure("krn", (4,), 4)


def test_shapes_that_do_not_fit_suggest_some_that_do():
    with pytest.raises(BadInput, match="784 → 1000") as caught:
        parse_structure("kron:28x28-64x64", (784,), 1000)
    suggested = caught.value.hint.rpartition(" ")[2]
    assert parse_structure(suggested, (784,), 1000).out_features == 1000


@st.composite
def any_spec(draw):
    kind = draw(st.sampled_from(sorted(STRUCTURES)))
    if kind == "kron":
        d = draw(st.integers(2, 4))
        modes = st.tuples(*[st.integers(1, 9)] * d)
        return KronSpec(draw(modes), draw(modes), draw(st.integers(1, 4)))
    n_in, n_out = draw(st.integers(1, 50)), draw(st.integers(1, 50))
    if kind == "dense":
        return DenseSpec(n_in, n_out)
    return LowRankSpec(n_in, n_out, draw(st.integers(1, min(n_in, n_out))))


@given(any_spec())
def test_json_round_trip(spec):
    assert spec_from_json(spec.to_json()) == spec
    assert spec.weight_params == sum(math.prod(s) for s in spec.factor_shapes)


@pytest.mark.parametrize(
    "data",
    [
        None,
        [],
        "kron",
        {},
        {"structure": 3},
        {"structure": ["kron"]},
        {"structure": "krom", "in_shape": [2, 2], "out_shape": [2, 2]},
        {"structure": "kron"},
        {"structure": "kron", "in_shape": [2, 2]},
        {"structure": "kron", "in_shape": [2, 2], "out_shape": [2, 2], "extra": 1},
        {"structure": "kron", "in_shape": [4], "out_shape": [4]},
        {"structure": "kron", "in_shape": [2, 2], "out_shape": [2, 2, 2]},
        {"structure": "kron", "in_shape": [2, 2], "out_shape": "22"},
        {"structure": "kron", "in_shape": [2, 0], "out_shape": [2, 2]},
        {"structure": "kron", "in_shape": [2, -2], "out_shape": [2, 2]},
        {"structure": "kron", "in_shape": [2, 2.0], "out_shape": [2, 2]},
        {"structure": "kron", "in_shape": [2, True], "out_shape": [2, 2]},
        {"structure": "kron", "in_shape": [2, 2], "out_shape": [2, 2], "terms": 10**9},
        {"structure": "kron", "in_shape": [10**9, 10**9], "out_shape": [2, 2]},
        {"structure": "kron", "in_shape": [2**20, 2**20], "out_shape": [2, 2]},
        {"structure": "kron", "in_shape": [2] * 13, "out_shape": [2] * 13},
        {"structure": "dense", "in_features": 10**12, "out_features": 1},
        {"structure": "dense", "in_features": "a", "out_features": 1},
        {"structure": "lowrank", "in_features": 4, "out_features": 4, "rank": 5},
    ],
)
def test_json_that_makes_no_sense(data):
    with pytest.raises(BadInput) as caught:
        spec_from_json(data, where="entry")
    assert "\n" not in caught.value.message
