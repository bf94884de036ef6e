"""Layer by layer: right files agree everywhere, a wrong weight shows in its layer and behind it."""

import math

import numpy as np
import onnx
import pytest
from measure_models import Network
from onnx import TensorProto, helper, numpy_helper

from sepdeploy import runtimes
from sepdeploy.errors import BadInput
from sepdeploy.measure.proof.fidelity import (
    compare_artifacts,
    compare_with_oracle,
    fidelity,
    has_reduced_weights,
    layer_places,
    worst_layer,
)
from sepdeploy.measure.proof.oracle import oracle_graph, oracle_values
from sepdeploy.measure.proof.outputs import input_shape

FORMATS = ["onnx", *(["tflite"] if runtimes.installed("tflite") else [])]
LAYERS = ["first", "second", "head", "logits"]


@pytest.mark.slow
def test_every_layer_of_a_right_file_agrees(runtime_and_path, network, images):
    runtime, path = runtime_and_path
    rows = compare_with_oracle(path, runtime, images, network.canonical())
    assert [r.layer for r in rows] == LAYERS
    assert [r.kind for r in rows] == ["kron", "lowrank", "Gemm", "output"]
    for row in rows:
        assert row.max_rel <= 1e-5
        assert row.sqnr_db is None or row.sqnr_db > 110
        assert row.cosine == pytest.approx(1.0, abs=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize(
    ("weight", "layer"),
    [("first.factors.0", "first"), ("second.V", "second"), ("head.weight", "head")],
)
def test_a_wrong_weight_shows_from_its_layer_on(network, images, tmp_path, form, weight, layer):
    path = network.write(tmp_path / f"wrong.{form}", canonical=network.scaled(weight, 1.1))
    rows = compare_with_oracle(path, runtimes.installed(form)[0], images, network.canonical())
    first = LAYERS.index(layer)
    assert all(r.sqnr_db is None or r.sqnr_db > 110 for r in rows[:first])
    assert all(r.sqnr_db is not None and r.sqnr_db < 40 for r in rows[first:])
    assert worst_layer(rows) in LAYERS[first:3]


def test_the_oracle_is_the_dense_network(network, images):
    model = oracle_graph(network.canonical())
    assert not any(n.domain for n in model.graph.node)
    assert [t.dims for t in model.graph.initializer if t.name == "first.oracle"] == [[256, 256]]
    (found,) = oracle_values(model, images, ["logits"]).values()
    np.testing.assert_allclose(found, network.logits(images), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("mine", FORMATS)
@pytest.mark.parametrize("other", FORMATS)
def test_artifacts_of_one_model_agree_across_formats(artifacts, images, mine, other):
    rows = compare_artifacts(artifacts[mine], artifacts[other], images)
    assert [r.layer for r in rows] == LAYERS
    assert all(r.sqnr_db is None or r.sqnr_db > 110 for r in rows)
    if mine == other:
        assert worst_layer(rows) == ""


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMATS)
def test_inputs_that_both_share_are_no_layer(artifacts, images, tmp_path, form):
    """Two networks of other weights get the same input; none of their layers is equal."""
    other = Network(seed=1).write(tmp_path / f"other.{form}")
    rows = compare_artifacts(artifacts[form], other, images)
    assert [r.layer for r in rows] == LAYERS
    assert all(r.sqnr_db is not None and r.sqnr_db < 10 for r in rows)


@pytest.mark.slow
def test_a_file_without_an_entry_is_compared_by_its_own_names(artifacts, network, images, tmp_path):
    bare = network.write(tmp_path / "bare.onnx", entry=False)
    rows = compare_artifacts(artifacts["onnx"], bare, images)
    assert [r.layer for r in rows] == LAYERS
    assert worst_layer(rows) == ""
    assert input_shape(bare) == (256,)


@pytest.mark.slow
def test_other_classes_are_not_compared(artifacts, images, tmp_path):
    weight = np.ones((256, 3), np.float32)
    infos = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", size])
        for name, size in (("input", 256), ("logits", 3))
    ]
    node = helper.make_node("MatMul", ["input", "head.weight"], ["logits"], "head")
    tensors = [numpy_helper.from_array(weight, "head.weight")]
    graph = helper.make_graph([node], "net", infos[:1], infos[1:], tensors)
    path = tmp_path / "three.onnx"
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path
    )
    with pytest.raises(BadInput, match=r"\(8, 10\).*\(8, 3\)"):
        compare_artifacts(artifacts["onnx"], path, images)


def test_a_layer_is_named_after_its_weights_where_the_node_is_not():
    """What an exporter leaves of conv + folded normalisation: named after the normalisation."""
    conv = helper.make_node("Conv", ["input", "conv2.weight", "b"], ["bn2"], "bn2")
    relu = helper.make_node("Relu", ["bn2"], ["out"], "relu")
    tensors = [
        numpy_helper.from_array(np.ones((2, 2, 1, 1), np.float32), "conv2.weight"),
        numpy_helper.from_array(np.ones(2, np.float32), "b"),
    ]
    graph = helper.make_graph([conv, relu], "net", [], [], tensors)
    (place,) = layer_places(helper.make_model(graph))
    assert (place.layer, place.kind) == ("conv2", "Conv")
    assert place.nodes == ("conv2", "bn2", "relu")
    assert place.values == ("bn2", "out")


def test_numbers_follow_their_definitions():
    reference = np.array([[3.0, 4.0]], np.float32)
    row = fidelity("x", "k", "v", reference + np.float32([[0.0, 0.5]]), reference)
    assert (row.max_abs, row.max_rel) == (0.5, 0.125)
    assert row.sqnr_db == pytest.approx(10 * math.log10(25 / 0.25))
    assert row.cosine == pytest.approx((9 + 18) / (5 * math.hypot(3, 4.5)))
    assert fidelity("x", "k", "v", reference, reference).sqnr_db is None
    broken = fidelity("x", "k", "v", np.full_like(reference, np.nan), reference)
    assert (broken.max_abs, broken.max_rel, broken.sqnr_db, broken.cosine) == (
        None,
        None,
        -300,
        None,
    )
    zero = np.zeros_like(reference)
    assert fidelity("x", "k", "v", reference, zero).sqnr_db == -300
    assert fidelity("x", "k", "v", zero, reference).cosine is None


@pytest.mark.slow
def test_float16_weights_and_values_are_seen(tmp_path, images):
    weight = np.random.default_rng(0).standard_normal((256, 10)).astype(np.float16)
    infos = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", size])
        for name, size in (("input", 256), ("logits", 10))
    ]
    nodes = [
        helper.make_node("Cast", ["input"], ["half"], "down", to=TensorProto.FLOAT16),
        helper.make_node("MatMul", ["half", "head.weight"], ["product"], "head"),
        helper.make_node("Cast", ["product"], ["logits"], "up", to=TensorProto.FLOAT),
    ]
    tensors = [numpy_helper.from_array(weight, "head.weight")]
    graph = helper.make_graph(nodes, "net", infos[:1], infos[1:], tensors)
    path = tmp_path / "half.onnx"
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path
    )
    assert has_reduced_weights(path)
    rows = compare_artifacts(path, path, images)
    assert [r.layer for r in rows] == ["head", "logits"]


@pytest.mark.parametrize("form", FORMATS)
def test_float32_weights_are_not_reduced(artifacts, form):
    assert not has_reduced_weights(artifacts[form])
