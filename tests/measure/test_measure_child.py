"""Jobs in a child process: whatever the child does, the parent gets one line or the result."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sepdeploy import measure, runtimes
from sepdeploy.errors import BadInput, Missing, SepdeployError
from sepdeploy.jobs import Job
from sepdeploy.measure import child
from sepdeploy.runtimes import packing


@pytest.fixture
def fake_runner(monkeypatch):
    """Replace the runner by a script of the test."""

    def replace(code):
        text = "import json, os, signal, sys, time\n" + textwrap.dedent(code)
        monkeypatch.setattr(packing, "runner_bytes", text.encode)
        return text

    return replace


JOB = Job("memory", "onnxruntime", {"artifact": Path("some.onnx")})


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("os.kill(os.getpid(), signal.SIGSEGV)", "onnxruntime broke down on it, SIGSEGV"),
        ("os.abort()", "broke down on it, SIGABRT"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "SIGKILL (out of memory?)"),
        ("sys.exit(3)", "exit code 3"),
        ("print('no json')", "exit code 0"),
        ("print('[1]')", "exit code 0"),
        ("print('{}')", "exit code 0"),
    ],
)
def test_a_child_without_an_answer_is_bad_input(fake_runner, code, text):
    fake_runner(code)
    with pytest.raises(BadInput) as caught:
        measure.run_job(JOB)
    assert caught.value.message.startswith("some.onnx: ")
    assert text in caught.value.message
    assert "\n" not in caught.value.message + caught.value.hint


def test_the_last_words_of_a_crash_stand_in_the_hint(fake_runner):
    fake_runner("sys.stderr.write('first\\nAssertion `n > 0` failed\\n'); os.abort()")
    with pytest.raises(BadInput) as caught:
        measure.run_job(JOB)
    assert "Assertion `n > 0` failed" in caught.value.hint


def test_a_child_that_hangs_is_ended(fake_runner, tmp_path):
    fake_runner(f"open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(600)")
    with pytest.raises(BadInput, match="did not finish within 1 s"):
        measure.run_job(JOB, timeout=1.0)
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


@pytest.mark.slow
def test_an_interruption_ends_the_child(fake_runner, tmp_path):
    """Ctrl-C reaches the parent; the child must not live on."""
    pid = tmp_path / "pid"
    text = fake_runner(f"open({str(pid)!r}, 'w').write(str(os.getpid())); time.sleep(600)")
    parent = textwrap.dedent(f"""
        from sepdeploy.runtimes import packing
        packing.runner_bytes = {text!r}.encode
        from sepdeploy import measure, runtimes
        try:
            from pathlib import Path, PosixPath
            from sepdeploy.jobs import Job
            measure.run_job({JOB!r})
        except KeyboardInterrupt:
            print("interrupted")
    """)
    process = subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 60
        while not (pid.exists() and pid.read_text()) and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=60)
    finally:
        process.kill()
        process.communicate()
    assert out.strip() == "interrupted"
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)


def test_answers_become_errors_of_their_kind(fake_runner):
    def answer(**fields):
        fake_runner(f"print(json.dumps({ ({'ok': False, 'hint': 'do this', **fields})!r}))")

    answer(error="it is missing", kind="missing")
    with pytest.raises(Missing, match="it is missing") as caught:
        measure.run_job(JOB)
    assert caught.value.hint == "do this"
    answer(error="out of memory", kind="bad-input")
    with pytest.raises(BadInput, match=r"^some\.onnx: out of memory$"):
        measure.run_job(JOB)
    answer(error="some.onnx: is odd", kind="bad-input")
    with pytest.raises(BadInput, match=r"^some\.onnx: is odd$"):
        measure.run_job(JOB)
    answer(error="TypeError: x", kind="internal")
    with pytest.raises(SepdeployError, match="the runner failed: TypeError") as caught:
        measure.run_job(JOB)
    assert caught.value.exit_code == 70


def test_the_environment_is_small_and_fixed(fake_runner, monkeypatch, tmp_path):
    monkeypatch.setenv("SECRET_TOKEN", "1")
    monkeypatch.setenv("PYTHONHASHSEED", "random")
    seen = tmp_path / "seen"
    fake_runner(
        f"open({str(seen)!r}, 'w').write(json.dumps({{"
        "'env': dict(os.environ), 'argv0': sys.path[0],"
        "'folder': os.path.dirname(os.path.abspath(__file__)), 'job': json.load(sys.stdin)}));"
        "print(json.dumps({'ok': True, 'peak_rss_bytes': 1, 'load_ms': 1}))"
    )
    measure.run_job(replace(JOB, threads=2))
    result = json.loads(seen.read_text())
    env = result["env"]
    assert "SECRET_TOKEN" not in env
    assert env["PYTHONHASHSEED"] == "0"
    assert env["OMP_NUM_THREADS"] == "2"
    assert result["job"]["memory_limit"] >= child.LEAST_MEMORY
    # The runner's own folder is not searched for modules: its neighbours have common names.
    assert result["argv0"] != result["folder"]


def test_a_file_that_asks_for_terabytes_is_one_line(tmp_path):
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    dims = numpy_helper.from_array(np.array([10**6, 10**6], np.int64), "dims")
    nodes = [
        helper.make_node("ConstantOfShape", ["dims"], ["huge"]),
        helper.make_node("ReduceSum", ["huge"], ["sum"], keepdims=0),
        helper.make_node("Add", ["input", "sum"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "bomb",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 2])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 2])],
        [dims],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    path = tmp_path / "bomb.onnx"
    onnx.save(model, str(path))
    with pytest.raises(BadInput, match=r"bomb\.onnx"):
        measure.run_logits(path, "onnxruntime", np.ones((1, 2), np.float32))


def test_nothing_is_left_behind(artifacts, images, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    logits, answer = measure.run_logits(artifacts["onnx"], "onnxruntime", images, batches=(1, 5))
    assert logits.shape == (2, 32, 10)
    assert answer.version == runtimes.versions()["onnxruntime"]
    with pytest.raises(BadInput):
        measure.run_logits(tmp_path / "absent.onnx", "onnxruntime", images)
    assert list(tmp_path.iterdir()) == []


def test_memory_limit_without_proc(monkeypatch):
    monkeypatch.setattr(Path, "read_text", lambda *a, **k: "MemTotal: 1 kB\n")
    assert child.memory_limit() == 0
    monkeypatch.setattr(Path, "read_text", lambda *a, **k: "MemAvailable: 100000000 kB\n")
    assert child.memory_limit() == 100000000 * 1024 * 4 // 5


def test_jobs_of_several_files_name_them_all(fake_runner):
    fake_runner("sys.exit(1)")
    models = {"a": Path("a.onnx"), "b": Path("b.onnx")}
    with pytest.raises(BadInput, match=r"^a\.onnx, b\.onnx: "):
        measure.run_job(Job("latency", "onnxruntime", models))


def test_a_harder_limit_of_the_shell_is_kept():
    program = (
        "import resource; from sepdeploy.runtimes.runner.memory import limit_memory; "
        "most = 32 << 30; resource.setrlimit(resource.RLIMIT_AS, (most, most)); "
        "limit_memory(most + 1); print(resource.getrlimit(resource.RLIMIT_AS)[0] == most); "
        "limit_memory(most // 2); print(resource.getrlimit(resource.RLIMIT_AS)[0] < most)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.split() == ["True", "True"], done.stderr
