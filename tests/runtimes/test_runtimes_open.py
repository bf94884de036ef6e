"""Opening and running artifacts: the answers, and the batches that are refused."""

import gc
import json
import subprocess
import sys
import threading

import numpy as np
import onnx
import pytest
import tflite_builder
from linear_files import FORMATS, TFLITE_RUNTIMES, needs_tflite, with_entry, write_linear
from onnx import TensorProto, helper
from onnx_builder import onnx_model

from sepdeploy import runtimes
from sepdeploy.errors import BadInput
from sepdeploy.runtimes.runner.ort import OrtModel
from sepdeploy.runtimes.runner.tflite import TfliteModel


@pytest.mark.parametrize(("runtime", "form"), FORMATS)
def test_every_runtime_gives_the_matrix_product(tmp_path, rng, weights, runtime, form):
    path = write_linear(tmp_path, form, weights)
    with runtimes.open(path, runtime) as session:
        assert session.input.shape == (12,)
        assert session.path == path
        assert session.runtime.name == runtime
        assert session.runtime.version == runtimes.versions()[runtime]
        for batch in (1, 3, 32, 1, 2, 5, 7, 3):  # more sizes than are kept bound
            x = rng.random((batch, 12), dtype=np.float32)
            logits = session.run(x)
            assert logits.dtype == np.float32
            np.testing.assert_allclose(logits, x @ weights[0].T + weights[1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("runtime", "form"), FORMATS)
def test_results_are_the_callers_own(tmp_path, rng, weights, runtime, form):
    session = runtimes.open(write_linear(tmp_path, form, weights), runtime)
    x, other = rng.random((2, 12), dtype=np.float32), rng.random((2, 12), dtype=np.float32)
    first = session.run(x)
    kept = first.copy()
    second = session.run(other)
    np.testing.assert_array_equal(first, kept)
    assert not np.array_equal(first, second)
    first[:] = 0  # writing into a result must not reach the next one
    np.testing.assert_array_equal(session.run(x), kept)
    del session
    gc.collect()
    np.testing.assert_array_equal(second.shape, (2, 5))


@pytest.mark.parametrize(("runtime", "form"), FORMATS)
def test_threads_that_share_a_session_take_turns(tmp_path, rng, runtime, form):
    """Each thread gets the answers to its own questions, although all of them share memory."""
    weight = rng.standard_normal((1024, 1024)).astype(np.float32)
    path = write_linear(tmp_path, form, (weight, np.zeros(1024, np.float32)))
    session = runtimes.open(path, runtime)
    batches = [rng.random((8, 1024), dtype=np.float32) for _ in range(3)]
    expected = [session.run(batch) for batch in batches]
    wrong = []

    def ask(index):
        for _ in range(100):
            if not np.array_equal(session.run(batches[index]), expected[index]):
                wrong.append(index)

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(3)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert not wrong


@pytest.mark.parametrize(("runtime", "form"), FORMATS)
def test_arrays_of_any_memory_order_are_taken(tmp_path, rng, weights, runtime, form):
    session = runtimes.open(write_linear(tmp_path, form, weights), runtime)
    base = rng.random((24, 6), dtype=np.float32)
    for x in (base[::2].T, np.asfortranarray(base[:12].T), base[12:].T[::-1]):
        assert not x.flags.c_contiguous
        expected = x @ weights[0].T + weights[1]
        np.testing.assert_allclose(session.run(x), expected, rtol=1e-5, atol=1e-5)


def images_graph(weight, bias, shape):
    c, h, w = shape
    return onnx_model(
        [
            helper.make_node("Flatten", ["input"], ["flat"]),
            helper.make_node("Gemm", ["flat", "w", "b"], ["logits"], transB=1),
        ],
        [("input", TensorProto.FLOAT, ["batch", c, h, w])],
        [("logits", TensorProto.FLOAT, ["batch", len(weight)])],
        [("w", weight), ("b", bias)],
    )


@pytest.mark.parametrize("shape", [(1, 4, 3), (2, 3, 2), (3, 2, 2)])
@pytest.mark.parametrize(("runtime", "form"), FORMATS)
def test_images_are_nchw_for_every_format(tmp_path, rng, runtime, form, shape):
    """The .tflite file takes NHWC and weighs the values in that order; the caller sees NCHW."""
    c, h, w = shape
    weight = rng.standard_normal((4, c * h * w), np.float32)
    bias = rng.standard_normal(4, np.float32)
    x = rng.random((3, *shape), dtype=np.float32)
    path = tmp_path / f"images.{form}"
    if form == "onnx":
        onnx.save(images_graph(weight, bias, shape), str(path))
    else:
        nhwc = weight.reshape(4, c, h, w).transpose(0, 2, 3, 1).reshape(4, -1)
        tflite_builder.image_linear(path, np.ascontiguousarray(nhwc), bias, shape)
    with runtimes.open(path, runtime) as session:
        assert session.input.shape == shape
        expected = x.reshape(3, -1) @ weight.T + bias
        np.testing.assert_allclose(session.run(x), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("runtime", TFLITE_RUNTIMES)
def test_int8_files_are_quantised_and_dequantised(tmp_path, rng, runtime):
    weight = rng.integers(-127, 128, (3, 8), dtype=np.int8)
    inner, outer, scale = (1 / 255, -128), (0.05, 3), 0.01
    path = tflite_builder.int8_linear(tmp_path / "int8.tflite", weight, inner, outer, scale)
    x = rng.random((4, 8), dtype=np.float32)
    with runtimes.open(path, runtime) as session:
        logits = session.run(x)
    quantised = np.clip(np.rint(x / inner[0]) + inner[1], -128, 127)
    exact = (quantised - inner[1]) * inner[0] @ (weight.astype(float) * scale).T
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, exact, atol=0.5001 * outer[0])  # half a step of the output


@pytest.mark.parametrize(("runtime", "form"), FORMATS)
@pytest.mark.parametrize(
    ("batch", "expected", "found"),
    [
        (np.zeros((2, 11), np.float32), "(N, 12)", "float32 (2, 11)"),
        (np.zeros((2, 12)), "float32 array (N, 12)", "float64 (2, 12)"),
        (np.zeros((2, 12), np.uint8), "float32", "uint8 (2, 12)"),
        (np.zeros(12, np.float32), "(N, 12)", "float32 (12,)"),
        (np.zeros((0, 12), np.float32), "(N, 12)", "float32 (0, 12)"),
        (np.zeros((2, 12, 1), np.float32), "(N, 12)", "float32 (2, 12, 1)"),
        ([[0.0] * 12], "float32 array", "list"),
        (None, "float32 array", "NoneType"),
    ],
)
def test_wrong_batches_are_named(tmp_path, weights, runtime, form, batch, expected, found):
    session = runtimes.open(write_linear(tmp_path, form, weights), runtime)
    right = np.ones((2, 12), np.float32)
    before = session.run(right)  # buffers for two samples are bound
    with pytest.raises(BadInput) as caught:
        session.run(batch)
    assert expected in caught.value.message
    assert found in caught.value.message
    assert "\n" not in caught.value.message
    np.testing.assert_array_equal(session.run(right), before)


@pytest.mark.parametrize(("runtime", "form"), FORMATS)
def test_a_bound_size_still_refuses_another_dtype(tmp_path, weights, runtime, form):
    session = runtimes.open(write_linear(tmp_path, form, weights), runtime)
    session.run(np.ones((2, 12), np.float32))
    with pytest.raises(BadInput, match="float64"):
        session.run(np.ones((2, 12), np.float64))


def test_hints_name_the_cure(onnx_linear):
    session = runtimes.open(onnx_linear)
    with pytest.raises(BadInput) as caught:
        session.run(np.zeros(12, np.float32))
    assert "batch[None]" in caught.value.hint
    with pytest.raises(BadInput) as caught:
        session.run(np.zeros((1, 12)))
    assert "astype(np.float32)" in caught.value.hint


@pytest.mark.parametrize(("runtime", "form"), FORMATS)
def test_a_fixed_batch_size_is_named(tmp_path, weights, runtime, form):
    options = {"batch": 2} if form == "onnx" else {"dynamic": False, "rows": 2}
    session = runtimes.open(write_linear(tmp_path, form, weights, **options), runtime)
    assert session.run(np.zeros((2, 12), np.float32)).shape == (2, 5)
    with pytest.raises(BadInput, match=r"\(2, 12\), found float32 \(3, 12\)"):
        session.run(np.zeros((3, 12), np.float32))


@pytest.mark.parametrize(("runtime", "form"), FORMATS)
def test_a_closed_session_cannot_run(tmp_path, weights, runtime, form):
    with runtimes.open(write_linear(tmp_path, form, weights), runtime) as session:
        pass
    with pytest.raises(BadInput, match="closed"):
        session.run(np.zeros((1, 12), np.float32))


def test_a_graph_that_fails_at_some_batch_size_says_which(tmp_path, rng):
    """A reshape to a fixed number of rows: the batch looks free but is not."""
    target = np.array([2, 6], np.int64)
    model = onnx_model(
        [helper.make_node("Reshape", ["input", "shape"], ["logits"])],
        [("input", TensorProto.FLOAT, ["batch", 6])],
        [("logits", TensorProto.FLOAT, None)],
        [("shape", target)],
    )
    path = tmp_path / "fixed.onnx"
    onnx.save(model, str(path))
    session = runtimes.open(path)
    x = rng.random((2, 6), dtype=np.float32)
    with pytest.raises(BadInput, match="fails at batch 3"):
        session.run(np.zeros((3, 6), np.float32))
    np.testing.assert_array_equal(session.run(x), x)


def test_logits_are_taken_from_the_output_of_that_name(tmp_path, rng):
    model = onnx_model(
        [
            helper.make_node("Relu", ["input"], ["features"]),
            helper.make_node("Neg", ["input"], ["logits"]),
        ],
        [("input", TensorProto.FLOAT, ["batch", 4])],
        [(n, TensorProto.FLOAT, ["batch", 4]) for n in ("features", "logits")],
    )
    path = tmp_path / "two.onnx"
    onnx.save(model, str(path))
    x = rng.random((2, 4), dtype=np.float32)
    np.testing.assert_array_equal(runtimes.open(path).run(x), -x)


def test_int8_arithmetic_is_exact_on_every_processor(onnx_linear):
    options = OrtModel(str(onnx_linear)).session.get_session_options()
    assert options.get_session_config_entry("session.x64quantprecision") == "1"
    assert options.intra_op_num_threads == options.inter_op_num_threads == 1
    assert OrtModel(str(onnx_linear), 2).session.get_session_options().intra_op_num_threads == 2


class Without:
    """Everything that an object has, but one attribute."""

    def __init__(self, target, hidden):
        self._target, self._hidden = target, hidden

    def __getattr__(self, name):
        if name == self._hidden:
            raise AttributeError(name)
        return getattr(self._target, name)


def test_public_calls_do_where_the_short_way_is_absent(tmp_path, onnx_linear, rng, weights):
    x = rng.random((3, 12), dtype=np.float32)
    expected = x @ weights[0].T + weights[1]
    model = OrtModel(str(onnx_linear))
    model.session = Without(model.session, "_sess")
    np.testing.assert_allclose(model.run(x), expected, rtol=1e-5, atol=1e-5)
    for name in TFLITE_RUNTIMES:
        path = tflite_builder.linear(tmp_path / "linear.tflite", *weights)
        lite = TfliteModel(str(path), 1, name)
        lite._interpreter = Without(lite._interpreter, "_interpreter")
        lite._set, lite._invoke, lite._get = lite._calls()
        np.testing.assert_allclose(lite.run(x), expected, rtol=1e-5, atol=1e-5)


ENTRY = {"schema": "x", "input": {"shape": [12], "mean": [0.1], "std": [0.5], "class_names": ["a"]}}


@pytest.mark.parametrize(("runtime", "form"), FORMATS)
def test_the_input_comes_from_the_embedded_entry(tmp_path, weights, runtime, form):
    session = runtimes.open(with_entry(tmp_path, form, weights, json.dumps(ENTRY)), runtime)
    assert session.input.shape == (12,)
    assert session.input.mean == (0.1,)
    assert session.input.class_names == ("a",)


@needs_tflite
def test_two_threads_give_the_same(tmp_path, rng, weights, onnx_linear):
    x = rng.random((4, 12), dtype=np.float32)
    path = tflite_builder.linear(tmp_path / "linear.tflite", *weights)
    for model in (onnx_linear, path):
        session = runtimes.open(model, threads=2)
        assert session.runtime.threads == 2
        np.testing.assert_allclose(session.run(x), runtimes.open(model).run(x), rtol=1e-6)


def test_versions_are_those_of_the_installed_packages():
    from importlib import metadata

    found = runtimes.versions()
    assert found["onnxruntime"] == metadata.version("onnxruntime")
    assert set(found) <= set(runtimes.RUNTIMES)
    assert runtimes.installed("onnx") == ("onnxruntime",)
    assert set(runtimes.installed("tflite")) == set(found) - {"onnxruntime"}


def test_importing_runtimes_loads_no_runtime_and_no_torch():
    code = (
        "import sys, sepdeploy.runtimes as r; r.versions(); "
        "print([m for m in ('torch', 'onnxruntime', 'ai_edge_litert', 'tflite_runtime', 'onnx') "
        "if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_of_several_outputs_logits_count_whatever_stands_first(tmp_path, weights):
    weight, bias = weights
    model = onnx_model(
        [
            helper.make_node("Gemm", ["input", "w", "b"], ["logits"], transB=1),
            helper.make_node("ArgMax", ["logits"], ["label"], axis=1),
        ],
        [("input", TensorProto.FLOAT, ["batch", weight.shape[1]])],
        [
            ("label", TensorProto.INT64, ["batch", 1]),
            ("logits", TensorProto.FLOAT, ["batch", len(weight)]),
        ],
        [("w", weight), ("b", bias)],
    )
    onnx.save(model, tmp_path / "two.onnx")
    x = np.random.default_rng(0).random((2, weight.shape[1]), dtype=np.float32)
    with runtimes.open(tmp_path / "two.onnx") as session:
        np.testing.assert_allclose(session.run(x), x @ weight.T + bias, rtol=1e-5, atol=1e-5)
