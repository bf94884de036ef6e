"""Somebody else's .onnx file to .tflite, proven against the file itself."""

import json
import shutil

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from sepdeploy import api, runtimes
from sepdeploy.cli import run
from sepdeploy.errors import ArtifactCheckFailed, BadInput
from sepdeploy.exporters.entry import read_entry
from sepdeploy.exporters.tflite_file import write
from sepdeploy.exports import onnx_file
from sepdeploy.exports.manifest import read_manifest

pytestmark = pytest.mark.skipif(not runtimes.installed("tflite"), reason="no TFLite runtime")


def detector(path, extra=(), batch="N", opset=17):
    """Convolution, pooling and an upsampled map: an output that is no row of logits."""
    rng = np.random.default_rng(0)
    constants = {
        "w": rng.standard_normal((6, 3, 3, 3)).astype(np.float32) / 5,
        "b": rng.standard_normal(6).astype(np.float32),
        "scales": np.array([1, 1, 2, 2], np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["image", "w", "b"], ["a"], "conv", pads=[1, 1, 1, 1]),
        helper.make_node("Sigmoid", ["a"], ["s"], "gate"),
        helper.make_node("Mul", ["a", "s"], ["m"], "swish"),
        helper.make_node("MaxPool", ["m"], ["p"], "pool", kernel_shape=[2, 2], strides=[2, 2]),
        *extra,
        helper.make_node("Resize", ["p", "", "scales"], ["map"], "up"),
    ]
    graph = helper.make_graph(
        nodes,
        "elsewhere",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [batch, 3, 8, 8])],
        [helper.make_tensor_value_info("map", TensorProto.FLOAT, [batch, 6, 8, 8])],
        [numpy_helper.from_array(v, k) for k, v in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.save(model, str(path))
    return path


@pytest.fixture
def source(tmp_path):
    return detector(tmp_path / "det.onnx")


@pytest.mark.slow
def test_the_file_beside_it_computes_the_same(source, tmp_path):
    manifest = api.export(source)
    (artifact,) = manifest.artifacts
    assert artifact.path == "det.tflite"
    assert artifact.input_layout == "NHWC"
    assert {p.batch for p in artifact.parity} == {1, 3, 32}
    assert {p.runtime for p in artifact.parity} == set(runtimes.installed("tflite"))
    assert all(p.passed and p.max_rel <= 1e-5 for p in artifact.parity)
    x = np.random.default_rng(5).random((2, 3, 8, 8), dtype=np.float32)
    with runtimes.open(tmp_path / "det.tflite") as found, runtimes.open(source) as wanted:
        assert np.allclose(found.run(x), wanted.run(x), atol=1e-5)
        assert found.input.shape == (3, 8, 8)
    entry = read_entry(tmp_path / "det.tflite")
    assert [layer.name for layer in entry.layers] == ["conv"]
    assert entry.layers[0].macs == 64 * 6 * 27
    assert read_manifest(tmp_path / "det.manifest.json") == manifest


@pytest.mark.slow
def test_it_can_be_verified_again(source, tmp_path):
    api.export(source)
    report = api.verify(tmp_path / "det.manifest.json")
    assert report.exit_code == 0
    assert [i.result for i in report.items] == ["ok"] * 4
    assert "det.onnx in onnxruntime" in report.items[-1].found
    layers = api.verify_layers(tmp_path / "det.manifest.json")
    assert layers.exit_code == 0
    assert {c.reference for c in layers.comparisons} == {"det.onnx"}
    assert all([r.layer for r in c.rows] == ["conv", "logits"] for c in layers.comparisons)
    model = onnx.load(str(source))
    model.graph.initializer[1].raw_data = np.ones(6, np.float32).tobytes()
    onnx.save(model, str(source))
    assert api.verify(tmp_path / "det.manifest.json").exit_code == 6


@pytest.mark.slow
def test_a_fixed_batch_is_kept(tmp_path):
    source = detector(tmp_path / "det.onnx", batch=2)
    (artifact,) = api.export(source).artifacts
    assert {p.batch for p in artifact.parity} == {2}
    assert api.verify(tmp_path / "det.manifest.json").exit_code == 0


def test_a_batch_that_fits_into_no_memory_is_refused(tmp_path, monkeypatch):
    source = detector(tmp_path / "det.onnx", batch=2**30)
    monkeypatch.setattr(onnx_file, "reference_inputs", None)
    with pytest.raises(BadInput, match=r"an input of \[1073741824, 3, 8, 8\] fits into no memory"):
        api.export(source)


@pytest.mark.slow
def test_a_wrong_file_is_never_left(source, tmp_path, monkeypatch):
    from sepdeploy.exporters.capture import normalize as module

    real = module.normalize

    def wrong(*args, **kwargs):
        model = real(*args, **kwargs)
        bias = next(t for t in model.graph.initializer if t.name == "b")
        bias.raw_data = np.zeros(6, np.float32).tobytes()
        return model

    monkeypatch.setattr(module, "normalize", wrong)
    with pytest.raises(ArtifactCheckFailed, match=r"det.tflite in .* away from det.onnx in"):
        api.export(source)
    assert [p.name for p in tmp_path.iterdir()] == ["det.onnx"]


@pytest.mark.slow
@pytest.mark.parametrize("batch", ["N", 2])
def test_the_layer_that_was_written_wrong_is_named(tmp_path, monkeypatch, batch):
    real = write.write_tflite

    def wrong(graph, *args, **kwargs):
        model = onnx.ModelProto()
        model.CopyFrom(graph)
        bias = next(t for t in model.graph.initializer if t.name == "b")
        bias.raw_data = np.zeros(6, np.float32).tobytes()
        return real(model, *args, **kwargs)

    monkeypatch.setattr(write, "write_tflite", wrong)
    with pytest.raises(ArtifactCheckFailed, match=r"det.onnx in .*first in layer 'conv'$"):
        api.export(detector(tmp_path / "det.onnx", batch=batch))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("node", "match"),
    [
        (helper.make_node("NonZero", ["p"], ["unused"], "find"), None),
        (helper.make_node("Det", ["p"], ["d"], "volume"), r"Det.*volume"),
    ],
)
def test_an_operator_outside_is_named(tmp_path, node, match):
    extra = [node]
    if match:
        extra.append(helper.make_node("Reshape", ["d", "one"], ["e"], "shape"))
    source = detector(tmp_path / "det.onnx", extra)
    if match:
        model = onnx.load(str(source))
        model.graph.initializer.append(numpy_helper.from_array(np.array([-1, 6, 1, 1]), "one"))
        model.graph.node[-1].input[0] = "sum"
        model.graph.node.insert(6, helper.make_node("Add", ["p", "e"], ["sum"], "sum"))
        onnx.save(model, str(source))
        with pytest.raises(BadInput, match=match) as caught:
            api.export(source)
        assert str(source) in caught.value.message
        assert caught.value.hint
    else:  # what no output depends on does no harm
        api.export(source)


def test_it_has_its_own_name(source):
    with pytest.raises(BadInput, match="has its own name"):
        api.export(source, "other")


def test_it_is_cleaned_into_another_folder_only(source, tmp_path):
    with pytest.raises(BadInput, match="an ONNX file already"):
        api.export(source, formats=("onnx",))
    (artifact,) = api.export(source, out_dir=tmp_path / "clean", formats="onnx").artifacts
    assert artifact.path == "det.onnx"
    assert all(p.passed for p in artifact.parity)
    assert onnx.load(tmp_path / "clean" / "det.onnx").opset_import[0].version == 20


@pytest.mark.slow
def test_the_export_of_another_model_is_not_overwritten(source, tmp_path):
    api.export(source)
    shutil.copy(source, tmp_path / "other.onnx")
    manifest = json.loads((tmp_path / "det.manifest.json").read_text())
    manifest["model"]["path"] = "det.pt"
    (tmp_path / "det.manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BadInput, match=r"belongs to det.pt"):
        api.export(source)
    api.export(source, out_dir=tmp_path / "elsewhere")
    assert api.verify(tmp_path / "elsewhere").exit_code == 0


def test_values_that_are_not_finite_are_refused(source):
    model = onnx.load(str(source))
    model.graph.initializer[1].raw_data = np.full(6, np.nan, np.float32).tobytes()
    onnx.save(model, str(source))
    with pytest.raises(BadInput, match="not finite"):
        api.export(source)


@pytest.mark.slow
def test_it_needs_no_torch(source, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    api.export(source)


@pytest.mark.slow
def test_the_command_line(source, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(["export", "det.onnx", "-f", "tflite"]) == 0
    assert "det.tflite" in capsys.readouterr().out
    assert run(["export", "det.onnx", "-f", "onnx"]) == 2
    error = capsys.readouterr().err
    assert "det.onnx is an ONNX file already" in error


@pytest.mark.slow
def test_the_reference_is_the_foreign_file_itself(source, monkeypatch):
    ran = []
    real = onnx_file.onnx_outputs
    monkeypatch.setattr(
        onnx_file, "onnx_outputs", lambda path, *args: ran.append(path) or real(path, *args)
    )
    api.export(source)
    assert set(ran) == {source}


@pytest.mark.slow
@pytest.mark.parametrize("apart", [False, True])
def test_weights_that_are_inputs_as_well_as_old_files_have_them(tmp_path, apart):
    model = onnx.load(detector(tmp_path / "det.onnx"))
    model.ir_version = 8 if apart else 3  # version 3 asks for it
    model.graph.input.extend(
        helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in model.graph.initializer
    )
    onnx.save(model, tmp_path / "det.onnx")
    (artifact,) = api.export(tmp_path / "det.onnx").artifacts
    assert all(p.passed for p in artifact.parity)


@pytest.mark.slow
def test_where_the_runtime_differs_from_the_definition_that_counts(tmp_path):
    """ONNX Runtime places the samples of a cubic resize with aligned corners elsewhere."""
    resize = helper.make_node(
        "Resize", ["m", "", "odd"], ["p"], "cubic", mode="cubic",
        coordinate_transformation_mode="align_corners",
    )  # fmt: skip
    model = onnx.load(detector(tmp_path / "det.onnx"))
    pool = next(node for node in model.graph.node if node.op_type == "MaxPool")
    pool.CopyFrom(resize)
    model.graph.initializer.append(
        numpy_helper.from_array(np.array([1, 1, 0.55, 0.55], np.float32), "odd")
    )
    del model.graph.output[0].type.tensor_type.shape.dim[2:]
    onnx.save(model, tmp_path / "det.onnx")
    (artifact,) = api.export(tmp_path / "det.onnx").artifacts
    assert "onnx.reference" in artifact.notes[0]


def test_dropout_in_training_mode_is_told(tmp_path):
    model = onnx.load(detector(tmp_path / "det.onnx"))
    model.graph.initializer.extend(
        [numpy_helper.from_array(np.array(v), k) for k, v in (("r", np.float32(0.5)), ("t", True))]
    )
    pool = next(node for node in model.graph.node if node.op_type == "MaxPool")
    pool.CopyFrom(helper.make_node("Dropout", ["m", "r", "t"], ["p"], "drop"))
    onnx.save(model, tmp_path / "det.onnx")
    with pytest.raises(BadInput, match="gives other numbers on every run"):
        api.export(tmp_path / "det.onnx")
