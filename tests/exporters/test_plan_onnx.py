"""The planner: by rule, always the same, with its reasons."""

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx_graphs import Chain

from sepdeploy.errors import BadInput
from sepdeploy.exporters.families import FAMILIES
from sepdeploy.exporters.families.dense import DENSE_GROWTH, SMALL_DENSE_BYTES
from sepdeploy.exporters.families.kron_cost import arrangement
from sepdeploy.exporters.plan import choose, plan, planned_weights
from sepdeploy.structures import DenseSpec, KronSpec, LowRankSpec


def form_of(spec, format="onnx"):
    return choose("layer", spec, FAMILIES[spec.structure].forms(format)).form


@pytest.mark.parametrize(
    ("spec", "form"),
    [
        (KronSpec((64, 64), (64, 64)), "mm"),  # square: in place
        (KronSpec((28, 28), (64, 64)), "mm"),
        (KronSpec((512, 8), (512, 8)), "gemm2d"),  # few columns beside a large left factor
        (KronSpec((256, 3), (256, 12)), "gemm2d"),
        (KronSpec((128, 6), (256, 12)), "gemm2d"),
        (KronSpec((32, 32), (32, 32), 4), "mm"),
        (KronSpec((4, 4), (4, 4)), "dense"),  # 1 KiB instead of two products
        (KronSpec((16, 16), (16, 16)), "mm"),  # 256 KiB would be a price
        (LowRankSpec(4096, 4096, 10), "gemm2"),
        (LowRankSpec(256, 256, 200), "dense"),
    ],
)
def test_measured_choices_stay(spec, form):
    assert form_of(spec) == form


@pytest.mark.parametrize(
    ("spec", "groups"),
    [
        (KronSpec((4, 8, 8), (8, 8, 8)), ((0,), (1, 2))),
        (KronSpec((16, 16, 16), (16, 16, 16)), ((0,), (1,), (2,))),
        (KronSpec((2, 4, 98), (2, 4, 64)), ((0, 1), (2,))),
    ],
)
def test_small_neighbours_are_merged(spec, groups):
    form = form_of(spec)
    found = arrangement(form, spec)
    assert found.groups == groups
    assert planned_weights(spec, "onnx") >= spec.weight_params


def test_the_cheaper_order_is_taken():
    """(128, 6) → (256, 12): growing the short mode first costs twice the multiplications."""
    assert arrangement("gemm2d", KronSpec((128, 6), (256, 12))).order == (0, 1)
    assert arrangement("gemm2d", KronSpec((6, 128), (12, 256))).order == (1, 0)


@given(
    st.lists(st.integers(1, 40), min_size=2, max_size=2),
    st.lists(st.integers(1, 40), min_size=2, max_size=2),
    st.integers(1, 3),
)
def test_dense_never_costs_size(in_shape, out_shape, terms):
    spec = KronSpec(tuple(in_shape), tuple(out_shape), terms)
    weights = planned_weights(spec, "onnx")
    assert weights <= max(SMALL_DENSE_BYTES // 4, DENSE_GROWTH * spec.weight_params)
    if form_of(spec) != "dense":
        assert weights == spec.weight_params  # two modes are never merged


def test_every_refused_form_has_a_reason():
    chain = Chain(KronSpec((16, 16), (16, 16)), LowRankSpec(256, 64, 8))
    for format in ("onnx", "tflite"):
        for choice in plan(chain.canonical(), format):
            names = [f.name for f in FAMILIES[choice.structure].forms(format)]
            assert sorted([choice.form, *(r.form for r in choice.refused)]) == sorted(names)
            assert all(r.reason for r in choice.refused)
            assert choice.reason


def test_choices_follow_the_graph():
    chain = Chain(KronSpec((4, 6), (5, 5)), LowRankSpec(25, 30, 2), KronSpec((5, 6), (2, 3)))
    found = plan(chain.canonical(), "onnx")
    assert [(c.layer, c.structure) for c in found] == [
        ("fc1", "kron"),
        ("fc2", "lowrank"),
        ("fc3", "kron"),
    ]


def custom(spec, format="onnx"):
    (choice,) = plan(Chain(spec).canonical(), format, flavour="custom")
    return choice, {r.form: r.reason for r in choice.refused}


def test_the_custom_flavour_hands_layers_to_the_fused_op():
    choice, refused = custom(KronSpec((64, 64), (64, 64)))
    assert choice.form == "fused"
    assert "not faster" in refused[form_of(KronSpec((64, 64), (64, 64)))]


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        (KronSpec((2, 2), (2, 2)), "one dense product is faster"),
        (KronSpec((2, 6272), (4, 2048)), "leaves nothing to save"),
    ],
)
def test_where_the_fused_op_is_not_faster_the_standard_form_stays(spec, why):
    choice, refused = custom(spec)
    assert choice.form == form_of(spec)
    assert why in refused["fused"]


def test_tflite_takes_dense_only_where_it_cannot_be_slower():
    assert form_of(LowRankSpec(16, 16, 12), "tflite") == "dense"
    assert form_of(LowRankSpec(16, 16, 3), "tflite") == "fc"
    assert form_of(KronSpec((8, 8), (8, 8)), "tflite") == "fc_t"
    assert planned_weights(LowRankSpec(16, 16, 12), "tflite") == 256


def test_a_dense_layer_holds_its_own_weights():
    assert planned_weights(DenseSpec(3, 4), "onnx") == 12


def test_an_unknown_format_names_the_known_ones():
    with pytest.raises(BadInput, match="unknown format 'onxx'; closest: onnx"):
        plan(Chain(KronSpec((2, 2), (2, 2))).canonical(), "onxx")


def test_many_modes_are_planned_quickly():
    """2048 ways to merge twelve modes; the orders of more than four groups are not all tried."""
    found = arrangement("gemm2d", KronSpec((2,) * 12, (2,) * 12))
    assert len(found.groups) <= 4


@pytest.mark.slow
def test_the_answer_does_not_depend_on_the_process():
    code = (
        "from sepdeploy.structures import KronSpec\n"
        "from sepdeploy.exporters.families.kron_cost import arrangement\n"
        "print([arrangement(f, KronSpec((4, 8, 8), (8, 8, 8))).key for f in ('mm', 'gemm2d')])"
    )
    runs = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(filter(None, sys.path))},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for seed in ("1", "2")
    }
    expected = [arrangement(f, KronSpec((4, 8, 8), (8, 8, 8))).key for f in ("mm", "gemm2d")]
    assert runs == {f"{expected}\n"}
