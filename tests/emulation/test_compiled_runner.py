"""The compiled runner against the Python one, on this machine's own processor."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from sepdeploy.devices.bundle.build import open_bundle, source_folder
from sepdeploy.devices.bundle.launch import bundle_launcher
from sepdeploy.devices.bundle.tools import compile_c, find_compiler
from sepdeploy.devices.measured import DeviceRunner
from sepdeploy.devices.transports import LocalTransport
from sepdeploy.errors import BadInput, Missing
from sepdeploy.jobs import logits_job
from sepdeploy.runtimes.runner.main import execute
from sepdeploy.runtimes.runner.table import load

Run = Callable[..., tuple[int, dict[str, Any]]]
RUNTIME = {".onnx": "onnxruntime", ".tflite": "litert"}


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runner for this machine, with warnings as errors, beside the installed runtimes."""
    import platform

    import onnxruntime

    if sys.platform != "linux":
        pytest.skip("the runner is for Linux")
    folder = tmp_path_factory.mktemp("runner")
    try:
        compiler = find_compiler(platform.machine())
    except Missing as error:
        pytest.skip(error.message)
    flags = ["-Wall", "-Wextra", "-Werror", "-ldl", "-lm", "-lpthread"]
    compile_c(compiler, sorted(source_folder().glob("*.c")), folder / "runner", flags)
    capi = Path(onnxruntime.__file__).parent / "capi"
    (folder / "libonnxruntime.so").symlink_to(next(capi.glob("libonnxruntime.so.*")))
    litert = find_spec("ai_edge_litert")
    if litert and litert.origin:
        (folder / "libLiteRt.so").symlink_to(Path(litert.origin).parent / "libLiteRt.so")
    (folder / "litert.version").write_text("2.3.0\n")
    return folder / "runner"


@pytest.fixture
def run(program: Path, tmp_path: Path) -> Run:
    def call(job: Any) -> tuple[int, dict[str, Any]]:
        text = job if isinstance(job, bytes) else json.dumps(job).encode()
        done = subprocess.run(
            [str(program)],
            input=text,
            capture_output=True,
            cwd=tmp_path,
            env={"LD_LIBRARY_PATH": str(program.parent)},
            timeout=120,
            check=False,
        )
        assert done.returncode >= 0, f"signal {-done.returncode}"
        last = done.stdout.decode().strip().splitlines()[-1]
        return done.returncode, json.loads(last)

    return call


@pytest.mark.parametrize("name", ["mlp.onnx", "conv.onnx", "int8.onnx", "mlp.tflite"])
def test_same_job_same_answer_as_the_python_runner(
    name: str, run: Run, samples: dict[str, Any], tmp_path: Path
) -> None:
    sample = samples[name]
    np.save(tmp_path / "x.npy", sample.inputs)
    job = {
        "mode": "run",
        "runtime": RUNTIME[sample.path.suffix],
        "threads": 1,
        "model": str(sample.path),
        "inputs": str(tmp_path / "x.npy"),
        "batches": [1, 2, 5],
        "output": str(tmp_path / "y.npy"),
    }
    code, result = run(job)
    assert code == 0
    found = np.load(tmp_path / "y.npy")
    expected = execute(job)
    np.testing.assert_allclose(found, np.load(tmp_path / "y.npy"), rtol=1e-5, atol=1e-5)
    assert result["shape"] == expected["shape"] == list(found.shape)
    for key in ("ok", "mode", "runtime", "threads", "version", "batches", "machine"):
        assert result[key] == expected[key], key
    del job["output"]
    _, inline = run(job)
    np.testing.assert_allclose(np.array(inline["logits"]), found, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["int8.tflite", "conv.tflite"])
def test_layout_and_scales_of_the_file_are_converted(
    name: str, run: Run, samples: dict[str, Any], tmp_path: Path
) -> None:
    pytest.importorskip("ai_edge_litert")
    sample = samples[name]
    np.save(tmp_path / "x.npy", sample.inputs)
    code, result = run(
        {
            "mode": "run",
            "runtime": "litert",
            "model": str(sample.path),
            "inputs": "x.npy",
            "batches": [2],
        }
    )
    assert code == 0
    expected = load("litert", str(sample.path)).run(sample.inputs)
    found = np.array(result["logits"], np.float32)[0]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_latency_takes_turns_and_keeps_raw_samples(run: Run, samples: dict[str, Any]) -> None:
    paths = [str(samples[name].path) for name in ("mlp.onnx", "mlp.onnx")]
    code, result = run(
        {
            "mode": "latency",
            "runtime": "onnxruntime",
            "models": [{"name": n, "path": p} for n, p in zip("ab", paths, strict=True)],
            "batch": 2,
            "min_rounds": 4,
            "min_seconds": 0,
            "samples_per_round": 3,
        }
    )
    assert code == 0
    assert result["rounds"] == 4
    assert [m["name"] for m in result["models"]] == ["a", "b"]
    for model in result["models"]:
        assert len(model["samples_ms"]) == 12
        assert min(model["samples_ms"]) > 0
        assert model["block_runs"] >= 1


def test_memory_is_reported_in_order(run: Run, samples: dict[str, Any]) -> None:
    code, result = run(
        {"mode": "memory", "runtime": "onnxruntime", "model": str(samples["mlp.onnx"].path)}
    )
    assert code == 0
    assert 0 < result["rss_before_bytes"] < result["rss_loaded_bytes"] <= result["peak_rss_bytes"]
    assert result["load_ms"] > 0
    assert result["rss_source"] == "VmHWM"


def test_a_fixed_batch_is_padded(run: Run, samples: dict[str, Any], tmp_path: Path) -> None:
    model = onnx.load(samples["mlp.onnx"].path)
    for value in (model.graph.input[0], model.graph.output[0]):
        value.type.tensor_type.shape.dim[0].dim_value = 3
    onnx.save(model, tmp_path / "fixed.onnx")
    inputs = samples["mlp.onnx"].inputs
    np.save(tmp_path / "x.npy", inputs)
    code, result = run(
        {"mode": "run", "runtime": "onnxruntime", "model": "fixed.onnx", "inputs": "x.npy"}
    )
    assert code == 0
    expected = load("onnxruntime", str(samples["mlp.onnx"].path)).run(inputs)
    np.testing.assert_allclose(np.array(result["logits"], np.float32)[0], expected, rtol=1e-5)


def two_inputs(path: Path) -> None:
    info = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", 4]) for n in ("a", "b", "c")
    ]
    nodes = [helper.make_node("Add", ["a", "b"], ["c"])]
    graph = helper.make_graph(nodes, "two", info[:2], info[2:])
    opset = [helper.make_opsetid("", 20)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), path)


@pytest.mark.parametrize(
    ("job", "kind", "words"),
    [
        (b"", "bad-input", "not JSON"),
        (b"[1, 2]", "bad-input", "not JSON"),
        (b'{"mode": "run"', "bad-input", "not JSON"),
        (b'{"mode": "run"} {}', "bad-input", "not JSON"),
        (b"[" * 5000, "bad-input", "not JSON"),
        (b'{"mode": "\\ud800\\u0041"}', "bad-input", "mode"),
        ({"mode": "fly"}, "bad-input", "mode"),
        ({"mode": 3}, "bad-input", "mode"),
        ({"mode": "memory", "runtime": "onnxruntime"}, "bad-input", "model"),
        ({"mode": "memory", "runtime": "mlx", "model": "x"}, "bad-input", "mlx"),
        ({"mode": "memory", "runtime": "onnxruntime", "model": "no"}, "bad-input", "no such file"),
        ({"mode": "memory", "runtime": "onnxruntime", "model": "two.onnx"}, "bad-input", "one in"),
        ({"mode": "latency", "runtime": "onnxruntime", "models": []}, "bad-input", "at least one"),
        ({"mode": "run", "inputs": "absent.npy"}, "bad-input", "absent.npy"),
        ({"mode": "run", "inputs": "two.onnx"}, "bad-input", ".npy"),
        ({"mode": "run", "inputs": "int.npy"}, "bad-input", "float32"),
        ({"mode": "run", "inputs": "cut.npy"}, "bad-input", "truncated"),
        ({"mode": "run", "inputs": "bomb.npy"}, "bad-input", "large"),
        ({"mode": "count", "runtime": "onnxruntime", "model": "x", "runs": 0}, "bad-input", "runs"),
        ({"mode": "memory", "runtime": "onnxruntime", "model": "x", "threads": 0.5}, "bad", "thr"),
    ],
)
def test_wrong_jobs_are_refused_in_one_line(
    job: Any, kind: str, words: str, run: Run, tmp_path: Path
) -> None:
    two_inputs(tmp_path / "two.onnx")
    np.save(tmp_path / "int.npy", np.zeros((2, 2), np.int32))
    np.save(tmp_path / "good.npy", np.zeros((20, 20), np.float32))
    good = (tmp_path / "good.npy").read_bytes()
    (tmp_path / "cut.npy").write_bytes(good[:300])
    huge = good.replace(b"(20, 20), }" + b" " * 14, b"(999999999, 999999999), }")
    (tmp_path / "bomb.npy").write_bytes(huge)
    code, result = run(job)
    assert code == 2
    assert result["ok"] is False
    assert result["kind"].startswith(kind)
    assert words in result["error"]
    assert "\n" not in result["error"]


def test_a_library_that_is_absent_is_missing(program: Path, samples: dict[str, Any]) -> None:
    job = {"mode": "memory", "runtime": "onnxruntime", "model": str(samples["mlp.onnx"].path)}
    done = subprocess.run(
        [str(program)],
        input=json.dumps(job).encode(),
        capture_output=True,
        env={"LD_LIBRARY_PATH": "/nonexistent"},
        timeout=60,
        check=False,
    )
    assert done.returncode == 4
    assert json.loads(done.stdout)["kind"] == "missing"


def test_odd_file_names_survive(run: Run, samples: dict[str, Any], tmp_path: Path) -> None:
    odd = tmp_path / 'a "quoted" größe \\ 模型.onnx'
    odd.write_bytes(b"nonsense")
    code, result = run({"mode": "memory", "runtime": "onnxruntime", "model": odd.name})
    assert code == 2
    assert odd.name in result["error"]


def test_the_bundle_of_this_machine_starts_with_its_own_loader(samples: dict[str, Any]) -> None:
    import platform

    try:
        bundle = open_bundle(platform.machine())
    except (BadInput, Missing) as error:
        pytest.skip(f"{error.message}; {error.hint}")
    for name in ("int8.onnx", "int8.tflite"):
        path = samples[name].path
        job = {"mode": "memory", "runtime": RUNTIME[path.suffix], "model": str(path)}
        done = subprocess.run(
            bundle.command(str(bundle.folder)),
            input=json.dumps(job).encode(),
            capture_output=True,
            env={},
            timeout=60,
            check=True,
        )
        assert json.loads(done.stdout)["version"] == bundle.versions[job["runtime"]]


@pytest.mark.slow
def test_the_bundle_does_a_devices_jobs(samples: dict[str, Any], tmp_path: Path) -> None:
    """As over ssh or adb: everything it needs is sent, and nothing else is used there."""
    import platform

    try:
        bundle = open_bundle(platform.machine())
    except (BadInput, Missing) as error:
        pytest.skip(f"{error.message}; {error.hint}")
    sample = samples["conv.onnx"]
    job = logits_job(sample.path, "onnxruntime", sample.inputs, tmp_path, batches=[2])
    with LocalTransport(tmp_path / "device") as device:
        result = DeviceRunner(device, bundle_launcher(bundle)).run_job(job)
    assert result.runner == "compiled 1"
    expected = load("onnxruntime", str(sample.path)).run(sample.inputs)
    np.testing.assert_allclose(np.load(job.output)[0], expected, rtol=1e-5, atol=1e-6)
