"""Somebody else's .onnx file at lower precision."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from sepdeploy import api, measure, runtimes
from sepdeploy.cli import run
from sepdeploy.data import load
from sepdeploy.errors import ArtifactCheckFailed, BadInput
from sepdeploy.exporters.quantize import scales
from sepdeploy.jobs import Clocked, Timed

pytestmark = pytest.mark.skipif(
    "litert" not in runtimes.installed("tflite") or not runtimes.installed("onnx"),
    reason="needs LiteRT and ONNX Runtime",
)


def classifier(path, size=8):
    """Convolution, pooling, two dense layers; names as they come from elsewhere."""
    rng = np.random.default_rng(3)
    side = size // 2
    held = {
        "w0": rng.standard_normal((8, 1, 3, 3)) / 3,
        "b0": rng.standard_normal(8) / 5,
        "w1": rng.standard_normal((8 * side * side, 32)) / np.sqrt(8 * side * side),
        "b1": rng.standard_normal(32) / 5,
        "w2": rng.standard_normal((10, 32)) / np.sqrt(32),
        "b2": rng.standard_normal(10) / 5,
    }
    nodes = [
        helper.make_node("Conv", ["image", "w0", "b0"], ["a"], "stem", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["r"]),
        helper.make_node("MaxPool", ["r"], ["p"], "pool", kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("MatMul", ["f", "w1"], ["m"], "hidden"),
        helper.make_node("Add", ["m", "b1"], ["h"]),
        helper.make_node("Relu", ["h"], ["g"]),
        helper.make_node("Gemm", ["g", "w2", "b2"], ["scores"], "head", transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "elsewhere",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 1, size, size])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 10])],
        [numpy_helper.from_array(v.astype(np.float32), k) for k, v in held.items()],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15)], ir_version=8), path
    )
    return path


@pytest.fixture
def source(tmp_path):
    return classifier(tmp_path / "net.onnx")


def tied(path, products):
    """Dense layers in a row that read one square weight; each is (op, bias, transB)."""
    rng = np.random.default_rng(4)
    held = {"w": rng.standard_normal((64, 64)) / 8, "b": rng.standard_normal(64) / 5}
    held["c"] = held["b"] * 300  # moves the scale that a weight gets
    nodes, value = [helper.make_node("Flatten", ["image"], ["f"])], "f"
    for i, (op, bias, turned) in enumerate(products):
        nodes.append(helper.make_node(op, [value, "w", *bias], [f"h{i}"], f"dense{i}"))
        if turned:
            nodes[-1].attribute.append(helper.make_attribute("transB", 1))
        nodes.append(helper.make_node("Tanh", [f"h{i}"], [f"t{i}"]))
        value = f"t{i}"
    nodes[-1].output[0] = "y"
    return written(path, nodes, held, "y", (1, 8, 8), 64)


def written(path, nodes, held, output, shape, width):
    graph = helper.make_graph(
        nodes,
        "elsewhere",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", *shape])],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["n", width])],
        [numpy_helper.from_array(v.astype(np.float32), k) for k, v in held.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15)], ir_version=8)
    onnx.save(model, path)
    return path


TURNED, PLAIN, FLAT = ("Gemm", "b", True), ("Gemm", "b", False), ("MatMul", "", False)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["dynamic", "static"])
@pytest.mark.parametrize(
    "products",
    [
        (TURNED, PLAIN, FLAT),
        (TURNED, TURNED),
        (FLAT, FLAT),
        (TURNED, ("Gemm", "c", True)),
        (("Gemm", "", True), ("Gemm", "", True), PLAIN),
    ],
    ids=["both ways", "twice", "twice flat", "two biases", "no bias"],
)
def test_a_weight_may_serve_several_products(tmp_path, mode, products):
    source = tied(tmp_path / "net.onnx", products)
    out = tmp_path / "out"
    made = api.export(source, formats=("onnx",), out_dir=out, quantize=mode, data="digits")
    (artifact,) = made.artifacts
    assert {p.precision for p in artifact.precisions} == {"int8"}
    assert all(p.passed for p in artifact.parity)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["dynamic", "static"])
def test_a_tied_autoencoder_of_several_widths(tmp_path, mode):
    rng = np.random.default_rng(5)
    held = {"w": rng.standard_normal((4, 64)) / 8, "b": rng.standard_normal(4) / 5}
    held["c"] = rng.standard_normal(64) / 5
    nodes = [
        helper.make_node("Flatten", ["image"], ["f"]),
        helper.make_node("Gemm", ["f", "w", "b"], ["h"], "encoder", transB=1),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("Gemm", ["r", "w", "c"], ["y"], "decoder"),
    ]
    source = written(tmp_path / "net.onnx", nodes, held, "y", (1, 8, 8), 64)
    out = tmp_path / "out"
    made = api.export(source, formats=("onnx",), out_dir=out, quantize=mode, data="digits")
    assert {p.layer: p.precision for p in made.artifacts[0].precisions} == {
        "encoder": "int8",
        "decoder": "int8",
    }


def test_a_weight_that_would_need_many_copies_stays_float(tmp_path):
    source = tied(tmp_path / "net.onnx", [FLAT] * 4)
    with pytest.raises(BadInput, match="serves more than 3 products"):
        api.export(source, formats=("onnx",), out_dir=tmp_path / "out", quantize="dynamic")


@pytest.mark.slow
@pytest.mark.parametrize(
    "mode", ["static", *(pytest.param(m, marks=pytest.mark.slow) for m in ("dynamic", "fp16"))]
)
def test_both_formats_stay_close_to_the_file(source, tmp_path, mode):
    out = tmp_path / "small"
    before = source.read_bytes()
    manifest = api.export(source, out_dir=out, quantize=mode, data="digits")
    assert source.read_bytes() == before
    assert [a.path for a in manifest.artifacts] == ["net.onnx", "net.tflite"]
    x = load("digits").test.take(64, 1).batch(slice(None))
    with runtimes.open(source) as session:
        wanted = session.run(x)
    for artifact in manifest.artifacts:
        assert artifact.quantization == mode
        assert artifact.file_bytes < source.stat().st_size
        assert {p.layer for p in artifact.precisions} == {"stem", "hidden", "head"}
        assert all(p.passed for p in artifact.parity)
        assert bool(artifact.calibration) == (mode == "static")
        with runtimes.open(out / artifact.path) as session:
            found = session.run(x)
        distance = np.linalg.norm(found - wanted) / np.linalg.norm(wanted)
        assert 0 < distance < (1e-3 if mode == "fp16" else 0.06)
    low = {p.layer: p.precision for p in manifest.artifacts[1].precisions}
    assert set(low.values()) == {"fp16" if mode == "fp16" else "int8"}
    report = api.verify(out / "net.manifest.json")
    assert report.exit_code == 0, report
    assert {i.result for i in report.items} == {"ok"}


@pytest.mark.slow
def test_auto_keeps_the_layer_float_that_int8_makes_slower(source, tmp_path, monkeypatch):
    hidden = 8 * 4 * 4 * 32

    def stopwatch(models, runtime, timing):
        times = {}
        for name, path in models.items():
            held = onnx.load(str(path)).graph.initializer
            sizes = [np.prod(t.dims) for t in held if t.data_type == TensorProto.INT8 and t.dims]
            times[name] = 1.0 + sum(0.5 if n == hidden else -0.2 for n in sizes)
        return Clocked(tuple(Timed(name, (ms,) * 5, 1) for name, ms in times.items()), 5)

    monkeypatch.setattr(measure, "time_models", stopwatch)
    out = tmp_path / "small"
    (artifact,) = api.export(source, out_dir=out, formats=("onnx",), quantize="auto").artifacts
    assert {p.layer: p.precision for p in artifact.precisions} == {
        "stem": "float32", "hidden": "float32", "head": "int8",
    }  # fmt: skip
    assert artifact.quantization == "auto"
    assert all(p.passed for p in artifact.parity)
    assert api.verify(out / "net.manifest.json").exit_code == 0


@pytest.mark.slow
def test_beside_the_file_only_the_other_format_is_written(source, tmp_path):
    before = source.read_bytes()
    manifest = api.export(source, quantize="dynamic")
    assert [a.path for a in manifest.artifacts] == ["net.tflite"]
    assert source.read_bytes() == before
    with pytest.raises(BadInput, match=r"would replace .*net.onnx") as caught:
        api.export(source, formats=("onnx",), quantize="dynamic")
    assert "-o" in caught.value.hint
    assert source.read_bytes() == before


def test_static_needs_images(source, tmp_path, capsys):
    with pytest.raises(BadInput, match="needs training images") as caught:
        api.export(source, quantize="static")
    assert "--data" in caught.value.hint
    assert run(["export", str(source), "--quantize", "static"]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) <= 2
    assert not (tmp_path / "net.tflite").exists()
    other = classifier(tmp_path / "large.onnx", size=12)
    with pytest.raises(BadInput, match=r"images \(1, 8, 8\), the model takes \(1, 12, 12\)"):
        api.export(other, quantize="static", data="digits")


@pytest.mark.slow
def test_a_wrong_quantised_file_is_never_left(source, tmp_path, monkeypatch):
    right = scales.quantize_weight

    def shifted(weight, *args, **kwargs):
        made = right(weight, *args, **kwargs)
        return scales.Int8Weight(np.roll(made.values, 1, axis=-1), made.scale, made.axis)

    monkeypatch.setattr("sepdeploy.exporters.quantize.tflite_layers.quantize_weight", shifted)
    with pytest.raises(ArtifactCheckFailed, match=r"another function than net.onnx in"):
        api.export(source, formats=("tflite",), quantize="dynamic")
    assert [p.name for p in tmp_path.iterdir()] == ["net.onnx"]


@pytest.mark.slow
def test_a_second_export_keeps_what_the_first_wrote(source, tmp_path):
    out = tmp_path / "q"
    api.export(source, out_dir=out, quantize="dynamic")
    manifest = api.export(source, out_dir=out, formats=("tflite",))
    assert sorted(a.path for a in manifest.artifacts) == ["net.onnx", "net.tflite"]
    assert (out / "net.onnx").is_file()
