"""The planner for TFLite: small neighbours merged, products in place where they pay."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx_graphs import Chain

from sepdeploy import runtimes
from sepdeploy.exporters.domain import constant_shapes, node_spec, structured_nodes
from sepdeploy.exporters.families import FAMILIES
from sepdeploy.exporters.families.kron_tflite import best_groups
from sepdeploy.exporters.onnx_graph.merging import merged_for_tflite
from sepdeploy.exporters.plan import choose, plan, planned_weights
from sepdeploy.exporters.tflite_file.write import write_tflite
from sepdeploy.structures import KronSpec, LowRankSpec


def form_of(spec):
    return choose("layer", spec, FAMILIES[spec.structure].tflite).form


@pytest.mark.parametrize(
    ("spec", "form"),
    [
        (KronSpec((8, 96), (24, 128)), "fc_bmm"),  # a small factor from the left
        (KronSpec((28, 28), (64, 64)), "fc_bmm"),
        (KronSpec((49, 512), (4, 1024)), "fc_t"),  # the last mode first costs many times more
        (KronSpec((64, 8), (64, 8)), "fc_t"),  # narrow products
        (KronSpec((256, 3), (256, 12)), "fc_t"),
        (KronSpec((32, 32), (32, 32), 2), "fc_t"),  # several terms
        (LowRankSpec(256, 256, 8), "fc"),
    ],
)
def test_measured_choices_stay(spec, form):
    assert form_of(spec) == form


@pytest.mark.parametrize(
    ("spec", "groups"),
    [
        (KronSpec((2, 2, 96), (12, 2, 128)), ((0, 1), (2,))),
        (KronSpec((8, 8), (8, 8)), ((0,), (1,))),
        (KronSpec((64, 64, 64), (64, 64, 64)), ((0,), (1,), (2,))),  # would be 4096 wide
    ],
)
def test_small_neighbours_are_merged(spec, groups):
    assert best_groups(spec) == groups


def test_forms_that_a_file_cannot_have_are_refused_with_the_reason():
    graph = Chain(KronSpec((8, 96), (24, 128))).canonical()
    for options in ({"runtime": "tflite-runtime-2.14"}, {"quantized": True}):
        (choice,) = plan(graph, "tflite", **options)
        assert choice.form == "fc_t"
        assert next(r.reason for r in choice.refused if r.form == "fc_bmm")
    assert plan(graph, "tflite")[0].form == "fc_bmm"


sides = st.lists(st.sampled_from([1, 2, 3, 4, 8]), min_size=3, max_size=3)


@given(sides, sides, st.integers(1, 2))
def test_merging_keeps_the_matrix_and_what_the_planner_says_it_weighs(in_shape, out_shape, terms):
    spec = KronSpec(tuple(in_shape), tuple(out_shape), terms)
    chain = Chain(spec)
    before = chain.canonical()
    text = before.SerializeToString()
    after = merged_for_tflite(before)
    assert before.SerializeToString() == text
    (node,) = structured_nodes(after)
    merged = node_spec(node, constant_shapes(after))
    held = {t.name: t for t in after.graph.initializer}
    factors = [
        np.frombuffer(held[n].raw_data, np.float32).reshape(held[n].dims) for n in node.input[1:-1]
    ]
    (original,) = structured_nodes(before)
    own = {t.name: t for t in before.graph.initializer}
    unmerged = [
        np.frombuffer(own[n].raw_data, np.float32).reshape(own[n].dims)
        for n in original.input[1:-1]
    ]
    matrix = sum(
        np.kron(np.kron(unmerged[0][k], unmerged[1][k]), unmerged[2][k]) for k in range(terms)
    )
    np.testing.assert_allclose(merged.dense_matrix(factors), matrix, rtol=1e-5, atol=1e-6)
    if form_of(spec) != "dense":
        assert merged.weight_params == planned_weights(spec, "tflite")


def test_nothing_to_merge_is_the_same_graph():
    graph = Chain(KronSpec((8, 8), (8, 8)), LowRankSpec(64, 16, 4)).canonical()
    assert merged_for_tflite(graph) is graph


@pytest.mark.skipif(not runtimes.installed("tflite"), reason="no TFLite runtime is installed")
def test_a_merged_file_equals_the_dense_matrix(tmp_path):
    chain = Chain(KronSpec((2, 2, 12), (4, 2, 16)), KronSpec((4, 32), (8, 64)))
    graph = chain.canonical()
    path = tmp_path / "m.tflite"
    write_tflite(merged_for_tflite(graph), path, choices=plan(graph, "tflite"))
    x = np.random.default_rng(0).random((3, 48), dtype=np.float32)
    expected = chain(x)
    for runtime in runtimes.installed("tflite"):
        found = runtimes.open(path, runtime).run(x)
        assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()
