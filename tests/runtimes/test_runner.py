"""The one runner: alone as a script, and its jobs one by one."""

import ast
import io
import json
import subprocess
import sys
import zipfile

import numpy as np
import onnx
import pytest
import tflite_builder
from onnx_builder import linear_model

from sepdeploy import runtimes
from sepdeploy.runtimes import packing
from sepdeploy.runtimes.runner import contract, main, memory, timing
from sepdeploy.runtimes.runner.job import read_job

RUNTIMES = [(name, runtimes.RUNTIMES[name].format) for name in runtimes.versions()]


@pytest.fixture
def files(tmp_path, weights, onnx_linear):
    found = {"onnx": str(onnx_linear)}
    if runtimes.installed("tflite"):
        path = tflite_builder.linear(tmp_path / "linear.tflite", *weights)
        found["tflite"] = str(path)
    return found


@pytest.fixture
def inputs(tmp_path, rng):
    array = rng.random((7, 12), dtype=np.float32)
    np.save(tmp_path / "inputs.npy", array)
    return array


def as_script(job, folder):
    """Run the zipped runner in an empty environment, as a device would."""
    copy = folder / "device" / "runner.pyz"
    copy.parent.mkdir(exist_ok=True)
    packing.write_runner(copy.parent)
    text = job if isinstance(job, str) else json.dumps(job)
    done = subprocess.run(
        [sys.executable, str(copy)],
        input=text,
        capture_output=True,
        text=True,
        check=False,
        cwd=copy.parent,
        env={"PATH": "/usr/bin:/bin"},
    )
    return done, json.loads(done.stdout.splitlines()[-1])


def test_it_holds_nothing_of_ours_but_itself_and_reads_on_python_3_9():
    with zipfile.ZipFile(io.BytesIO(packing.runner_bytes())) as packed:
        texts = {name: packed.read(name).decode() for name in packed.namelist()}
    names = set()
    for text in texts.values():
        for node in ast.walk(ast.parse(text, feature_version=(3, 9))):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0
                names.add(node.module)
    inside = {name[:-3].replace("/", ".").removesuffix(".__init__") for name in texts}
    own = {name for name in names if name.startswith("sepdeploy")}
    assert own <= inside
    assert texts["sepdeploy/__init__.py"] == texts["sepdeploy/runtimes/__init__.py"] == ""
    allowed = {"numpy", "onnxruntime", "onnx", "resource"}
    others = {name.partition(".")[0] for name in names - own}
    assert others <= set(sys.stdlib_module_names) | allowed


def test_the_zipped_runner_is_the_same_bytes_at_any_time():
    code = "import sys; from sepdeploy.runtimes import packing; "
    code += "sys.stdout.buffer.write(packing.runner_bytes())"
    env = {"PATH": "/usr/bin:/bin", "PYTHONHASHSEED": "7"}
    again = subprocess.run(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, check=True, env=env
    )
    assert again.stdout == packing.runner_bytes()


@pytest.mark.parametrize(("runtime", "form"), RUNTIMES)
def test_run_as_a_script(tmp_path, files, inputs, weights, runtime, form):
    job = {
        "mode": "run",
        "runtime": runtime,
        "model": files[form],
        "inputs": str(tmp_path / "inputs.npy"),
        "batches": [1, 3, 7],
    }
    done, result = as_script(job, tmp_path)
    assert done.returncode == 0
    assert result["ok"]
    assert result["version"] == runtimes.versions()[runtime]
    assert result["shape"] == [3, 7, 5]
    expected = inputs @ weights[0].T + weights[1]
    for logits in result["logits"]:
        np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5)


def test_logits_go_to_a_file_when_one_is_named(tmp_path, files, inputs, weights):
    job = {"mode": "run", "runtime": "onnxruntime", "model": files["onnx"], "batches": [4]}
    job |= {"inputs": str(tmp_path / "inputs.npy"), "output": str(tmp_path / "logits.npy")}
    result = main.execute(job)
    assert result["ok"]
    assert "logits" not in result
    expected = inputs @ weights[0].T + weights[1]
    np.testing.assert_allclose(
        np.load(tmp_path / "logits.npy"), expected[None], rtol=1e-5, atol=1e-5
    )


def test_a_fixed_batch_size_is_filled_up(tmp_path, inputs, weights):
    path = tmp_path / "fixed.onnx"
    onnx.save(linear_model(*weights, batch=3), str(path))
    job = {"mode": "run", "runtime": "onnxruntime", "model": str(path), "batches": [32]}
    result = main.execute({**job, "inputs": str(tmp_path / "inputs.npy")})
    assert result["shape"] == [1, 7, 5]
    expected = inputs @ weights[0].T + weights[1]
    np.testing.assert_allclose(result["logits"][0], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("runtime", "form"), RUNTIMES)
def test_latency(files, runtime, form):
    job = {
        "mode": "latency",
        "runtime": runtime,
        "models": [{"name": n, "path": files[form]} for n in ("a", "b", "c")],
        "batch": 2,
        "min_rounds": 4,
        "min_seconds": 0.0,
        "samples_per_round": 3,
        "block_us": 50.0,
    }
    result = main.execute(job)
    assert result["ok"], result
    assert result["rounds"] == 4
    assert [m["name"] for m in result["models"]] == ["a", "b", "c"]
    for model in result["models"]:
        assert len(model["samples_ms"]) == 12
        assert all(0 < s < 1000 for s in model["samples_ms"])
        assert model["block_runs"] >= 1


class Clock:
    """A clock that only moves when a fake model runs."""

    def __init__(self):
        self.now = 0

    def __call__(self):
        return self.now


class Fake:
    sample, fixed, version, name, refusal = (3,), None, "0", "fake", None

    def __init__(self, clock, cost_ns, log, label):
        self.clock, self.cost_ns, self.log, self.label = clock, cost_ns, log, label

    def run(self, batch):
        self.clock.now += self.cost_ns
        self.log.append(self.label)


def fake_job(monkeypatch, costs, **job):
    clock, log = Clock(), []
    models = {label: Fake(clock, cost, log, label) for label, cost in costs.items()}
    monkeypatch.setattr(timing.time, "perf_counter_ns", clock)
    monkeypatch.setattr(timing, "load_model", lambda job, path: models[path])
    entries = [{"name": label, "path": label} for label in costs]
    result = timing.job_latency(
        read_job({"mode": "latency", "runtime": "fake", "models": entries, "min_seconds": 0, **job})
    )
    return result, log


def test_blocks_are_long_enough_for_the_clock_and_samples_are_per_run(monkeypatch):
    costs = {"tiny": 700, "slow": 5_000_000}
    result, _ = fake_job(monkeypatch, costs, min_rounds=3, block_us=200.0)
    tiny, slow = result["models"]
    assert tiny["block_runs"] == pytest.approx(200_000 / 700, abs=1)
    assert slow["block_runs"] == 1
    assert tiny["samples_ms"] == pytest.approx([0.0007] * 3)
    assert slow["samples_ms"] == pytest.approx([5.0] * 3)


def test_models_take_turns_and_the_order_reverses(monkeypatch):
    costs = dict.fromkeys("abc", 1_000_000)
    result, log = fake_job(monkeypatch, costs, min_rounds=4, warmup=1, block_us=1.0)
    assert result["rounds"] == 4
    timed = "".join(log)[-4 * 3 * 2 :]  # one run to warm up and one timed run per turn
    assert timed == 2 * ("aabbcc" + "ccbbaa")


def test_time_limits(monkeypatch):
    costs = {"a": 10_000_000}
    result, _ = fake_job(monkeypatch, costs, min_rounds=1, min_seconds=1.0)
    assert result["rounds"] == 50  # 10 ms to warm up and 10 ms timed, for a second
    result, _ = fake_job(monkeypatch, costs, min_rounds=10**6, max_seconds=1.0)
    assert result["rounds"] == 50
    result, _ = fake_job(monkeypatch, {"a": 10**12}, min_rounds=10**6, max_seconds=1.0)
    assert result["rounds"] == 3


def test_models_of_different_inputs_are_not_compared(tmp_path, files, rng):
    other = tmp_path / "other.onnx"
    weight = rng.standard_normal((5, 13), np.float32)
    onnx.save(linear_model(weight, np.zeros(5, np.float32)), str(other))
    models = [{"name": "a", "path": files["onnx"]}, {"name": "b", "path": str(other)}]
    result = main.execute({"mode": "latency", "runtime": "onnxruntime", "models": models})
    assert result["kind"] == "bad-input"
    assert "(12,), (13,)" in result["error"]


@pytest.mark.parametrize(("runtime", "form"), RUNTIMES)
def test_memory_as_a_script(tmp_path, files, runtime, form):
    job = {"mode": "memory", "runtime": runtime, "model": files[form], "batch": 2}
    done, result = as_script(job, tmp_path)
    assert done.returncode == 0
    assert result["peak_rss_bytes"] >= result["rss_after_bytes"] >= 10 << 20
    assert result["rss_loaded_bytes"] >= result["rss_before_bytes"]
    assert 0 < result["load_ms"] < 60_000


def test_the_peak_of_a_large_model_contains_its_weights(tmp_path, rng):
    weight = np.zeros((1000, 12000), np.float32)  # 48 MB
    path = tmp_path / "large.onnx"
    onnx.save(linear_model(weight, np.zeros(1000, np.float32)), str(path))
    _, large = as_script({"mode": "memory", "runtime": "onnxruntime", "model": str(path)}, tmp_path)
    assert large["peak_rss_bytes"] - large["rss_before_bytes"] > weight.nbytes
    assert large["rss_after_bytes"] - large["rss_before_bytes"] > 0.9 * weight.nbytes


def test_resident_without_proc(monkeypatch):
    monkeypatch.setattr(memory.Path, "read_text", lambda *a, **k: "Name:\tpython\n")
    peak, current = memory.resident()
    assert peak == current > 10 << 20


# --- failures


@pytest.mark.parametrize(
    ("job", "code", "kind", "text"),
    [
        ("not json", 2, "bad-input", "job needs a mode"),
        ({"mode": "fly"}, 2, "bad-input", "job needs a mode out of run, latency"),
        ([1], 2, "bad-input", "job needs a mode"),
        ({"mode": "run", "runtime": "onnxruntime"}, 70, "internal", "KeyError"),
        (
            {"mode": "memory", "runtime": "onnxruntime", "model": "absent.onnx"},
            2,
            "bad-input",
            "absent.onnx",
        ),
        (
            {"mode": "latency", "runtime": "nothing", "models": [{"name": "a", "path": "a"}]},
            2,
            "bad-input",
            "unknown runtime 'nothing'",
        ),
    ],
)
def test_failures_are_json_with_an_exit_code(tmp_path, job, code, kind, text):
    done, result = as_script(job, tmp_path)
    assert (done.returncode, result["ok"], result["kind"]) == (code, False, kind)
    assert text in result["error"]
    assert "\n" not in result["error"]
    assert "Traceback" not in done.stderr


def test_a_missing_runtime_is_exit_code_4(monkeypatch, files, capsys):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    job = {"mode": "memory", "runtime": "onnxruntime", "model": files["onnx"]}
    result = main.execute(job)
    assert result["kind"] == "missing"
    assert main.EXIT_CODES[result["kind"]] == 4
    result = main.execute({**job, "mode": "optimize", "output": "x"})
    assert result["kind"] == "missing"
    assert "pip install onnxruntime" in result["hint"]


@pytest.mark.parametrize(
    ("name", "content"), [("i.npy", b"garbage"), ("i.npy", b""), ("absent.npy", None)]
)
def test_inputs_that_cannot_be_read(tmp_path, files, name, content):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    job = {"mode": "run", "runtime": "onnxruntime", "model": files["onnx"]}
    result = main.execute({**job, "inputs": str(tmp_path / name)})
    assert result["kind"] == "bad-input"
    assert "inputs cannot be read" in result["error"]


def test_inputs_are_never_unpickled(tmp_path, files):
    np.save(tmp_path / "i.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    job = {"mode": "run", "runtime": "onnxruntime", "model": files["onnx"]}
    result = main.execute({**job, "inputs": str(tmp_path / "i.npy")})
    assert "inputs cannot be read" in result["error"]


@pytest.mark.parametrize("batches", [[], [0], [-1]])
def test_batches_must_be_positive(tmp_path, files, inputs, batches):
    job = {"mode": "run", "runtime": "onnxruntime", "model": files["onnx"], "batches": batches}
    result = main.execute({**job, "inputs": str(tmp_path / "inputs.npy")})
    assert "batch sizes of at least 1" in result["error"]


def test_running_out_of_memory_is_bad_input(monkeypatch):
    def greedy(job):
        raise MemoryError

    monkeypatch.setitem(main.MODES, "run", greedy)
    result = main.execute({"mode": "run", "runtime": "onnxruntime", "model": "m"})
    assert (result["kind"], result["error"]) == ("bad-input", "out of memory")


def test_the_result_is_the_last_line_whatever_the_runtime_prints(monkeypatch, capsys):
    def chatty(job):
        print("a runtime says something", end="")
        return {"version": "1"}

    monkeypatch.setitem(main.MODES, "run", chatty)
    monkeypatch.setattr(sys, "stdin", io.StringIO('{"mode": "run", "runtime": "r", "model": "m"}'))
    assert main.main() == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "a runtime says something"
    assert json.loads(lines[-1])["ok"]


def test_one_line_cuts_long_texts():
    assert contract.one_line("a\n b\t c") == "a b c"
    assert len(contract.one_line("x" * 1000)) == 300


# --- looking inside


def test_optimize_writes_the_graph_with_its_constants_beside_it(tmp_path, files):
    target = tmp_path / "optimized.onnx"
    job = {"mode": "optimize", "runtime": "onnxruntime", "model": files["onnx"]}
    assert main.execute({**job, "output": str(target)})["ok"]
    model = onnx.load(str(target), load_external_data=False)
    assert {t.name for t in model.graph.initializer} == {"w", "b"}
    result = main.execute({**job, "runtime": "litert", "output": str(target)})
    assert result["kind"] == "bad-input"


@pytest.mark.parametrize(("runtime", "form"), RUNTIMES)
def test_values_reads_what_the_file_names(tmp_path, files, inputs, weights, runtime, form):
    job = {"mode": "values", "runtime": runtime, "model": files[form], "names": ["no", "logits"]}
    job |= {"inputs": str(tmp_path / "inputs.npy"), "output": str(tmp_path / "values.npz")}
    result = main.execute(job)
    assert result["found"] == ["logits"]
    with np.load(tmp_path / "values.npz") as arrays:
        expected = inputs @ weights[0].T + weights[1]
        np.testing.assert_allclose(arrays["value1"], expected, rtol=1e-5, atol=1e-5)
    result = main.execute({**job, "names": ["no"]})
    assert result["found"] == []
