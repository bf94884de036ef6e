"""Jobs that share a device keep apart: no result, file or process is another job's."""

from __future__ import annotations

import atexit
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from device_daemons import Sshd

from sepdeploy.devices.measured import DeviceRunner, Launcher, program_launcher, python_launcher
from sepdeploy.devices.transports import Completed, Disconnected, LocalTransport
from sepdeploy.devices.transports.base import Transport
from sepdeploy.errors import BadInput
from sepdeploy.files import sha256_file
from sepdeploy.jobs import Job, logits_job
from sepdeploy.runtimes import packing

ONES = np.ones((2, 12), np.float32)


def launcher() -> Launcher:
    folder = tempfile.mkdtemp(prefix="sepdeploy-test-")
    atexit.register(shutil.rmtree, folder)
    return python_launcher(packing.write_runner(Path(folder)), sys.executable)


def scaled(model: Path, target: Path, factor: float) -> Path:
    """Write the same model with its weight times a factor."""
    found = onnx.load(model)
    weight = onnx.numpy_helper.to_array(found.graph.initializer[0]) * np.float32(factor)
    found.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(weight, "w"))
    onnx.save(found, target)
    return target


def compare_two(ways: Sequence[Transport], models: Sequence[Path], folder: Path, n: int) -> None:
    """Do n jobs on each of two ways at once and compare each with what it gives alone."""
    start = launcher()
    jobs, expected = [], []
    for i, (way, model) in enumerate(zip(ways, models, strict=True)):
        own = folder / f"own{i}"
        own.mkdir()
        jobs.append(logits_job(model, "onnxruntime", ONES, own))
        DeviceRunner(way, start).run_job(jobs[-1])
        assert jobs[-1].output is not None
        expected.append(jobs[-1].output.read_bytes())
    assert expected[0] != expected[1]
    wrong: list[str] = []

    def work(i: int) -> None:
        output = jobs[i].output
        assert output is not None
        for turn in range(n):
            output.unlink()
            DeviceRunner(ways[i], start).run_job(jobs[i])
            if output.read_bytes() != expected[i]:
                wrong.append(f"{i}: {turn}")

    threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.slow
def test_two_jobs_at_once_never_exchange_results(tmp_path: Path, onnx_file: Path) -> None:
    models = [onnx_file, scaled(onnx_file, tmp_path / "b.onnx", 3)]
    ways = [LocalTransport(tmp_path / "wd") for _ in models]
    compare_two(ways, models, tmp_path, 40)
    assert not list((tmp_path / "wd").glob("*.pid"))
    assert not list((tmp_path / "wd").rglob("job-*"))


@pytest.mark.slow
def test_two_jobs_at_once_over_ssh(sshd: Sshd, tmp_path: Path, onnx_file: Path) -> None:
    models = [onnx_file, scaled(onnx_file, tmp_path / "b.onnx", 3)]
    with sshd.transport(tmp_path / "wd") as one, sshd.transport(tmp_path / "wd") as other:
        compare_two([one, other], models, tmp_path, 40)
    assert not list((tmp_path / "wd").rglob("job-*"))


def test_a_job_leaves_nothing_of_its_own(tmp_path: Path, onnx_file: Path) -> None:
    way = LocalTransport(tmp_path / "wd")
    DeviceRunner(way, launcher()).run_job(logits_job(onnx_file, "onnxruntime", ONES, tmp_path))
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no model")
    with pytest.raises(BadInput):
        DeviceRunner(way, launcher()).run_job(Job("memory", "onnxruntime", {"artifact": broken}))
    assert not list((tmp_path / "wd").rglob("job-*"))


ANSWER = """#!{python}
import json, sys
job = json.load(sys.stdin)
answer = {{"ok": True, "mode": "memory", "peak_rss_bytes": 1, "load_ms": 1, "id": job["id"]}}
print(json.dumps(answer | {change}))
"""


@pytest.mark.parametrize(
    ("change", "good"),
    [
        ({}, True),
        ({"id": "job-0123"}, False),
        ({"id": None}, False),
        ({"id": ["x"]}, False),
        ({"sha256": ["MODEL"]}, True),
        ({"sha256": ["0" * 64]}, False),
        ({"sha256": []}, False),
        ({"sha256": {"a": 1}}, False),
    ],
)
def test_an_answer_to_another_job_or_about_another_file_is_refused(
    tmp_path: Path, onnx_file: Path, change: dict[str, object], good: bool
) -> None:
    text = repr(json.loads(json.dumps(change).replace("MODEL", sha256_file(onnx_file))))
    program = tmp_path / "runner"
    program.write_text(ANSWER.format(python=sys.executable, change=text))
    runner = DeviceRunner(LocalTransport(tmp_path / "wd"), program_launcher(program))
    job = Job("memory", "onnxruntime", {"artifact": onnx_file})
    if good:
        assert runner.run_job(job).memory["peak"] == 1
        return
    with pytest.raises(BadInput, match="answered another job, or about another file"):
        runner.run_job(job)


class Dropping(LocalTransport):
    """Loses its connection in the first job, and by then its number belongs to ``pid``."""

    def __init__(self, workdir: Path, pid: int) -> None:
        super().__init__(workdir)
        self._pid, self._dropped = pid, False

    def run(self, argv: Sequence[str], **options: Any) -> Completed:
        if "echo $$" in argv[-1] and not self._dropped:
            self._dropped = True
            name = argv[-1].split("> ")[1].split(";")[0]
            (self.workdir / name).write_text(f"{self._pid}\n")
            raise Disconnected("local: the connection was lost", hint="plug it in")
        return super().run(argv, **options)


@pytest.mark.parametrize("own", [False, True])
def test_only_our_own_leftover_is_ended(tmp_path: Path, onnx_file: Path, own: bool) -> None:
    process = subprocess.Popen(["sleep", "60"], env={**os.environ, "SEPDEPLOY_JOB": "another"})
    try:
        device = Dropping(tmp_path / "wd", process.pid)
        runner = DeviceRunner(device, launcher(), pause=0)
        job = logits_job(onnx_file, "onnxruntime", ONES, tmp_path)
        if own:  # what the first attempt left running
            runner._name = lambda remote: _named(runner, "another")  # type: ignore[method-assign]
        runner.run_job(job)
        assert runner.retries == 1
        if own:
            assert process.wait(10) == -9
        else:
            assert process.poll() is None
    finally:
        process.kill()
        process.wait()


def _named(runner: DeviceRunner, name: str) -> str:
    runner._last = name
    return name
