"""Butterfly layers in files of both formats, against their dense matrices."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx_graphs import Chain, relative, run_ort, run_reference

from sepdeploy import runtimes
from sepdeploy.exporters.domain import constant_shapes, node_spec, structured_nodes
from sepdeploy.exporters.families import FAMILIES
from sepdeploy.exporters.families.debut import MERGED_GROWTH, cuts_of
from sepdeploy.exporters.onnx_file.bodies import with_bodies
from sepdeploy.exporters.onnx_file.write import write_onnx
from sepdeploy.exporters.plan import plan, planned_weights
from sepdeploy.exporters.tflite_file.write import write_tflite
from sepdeploy.records import LoweringChoice
from sepdeploy.structures import DebutSpec
from sepdeploy.structures.debut.chain import read_chain, widths, with_steps

FC1 = DebutSpec.of(read_chain("(2,2,64)(2,2,32)(1,2,32)(2,2,16)(16,25,1)"))
SPECS = [
    FC1,
    DebutSpec.of(with_steps([(4, 4)] * 4)),
    DebutSpec.of(with_steps([(3, 5), (1, 2), (4, 3)])),
    DebutSpec.of(with_steps([(6, 4)])),
    DebutSpec(with_steps([(5, 3), (5, 9)]), 23, 22),
]
BOTH = pytest.mark.parametrize("spec", SPECS, ids=lambda s: s.text)


@st.composite
def debut_specs(draw):
    sides = st.integers(1, 3)
    chain = with_steps(draw(st.lists(st.tuples(sides, sides), min_size=1, max_size=4)))
    crop = draw(st.booleans())
    return DebutSpec(chain, *(max(1, w - crop) for w in (widths(chain)[0], widths(chain)[-1])))


@BOTH
def test_a_node_tells_its_structure(spec):
    model = Chain(spec).canonical()
    (node,) = structured_nodes(model)
    assert node_spec(node, constant_shapes(model)) == spec


@pytest.mark.parametrize("form", [f.name for f in FAMILIES["debut"].onnx])
@settings(deadline=None, max_examples=8)
@given(spec=debut_specs())
def test_onnx_forms_equal_the_dense_matrix(form, spec, tmp_path_factory):
    chain = Chain(spec)
    path = tmp_path_factory.mktemp("m") / "m.onnx"
    write_onnx(chain.canonical(), path, choices=(LoweringChoice("fc1", "debut", form),))
    x = chain.samples()
    assert relative(run_ort(path, x), chain(x)) <= 1e-5
    assert relative(run_reference(path, x), chain(x)) <= 1e-5


@pytest.mark.parametrize("form", [f.name for f in FAMILIES["debut"].tflite])
@BOTH
def test_tflite_forms_equal_the_dense_matrix(form, spec, tmp_path):
    pytest.importorskip("ai_edge_litert")
    chain = Chain(spec)
    path = tmp_path / "m.tflite"
    write_tflite(chain.canonical(), path, choices=(LoweringChoice("fc1", "debut", form),))
    for n in (1, 3):
        x = chain.samples(n)
        assert relative(runtimes.open(path, "litert").run(x), chain(x)) <= 1e-5


def test_one_body_serves_chains_of_other_lengths():
    lengths = ([(4, 3), (5, 2)], [(3, 5), (1, 2), (4, 2)], [(6, 12)])
    chain = Chain(*(DebutSpec.of(with_steps(pairs)) for pairs in lengths))
    model = chain.canonical()
    bodies = with_bodies(model, plan(model, "onnx", flavour="custom"))
    assert {f.name for f in bodies.functions} == {"DeButLinear"}
    x = chain.samples()
    assert relative(run_ort(bodies, x), chain(x)) <= 1e-5
    assert relative(run_reference(bodies, x), chain(x)) <= 1e-5


def test_a_body_pads_where_the_chain_is_wider():
    chain = Chain(SPECS[4], DebutSpec.of(with_steps([(3, 11), (2, 2)])))
    model = chain.canonical()
    bodies = with_bodies(model, plan(model, "onnx", flavour="custom"))
    x = chain.samples()
    assert relative(run_ort(bodies, x), chain(x)) <= 1e-5


@pytest.mark.parametrize("radix", [2, 4, 8, 16])
def test_small_factors_are_merged_within_the_limit(radix):
    steps = {2: 10, 4: 5, 8: 4, 16: 3}[radix]
    spec = DebutSpec.of(with_steps([(radix, radix)] * steps))
    for format in ("onnx", "tflite"):
        held = planned_weights(spec, format)
        assert spec.weight_params <= held <= MERGED_GROWTH * spec.weight_params
        assert held <= spec.dense_macs / 2
    if radix <= 4:
        assert len(cuts_of("conv", spec.chain)) < len(spec.chain)


def test_a_small_layer_is_told_that_dense_is_faster():
    model = Chain(DebutSpec.of(with_steps([(8, 8), (8, 8)]))).canonical()
    (choice,) = plan(model, "onnx")
    assert choice.form == "dense"
    assert "dense is faster here" in choice.reason
