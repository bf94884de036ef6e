"""The dense reference: the same network with dense layers, rebuilt from an entry alone."""

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from onnx_graphs import Chain, make_model, ops, run_ort, structured_node

from sepdeploy.errors import BadInput
from sepdeploy.exporters import dense as dense_module
from sepdeploy.exporters.dense import dense_reference
from sepdeploy.exporters.entry import Entry, make_entry, parse_entry
from sepdeploy.exporters.onnx_file.write import write_onnx
from sepdeploy.exporters.onnx_graph.graph import float_bytes, serialize
from sepdeploy.exporters.tflite_file.write import write_tflite
from sepdeploy.records import InputSpec
from sepdeploy.structures import DenseSpec, KronSpec, LowRankSpec

CHAIN = Chain(KronSpec((6, 8), (10, 9), 2), LowRankSpec(90, 64, 4), DenseSpec(64, 10))


def entry_of(chain):
    text = make_entry(chain.canonical(), chain.input, chain.layers)
    return parse_entry(text.encode(), where="x")


def test_every_structured_layer_becomes_dense(tmp_path):
    model = dense_reference(entry_of(CHAIN))
    assert ops(model) == ["Gemm", "Relu", "Gemm", "Relu", "Gemm"]
    assert [n.name for n in model.graph.node if n.op_type == "Gemm"] == ["fc1", "fc2", "fc3"]
    params = sum(spec.dense_params(True) for spec in CHAIN.specs.values())
    assert float_bytes(model.graph) == 4 * params
    onnx.checker.check_model(model, full_check=True)
    logits = run_ort(model, CHAIN.samples(5))
    assert logits.shape == (5, 10)
    assert np.isfinite(logits).all()
    assert logits.std() > 0


def test_any_writer_can_write_it(tmp_path):
    model = dense_reference(entry_of(CHAIN))
    write_onnx(model, tmp_path / "dense.onnx", choices=())
    write_tflite(model, tmp_path / "dense.tflite", entry=None)
    size = 4 * sum(spec.dense_params(True) for spec in CHAIN.specs.values())
    for name in ("dense.onnx", "dense.tflite"):
        assert size < (tmp_path / name).stat().st_size < 1.2 * size + 4000


def test_the_seed_decides_every_weight():
    entry = entry_of(CHAIN)
    assert serialize(dense_reference(entry, 3)) == serialize(dense_reference(entry, 3))
    assert serialize(dense_reference(entry, 3)) != serialize(dense_reference(entry, 4))
    before = serialize(entry.graph)
    dense_reference(entry, 3)
    assert serialize(entry.graph) == before


def test_kept_constants_are_not_replaced():
    model = CHAIN.canonical()
    model.graph.initializer.append(numpy_helper.from_array(np.float32([0.5]), "mean"))
    model.graph.node.insert(0, helper.make_node("Sub", ["input", "mean"], ["shifted"], "Sub"))
    model.graph.node[1].input[0] = "shifted"
    entry = parse_entry(make_entry(model, CHAIN.input, CHAIN.layers).encode(), where="x")
    dense = dense_reference(entry)
    (mean,) = [t for t in dense.graph.initializer if t.name == "mean"]
    assert numpy_helper.to_array(mean).tolist() == [0.5]


def test_normalisation_weights_stay_usable():
    """A variance must not be negative: the logits of the reference shall not be NaN."""
    names = ["scale", "shift", "mean", "var"]
    bare = {n: np.zeros(100, np.float32) for n in names}
    node = helper.make_node("BatchNormalization", ["input", *names], ["logits"], "bn")
    model = make_model([node], bare, (100, 4), (100, 4))
    entry = parse_entry(make_entry(model, InputSpec((100, 4)), ()).encode(), where="x")
    assert np.isfinite(run_ort(dense_reference(entry), np.ones((2, 100, 4), np.float32))).all()


def test_weights_that_are_no_floats_are_zero():
    node = helper.make_node("Gather", ["table", "input"], ["logits"], "g")
    model = make_model([node], {"table": np.arange(100)}, (3,), (3,))
    entry = parse_entry(make_entry(model, InputSpec((3,)), ()).encode(), where="x")
    (table,) = dense_reference(entry).graph.initializer
    assert numpy_helper.to_array(table).tolist() == [0] * 100


def test_a_dense_form_of_many_gigabytes_is_refused_before_it_is_built():
    spec = KronSpec((1 << 10, 1 << 10), (1 << 10, 1 << 10))
    names = ["fc.F0", "fc.F1", "fc.bias"]
    model = make_model(
        [structured_node("fc", spec, ["input", *names], "logits")], {}, (1 << 20,), (1 << 20,)
    )
    for name, dims in zip(names, (*spec.factor_shapes, (1 << 20,)), strict=True):
        model.graph.initializer.add(name=name, data_type=1, dims=dims)
    with pytest.raises(BadInput, match=r"4398\.\d GB") as caught:
        dense_reference(Entry(InputSpec((1 << 20,)), (), model))
    assert "--dense" in caught.value.hint


def test_the_limit_counts_all_weights(monkeypatch):
    monkeypatch.setattr(dense_module, "MAX_DENSE_BYTES", 1000)
    with pytest.raises(BadInput, match="dense form"):
        dense_reference(entry_of(CHAIN))
