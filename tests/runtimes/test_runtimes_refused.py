"""What cannot be opened: entries that lie, files that are not usable, absent runtimes."""

import subprocess
import sys

import numpy as np
import onnx
import pytest
import tflite_builder
from linear_files import FORMATS, TFLITE_RUNTIMES, needs_tflite, with_entry, write_linear
from onnx import TensorProto, helper
from onnx_builder import linear_model, onnx_model

from sepdeploy import runtimes
from sepdeploy.errors import BadInput, Missing


@pytest.mark.parametrize(("runtime", "form"), FORMATS)
@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{", "entry is not valid JSON"),
        ("[]", "entry: expected an object, found list"),
        ('{"input": 3}', "expected an object"),
        ('{"input": {"shape": [3, 4]}}', r"\(3, 4\), the graph takes \(12,\)"),
        ('{"input": {"shape": [0]}}', "positive"),
    ],
)
def test_an_entry_that_lies_is_refused(tmp_path, weights, runtime, form, text, why):
    with pytest.raises(BadInput, match=why):
        runtimes.open(with_entry(tmp_path, form, weights, text), runtime)


# --- files that are not usable


def test_no_such_file(tmp_path):
    with pytest.raises(BadInput, match=r"cannot read .*absent\.onnx: No such file"):
        runtimes.open(tmp_path / "absent.onnx")
    with pytest.raises(BadInput, match="Is a directory"):
        runtimes.open(tmp_path)


@pytest.mark.parametrize("name", ["m.onnx", "m.tflite", "m.bin", "m"])
def test_an_empty_file(tmp_path, name):
    (tmp_path / name).touch()
    with pytest.raises(BadInput, match="is empty"):
        runtimes.open(tmp_path / name)


@pytest.mark.parametrize("name", ["m.tflite", "m.bin", "m.pt"])
def test_a_file_of_neither_format(tmp_path, name):
    (tmp_path / name).write_bytes(b"neither of the two")
    with pytest.raises(BadInput, match="neither an ONNX nor a TFLite file"):
        runtimes.open(tmp_path / name)


def test_garbage_and_truncated_onnx(tmp_path, onnx_linear):
    data = onnx_linear.read_bytes()
    for content in (b"garbage", data[: len(data) // 2], data[:-1], b"\xff" * 200):
        path = tmp_path / "bad.onnx"
        path.write_bytes(content)
        with pytest.raises(BadInput, match=r"bad\.onnx: cannot be loaded") as caught:
            runtimes.open(path)
        assert "\n" not in caught.value.message


def test_texts_that_are_no_text(tmp_path, weights):
    path = tmp_path / "m.onnx"
    onnx.save(linear_model(*weights, metadata={"key": "VALUE"}), str(path))
    path.write_bytes(path.read_bytes().replace(b"VALUE", b"\xff\xfe\xfd\xfc\xfb"))
    with pytest.raises(BadInput, match=r"m\.onnx: cannot be loaded: .*utf-8"):
        runtimes.open(path)


@needs_tflite
def test_truncated_tflite(tmp_path, weights):
    """In a child process: a runtime may well die of it."""
    data = tflite_builder.linear(tmp_path / "good.tflite", *weights, entry="{}").read_bytes()
    path = tmp_path / "bad.tflite"
    script = (
        "import sys; from sepdeploy import runtimes; from sepdeploy.errors import BadInput\n"
        "try: runtimes.open(sys.argv[1]).run(None)\n"
        "except BadInput as error: print(error.message)\n"
    )
    for size in (8, 12, len(data) // 3):
        path.write_bytes(data[:size])
        done = subprocess.run(
            [sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=False
        )
        assert "bad.tflite" in done.stdout, done.stderr


def test_graphs_that_take_something_else(tmp_path):
    def save(inputs, outputs=(("logits", TensorProto.FLOAT, None),), op="Identity"):
        path = tmp_path / "odd.onnx"
        node = helper.make_node(op, [i[0] for i in inputs], [o[0] for o in outputs])
        onnx.save(onnx_model([node], inputs, outputs), str(path))
        return path

    two = [(n, TensorProto.FLOAT, ["batch", 3]) for n in ("a", "b")]
    x = np.ones((2, 3), np.float32)

    def run(path):
        with runtimes.open(path) as session:
            session.run(x)

    with pytest.raises(BadInput, match="one input and at least one output, found 2"):
        run(save(two, op="Add"))
    ints = [("a", TensorProto.INT64, ["batch", 3])]
    with pytest.raises(BadInput, match=r"expected float32 .* int64"):
        run(save(ints, [("logits", TensorProto.INT64, None)]))
    for shape in (["batch", "features"], ["batch"], []):
        with pytest.raises(BadInput, match="of known size"):
            run(save([("a", TensorProto.FLOAT, shape)]))


@needs_tflite
def test_tflite_types_without_a_scale_are_refused(tmp_path):
    file = tflite_builder.Tflite()
    x = file.tensor("input", (1, 4), dtype="INT8", dynamic=True)
    y = file.tensor("logits", (1, 4), dtype="INT8", dynamic=True)
    file.operator("RELU", [x], [y], version=2)
    path = file.save(tmp_path / "odd.tflite", [x], [y])
    with runtimes.open(path) as session, pytest.raises(BadInput, match="int8 with scale"):
        session.run(np.ones((1, 4), np.float32))


# --- names and runtimes


def test_unknown_runtime_suggests_names(onnx_linear):
    with pytest.raises(BadInput, match="unknown runtime 'onnx-runtime'; closest: onnxruntime"):
        runtimes.open(onnx_linear, "onnx-runtime")


@needs_tflite
def test_a_runtime_of_the_other_format(tmp_path, onnx_linear, weights):
    with pytest.raises(BadInput, match=r"litert runs \.tflite files, this is \.onnx"):
        runtimes.open(onnx_linear, "litert")
    path = tflite_builder.linear(tmp_path / "renamed.onnx", *weights)  # the content decides
    with pytest.raises(BadInput, match=r"onnxruntime runs \.onnx files, this is \.tflite"):
        runtimes.open(path, "onnxruntime")
    assert runtimes.file_format(path) == "tflite"


@pytest.mark.parametrize("threads", [0, -1])
def test_threads_must_be_positive(tmp_path, onnx_linear, weights, threads):
    with pytest.raises(BadInput, match=f"threads must be at least 1, found {threads}"):
        runtimes.open(onnx_linear, threads=threads)
    for name in TFLITE_RUNTIMES:
        path = tflite_builder.linear(tmp_path / "linear.tflite", *weights)
        with pytest.raises(BadInput, match="threads must be at least 1"):
            runtimes.open(path, name, threads=threads)


@pytest.mark.parametrize(
    ("module", "runtime", "form"),
    [
        ("onnxruntime", "onnxruntime", "onnx"),
        ("ai_edge_litert.interpreter", "litert", "tflite"),
        ("tflite_runtime.interpreter", "tflite-runtime", "tflite"),
    ],
)
def test_a_missing_runtime_says_how_to_install_it(
    tmp_path, weights, monkeypatch, module, runtime, form
):
    path = write_linear(tmp_path, form, weights)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(Missing) as caught:
        runtimes.open(path, runtime)
    assert "pip install" in caught.value.hint


@needs_tflite
def test_tflite_runtime_refuses_numpy_2(tmp_path, weights, monkeypatch):
    """With numpy 2 its first use crashes with texts that help nobody."""
    path = tflite_builder.linear(tmp_path / "linear.tflite", *weights)
    monkeypatch.setattr(np, "__version__", "2.4.6")
    with pytest.raises(Missing, match=r"needs numpy < 2, found numpy 2\.4\.6") as caught:
        runtimes.open(path, "tflite-runtime")
    assert "numpy<2" in caught.value.hint
    assert "tflite-runtime" not in runtimes.versions()
    assert "tflite-runtime" not in runtimes.installed("tflite")


@needs_tflite
def test_no_runtime_for_the_format(tmp_path, weights, monkeypatch):
    path = tflite_builder.linear(tmp_path / "linear.tflite", *weights)
    monkeypatch.setattr(runtimes.Runtime, "version", lambda self: None)
    with pytest.raises(Missing, match=r"no runtime for \.tflite files") as caught:
        runtimes.open(path)
    assert "ai-edge-litert" in caught.value.hint
