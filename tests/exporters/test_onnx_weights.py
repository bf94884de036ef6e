"""Weights beside their graph: light copies, streamed bytes, external data."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx_graphs import make_model

from sepdeploy import runtimes
from sepdeploy.errors import BadInput
from sepdeploy.exporters.entry import read_entry
from sepdeploy.exporters.onnx_file import disk as onnx_write
from sepdeploy.exporters.onnx_file.disk import (
    chunks,
    data_path,
    external_data,
    file_bytes,
    write_model,
)
from sepdeploy.exporters.onnx_file.write import write_onnx
from sepdeploy.exporters.onnx_graph.canonical import clean
from sepdeploy.exporters.onnx_graph.graph import copy_model, serialize
from sepdeploy.exporters.onnx_graph.weights import (
    as_inputs,
    detach,
    from_inputs,
    is_held,
    settle,
    total_bytes,
)

WIDE, DEEP = 300, 200  # a weight of 240 kB: one that is held


def perceptron(seed=0):
    rng = np.random.default_rng(seed)
    constants = {
        "fc1.weight": rng.standard_normal((DEEP, WIDE)).astype(np.float32),
        "fc1.bias": rng.standard_normal(DEEP).astype(np.float32),
        "fc2.weight": rng.standard_normal((DEEP, DEEP)).astype(np.float32),
        "scale": np.array([2.0], np.float32),
    }
    nodes = [
        helper.make_node("Gemm", ["input", "fc1.weight", "fc1.bias"], ["a"], "fc1", transB=1),
        helper.make_node("Mul", ["a", "scale"], ["b"], "scaled"),
        helper.make_node("MatMul", ["b", "fc2.weight"], ["logits"], "fc2"),
    ]
    model = make_model(nodes, constants, (WIDE,), (DEEP,))
    w = {k: v.astype(np.float64) for k, v in constants.items()}
    return model, lambda x: (x @ w["fc1.weight"].T + w["fc1.bias"]) * 2 @ w["fc2.weight"]


def test_a_light_copy_has_everything_but_the_large_numbers():
    model, _ = perceptron()
    light, left_out = detach(model)
    assert set(left_out) == {"fc1.weight", "fc2.weight"}
    assert light.ByteSize() < 3000
    assert total_bytes(light) == pytest.approx(model.ByteSize(), abs=500)
    kept, _ = detach(model, frozenset({"fc1.weight"}))
    assert not is_held(kept.graph.initializer[0])
    settle(light, {name: numpy_helper.to_array(t) for name, t in left_out.items()})
    assert serialize(light) == serialize(model)


def test_the_original_is_not_changed():
    model, _ = perceptron()
    before = serialize(model)
    light, _ = detach(model)
    clean(light)
    assert serialize(model) == before


def test_held_constants_are_inputs_for_a_while():
    model, _ = perceptron()
    light, _ = detach(model)
    changed = as_inputs(light)
    onnx.checker.check_model(changed, full_check=True)
    assert [i.name for i in changed.graph.input] == ["input", "fc1.weight", "fc2.weight"]
    del changed.graph.node[2]  # what no node reads any more does not come back
    changed.graph.output[0].name = "b"
    from_inputs(changed, light)
    assert [i.name for i in changed.graph.input] == ["input"]
    assert [t.name for t in changed.graph.initializer if is_held(t)] == ["fc1.weight"]


def test_streamed_bytes_are_those_of_the_whole_message():
    model, _ = perceptron()
    model.metadata_props.add(key="sepdeploy", value="{}")
    model.producer_name = "someone"
    model.graph.doc_string = "a graph"
    light, left_out = detach(model)
    assert b"".join(chunks(light, left_out)) == serialize(model)


def test_numbers_in_other_fields_are_written_as_raw_bytes(tmp_path):
    model, oracle = perceptron()
    for item in model.graph.initializer:
        array = numpy_helper.to_array(item).copy()
        item.ClearField("raw_data")
        item.float_data.extend(array.ravel().tolist())
    light, left_out = detach(model)
    write_model(light, left_out, tmp_path / "m.onnx")
    x = np.random.default_rng(1).random((3, WIDE), dtype=np.float32)
    with runtimes.open(tmp_path / "m.onnx") as session:
        assert np.allclose(session.run(x), oracle(x), rtol=1e-4, atol=1e-3)


@pytest.fixture
def apart(tmp_path):
    """A model whose weights were too large for one file."""
    model, oracle = perceptron()
    path = tmp_path / "m.onnx"
    light, left_out = detach(model)
    write_model(light, left_out, path, limit=1000)
    return path, model, oracle


def test_external_data_runs_by_path(apart):
    path, model, oracle = apart
    assert path.stat().st_size < 3000
    assert data_path(path).stat().st_size >= 4 * DEEP * (WIDE + DEEP)
    onnx.checker.check_model(str(path), full_check=True)
    x = np.random.default_rng(1).random((3, WIDE), dtype=np.float32)
    with runtimes.open(path) as session:
        assert np.allclose(session.run(x), oracle(x), rtol=1e-4, atol=1e-3)
    loaded = onnx.load(path)
    for item, wanted in zip(loaded.graph.initializer, model.graph.initializer, strict=True):
        assert np.array_equal(numpy_helper.to_array(item), numpy_helper.to_array(wanted))


def test_external_data_is_aligned_and_plain(apart):
    path, _, _ = apart
    light = onnx.load(path, load_external_data=False)
    found = [t for t in light.graph.initializer if t.data_location == TensorProto.EXTERNAL]
    entries = [{e.key: e.value for e in t.external_data} for t in found]
    assert {e["location"] for e in entries} == {"m.onnx.data"}
    assert all(int(e["offset"]) % 64 == 0 for e in entries)
    assert data_path(path).stat().st_nlink == 1


def test_both_files_count(apart):
    path, _, _ = apart
    both = path.stat().st_size + data_path(path).stat().st_size
    assert file_bytes(path) == both
    model, _ = perceptron()
    write_onnx(model, path, choices=())  # in one file: the old data is not its own
    assert external_data(path) is None
    assert file_bytes(path) == path.stat().st_size


def test_a_failed_write_leaves_neither_file(tmp_path, monkeypatch):
    model, _ = perceptron()
    light, left_out = detach(model)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(onnx_write, "raw_bytes", full)
    for limit in (1000, 1 << 30):
        with pytest.raises(BadInput, match="No space left"):
            write_model(light, left_out, tmp_path / "m.onnx", limit=limit)
    assert list(tmp_path.iterdir()) == []


def test_a_written_model_is_the_model(tmp_path):
    model, oracle = perceptron()
    before = serialize(copy_model(model))
    write_onnx(model, tmp_path / "m.onnx", choices=())
    assert serialize(model) == before
    x = np.random.default_rng(2).random((2, WIDE), dtype=np.float32)
    with runtimes.open(tmp_path / "m.onnx") as session:
        assert np.allclose(session.run(x), oracle(x), rtol=1e-4, atol=1e-3)
    with pytest.raises(BadInput, match="no sepdeploy entry"):
        read_entry(tmp_path / "m.onnx")


def test_held_constants_are_folded_with_their_numbers():
    weight = np.random.default_rng(0).standard_normal((DEEP, WIDE)).astype(np.float32)
    nodes = [
        helper.make_node("Transpose", ["w"], ["wt"], "turn"),
        helper.make_node("MatMul", ["input", "wt"], ["logits"], "fc"),
    ]
    model = make_model(nodes, {"w": weight}, (WIDE,), (DEEP,))
    light, _ = detach(model)
    clean(light)
    assert [n.op_type for n in light.graph.node] == ["Transpose", "MatMul"]
    weights = {"w": weight}
    clean(light, weights)
    assert [n.op_type for n in light.graph.node] == ["MatMul"]
    (name,) = (t.name for t in light.graph.initializer)
    assert np.array_equal(weights[name], weight.T)
    settle(light, weights)
    onnx.checker.check_model(light, full_check=True)
