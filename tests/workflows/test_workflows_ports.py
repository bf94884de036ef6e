"""Networks of several inputs, of other types and without a batch: exported whole, by name."""

import json
import shutil

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from sepdeploy import api, runtimes
from sepdeploy.errors import ArtifactCheckFailed, BadInput
from sepdeploy.exports.manifest import read_manifest
from sepdeploy.exports.named import asked
from sepdeploy.records import TensorSpec

pytestmark = pytest.mark.skipif(not runtimes.installed("tflite"), reason="no TFLite runtime")
RNG = np.random.default_rng(0)
TABLE = RNG.standard_normal((8, 4)).astype(np.float32)


def info(name, kind, shape):
    return helper.make_tensor_value_info(name, getattr(TensorProto, kind), shape)


def stored(path, nodes, inputs, outputs, constants):
    weights = [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()]
    graph = helper.make_graph(nodes, "elsewhere", inputs, outputs, weights)
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path
    )
    return path


@pytest.fixture(scope="module")
def fused(tmp_path_factory):
    """An image, words and one number; scores, the best class, a mask and bytes."""
    node = helper.make_node
    nodes = [
        node("Gather", ["table", "ids"], ["words"]),
        node("ReduceMean", ["words", "one"], ["m"], keepdims=0),
        node("GlobalAveragePool", ["image"], ["p"]),
        node("Flatten", ["p"], ["f"]),
        node("Add", ["m", "f"], ["s"]),
        node("Mul", ["s", "gain"], ["logits"]),
        node("ArgMax", ["logits"], ["label"], axis=1, keepdims=0),
        node("Greater", ["logits", "zero"], ["mask"]),
        node("Cast", ["mask"], ["bytes"], to=TensorProto.UINT8),
    ]
    inputs = [
        info("image", "FLOAT", ["N", 4, 6, 6]),
        info("ids", "INT64", ["N", 5]),
        info("gain", "FLOAT", []),
    ]
    outputs = [
        info("logits", "FLOAT", ["N", 4]),
        info("label", "INT64", ["N"]),
        info("mask", "BOOL", ["N", 4]),
        info("bytes", "UINT8", ["N", 4]),
    ]
    constants = {"table": TABLE, "one": np.array([1]), "zero": np.zeros(1, np.float32)}
    folder = tmp_path_factory.mktemp("fused")
    source = stored(folder / "fused.onnx", nodes, inputs, outputs, constants)
    return folder, api.export(source, out_dir=folder / "out")


def expected(image, ids, gain):
    logits = (TABLE[ids].mean(axis=1) + image.mean(axis=(2, 3))) * gain
    mask = logits > 0
    return {"logits": logits, "label": logits.argmax(1), "mask": mask, "bytes": mask.astype("u1")}


@pytest.mark.parametrize("form", ["onnx", "tflite"])
@pytest.mark.parametrize("batch", [1, 4])
def test_every_output_is_what_numpy_says(fused, form, batch):
    folder, _ = fused
    image = RNG.standard_normal((batch, 4, 6, 6)).astype(np.float32)
    ids = RNG.integers(0, 8, (batch, 5))
    wanted = expected(image, ids, 1.5)
    with runtimes.open(folder / "out" / f"fused.{form}") as session:
        found = session.run({"image": image, "ids": ids, "gain": np.float32(1.5)})
    assert set(found) == set(wanted)
    for name, value in wanted.items():
        assert found[name].dtype.kind == value.dtype.kind
        assert np.allclose(found[name], value, atol=1e-5), name


def test_the_manifest_names_what_goes_in_and_out_and_proves_each_output(fused):
    folder, manifest = fused
    assert manifest.input is None
    assert {s.name: (s.dtype, s.shape) for s in manifest.inputs} == {
        "image": ("float32", (-1, 4, 6, 6)),
        "ids": ("int64", (-1, 5)),
        "gain": ("float32", ()),
    }
    assert [s.name for s in manifest.outputs] == ["logits", "label", "mask", "bytes"]
    for artifact in manifest.artifacts:
        able = runtimes.installed(artifact.format)
        proven = {(p.runtime, p.output, p.batch) for p in artifact.parity if p.passed}
        assert proven == {(r, s.name, n) for r in able for s in manifest.outputs for n in (1, 3)}
    assert read_manifest(folder / "out" / "fused.manifest.json") == manifest


@pytest.mark.parametrize("ids", [[2**40, 0, 1, 2, 3], [0.5, 0, 1, 2, 3]])
def test_numbers_that_a_type_does_not_hold_are_refused(fused, ids):
    folder, _ = fused
    image = np.zeros((1, 4, 6, 6), np.float32)
    for form in ("onnx", "tflite"):
        with runtimes.open(folder / "out" / f"fused.{form}") as session, pytest.raises(BadInput):
            session.run({"image": image, "ids": np.array([ids]), "gain": np.float32(1)})


@pytest.mark.parametrize(
    ("key", "value"),
    [("shapes", [1]), ("shapes", {"a": "xy"}), ("shapes", {"a": [1, 0]}), ("outputs", 5)],
)
def test_a_manifest_that_chooses_nonsense_is_one_line(fused, tmp_path, key, value):
    folder, _ = fused
    shutil.copytree(folder, tmp_path / "copy")
    path = tmp_path / "copy/out/fused.manifest.json"
    told = json.loads(path.read_text())
    told["provenance"][key] = value
    path.write_text(json.dumps(told))
    with pytest.raises(BadInput, match="provenance"):
        api.verify(path)


@pytest.mark.slow
def test_it_is_verified_again_and_benched(fused):
    folder, _ = fused
    manifest = folder / "out" / "fused.manifest.json"
    assert {i.result for i in api.verify(manifest).items} == {"ok"}
    report = api.bench([manifest])
    assert {r.artifact.format for r in report.results} == {"onnx", "tflite"}


@pytest.mark.slow
def test_numbers_and_vectors_without_a_batch(tmp_path):
    nodes = [helper.make_node("Mul", ["x", "s"], ["y"]), helper.make_node("Cos", ["s"], ["z"])]
    inputs = [info("x", "DOUBLE", [7]), info("s", "DOUBLE", [])]
    outputs = [info("y", "DOUBLE", [7]), info("z", "DOUBLE", [])]
    source = stored(tmp_path / "plain.onnx", nodes, inputs, outputs, {})
    (artifact,) = api.export(source, formats="tflite").artifacts
    assert {p.batch for p in artifact.parity} == {1}
    with runtimes.open(tmp_path / "plain.tflite") as session:
        found = session.run({"x": np.arange(7.0), "s": np.array(2.0)})
    assert np.allclose(found["y"], 2 * np.arange(7))
    assert found["z"].shape == ()


def test_a_source_of_integers_is_asked_with_weights_moved_by_their_rounding():
    """A difference of two large sums keeps few digits, which no integer input can show."""
    spec = TensorSpec("ids", "int64", (2,))

    def said(feeds):
        assert feeds["ids"].max() <= 1  # a table of two rows
        return {"y": np.array([1.0, 2.0])}

    def ask(feeds):
        if feeds["ids"].max() > 1:
            raise BadInput("no such row", hint="none")
        return said(feeds)

    steady = asked(ask, (spec,), said_by="it", seed=0)
    assert all(case.tolerance == {"y": 1e-5} for case in steady.cases)
    loose = asked(
        ask, (spec,), said_by="it", seed=0, shaken=lambda _: {"y": np.array([1.0, 2.0001])}
    )
    assert all(1e-4 < case.tolerance["y"] < 1e-3 for case in loose.cases)
    lost = asked(ask, (spec,), said_by="it", seed=0, shaken=lambda _: {"y": np.array([1.0, 2.1])})
    assert all(not case.tolerance for case in lost.cases)
    assert "rounding alone moves it" in lost.notes[0]


@pytest.mark.slow
def test_a_state_whose_batch_stands_second(tmp_path):
    weights = {
        "w": RNG.standard_normal((1, 20, 3)).astype(np.float32),
        "r": RNG.standard_normal((1, 20, 5)).astype(np.float32) / 3,
    }
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"], perm=[1, 0, 2]),
        helper.make_node(
            "LSTM", ["t", "w", "r", "", "", "h", "c"], ["y", "hn", "cn"], hidden_size=5
        ),
    ]
    inputs = [info("x", "FLOAT", ["N", "T", 3])]
    inputs += [info(name, "FLOAT", [1, "N", 5]) for name in ("h", "c")]
    outputs = [info(name, "FLOAT", [1, "N", 5]) for name in ("hn", "cn")]
    source = stored(tmp_path / "vad.onnx", nodes, inputs, outputs, weights)
    manifest = api.export(source, formats="tflite", input_shape={"x": (2, 4, 3)})
    assert [s.shape for s in manifest.inputs] == [(2, 4, 3), (1, 2, 5), (1, 2, 5)]
    assert all(p.passed for a in manifest.artifacts for p in a.parity)
    assert {i.result for i in api.verify(tmp_path / "vad.manifest.json").items} == {"ok"}


def test_open_sizes_of_two_names_are_two_sizes(tmp_path):
    nodes = [helper.make_node("MatMul", ["a", "b"], ["y"])]
    inputs = [info("a", "FLOAT", ["N", 2, 3]), info("b", "FLOAT", ["M", 3, 2])]
    source = stored(tmp_path / "m.onnx", nodes, inputs, [info("y", "FLOAT", ["N", 2, 2])], {})
    with pytest.raises(BadInput, match=r"size 0 \('M'\) of input 'b' is open") as caught:
        api.export(source)
    assert "--input-shape b=" in caught.value.hint


@pytest.mark.slow
def test_a_wrong_output_is_named_and_nothing_is_written(tmp_path, monkeypatch):
    from sepdeploy.exporters.tflite_file.ops import CONVERTERS, arithmetic

    monkeypatch.setitem(CONVERTERS, "Sub", arithmetic.binary_op("ADD"))
    nodes = [helper.make_node("Add", ["a", "b"], ["s"]), helper.make_node("Sub", ["a", "b"], ["d"])]
    inputs = [info("a", "FLOAT", [3]), info("b", "FLOAT", [3])]
    source = stored(
        tmp_path / "m.onnx", nodes, inputs, [info(n, "FLOAT", [3]) for n in ("s", "d")], {}
    )
    with pytest.raises(ArtifactCheckFailed, match=r"m.tflite in .*output 'd'.*away from m.onnx"):
        api.export(source)
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]
