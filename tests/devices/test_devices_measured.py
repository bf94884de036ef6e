"""Jobs on a device: end to end over real daemons, and every way in which they end badly."""

from __future__ import annotations

import atexit
import os
import re
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from device_daemons import AdbWorld, Sshd, wait_for

from sepdeploy.devices import profile
from sepdeploy.devices.measured import (
    DeviceRunner,
    Launcher,
    measure,
    program_launcher,
    python_launcher,
)
from sepdeploy.devices.transports import (
    AdbTransport,
    Completed,
    Disconnected,
    LocalTransport,
    Recorder,
    Replay,
)
from sepdeploy.errors import BadInput, Missing, SepdeployError, Unstable
from sepdeploy.jobs import Job, logits_job
from sepdeploy.records import Kind
from sepdeploy.runtimes import packing

Array = npt.NDArray[np.float32]


def launcher(python: str = sys.executable) -> Launcher:
    folder = tempfile.mkdtemp(prefix="sepdeploy-test-")
    atexit.register(shutil.rmtree, folder)
    return python_launcher(packing.write_runner(Path(folder)), python)


def run_job(model: Path, folder: Path, inputs: Array) -> Job:
    job = logits_job(model, "onnxruntime", inputs, folder, batches=[2, 3])
    return replace(job, settings={**job.settings, "memory_limit": 1})


def latency_job(model: Path, **changes: Any) -> Job:
    how = {"min_seconds": 0.05, "min_rounds": 5, **changes}
    return Job("latency", "onnxruntime", {"artifact": model}, how)


def memory_job(model: Path) -> Job:
    return Job("memory", "onnxruntime", {"artifact": model})


@pytest.fixture
def inputs() -> Array:
    return np.random.default_rng(1).random((6, 12), dtype=np.float32)


def jobs(model: Path, folder: Path, inputs: Array) -> list[tuple[str, Job]]:
    return [
        ("logits", run_job(model, folder, inputs)),
        ("latency", latency_job(model)),
        ("memory", memory_job(model)),
    ]


def test_ssh_end_to_end(
    sshd: Sshd, tmp_path: Path, onnx_file: Path, weight: Array, inputs: Array
) -> None:
    with sshd.transport(tmp_path / "wd") as device:
        run = measure(device, launcher(), jobs(onnx_file, tmp_path, inputs))
    assert run.error is None
    assert run.kind is Kind.MEASURED
    logits = np.load(tmp_path / "logits.npy")
    np.testing.assert_allclose(logits, np.stack([inputs @ weight] * 2), rtol=1e-5)
    (timed,) = run.answers["latency"].times.models
    assert timed.name == "artifact"
    assert len(timed.samples_ms) >= 5
    assert min(timed.samples_ms) > 0
    assert run.answers["memory"].memory["peak"] > 1 << 20
    device_facts = run.device()
    assert device_facts["transport"] == "ssh"
    assert device_facts["machine"] == os.uname().machine
    assert len(device_facts["load"]) == 2


class Noting(LocalTransport):
    """Notes what is sent."""

    def __init__(self, workdir: Path) -> None:
        super().__init__(workdir)
        self.sent: list[str] = []

    def push(self, local: Path, remote: str, *, executable: bool = False) -> None:
        self.sent.append(remote)
        super().push(local, remote, executable=executable)


def test_files_are_sent_once_and_damaged_ones_again(tmp_path: Path, onnx_file: Path) -> None:
    device = Noting(tmp_path / "wd")
    for _ in range(2):
        DeviceRunner(device, launcher()).run_job(latency_job(onnx_file))
    assert len(device.sent) == 2
    stored = next((tmp_path / "wd/files").glob("*.onnx"))
    stored.write_bytes(stored.read_bytes()[:-1] + b"!")
    DeviceRunner(device, launcher()).run_job(latency_job(onnx_file))
    assert [Path(name).suffix for name in device.sent] == [".pyz", ".onnx", ".onnx"]
    assert stored.read_bytes() == onnx_file.read_bytes()


@pytest.mark.slow
def test_a_connection_lost_during_a_job_is_tried_again_once(
    sshd: Sshd, tmp_path: Path, onnx_file: Path
) -> None:
    job = latency_job(onnx_file, min_seconds=1.5)
    with sshd.transport(tmp_path / "wd") as device:
        DeviceRunner(device, launcher()).run_job(latency_job(onnx_file))

        def drop() -> None:
            wait_for(lambda: list((tmp_path / "wd").glob("*.pid")))
            pids.extend(p.read_text().strip() for p in (tmp_path / "wd").glob("*.pid"))
            sshd.drop()

        for old in (tmp_path / "wd").glob("*.pid"):
            old.unlink()
        pids: list[str] = []
        breaker = threading.Thread(target=drop)
        breaker.start()
        run = measure(device, launcher(), [("latency", job)], pause=0.2)
        breaker.join()
    assert run.error is None
    assert run.answers["latency"].times.models[0].samples_ms
    assert "the connection was lost and restored 1 time(s)" in run.notes
    assert not Path(f"/proc/{pids[0]}").exists()


@pytest.mark.slow
def test_a_run_that_is_killed_keeps_what_was_finished(
    sshd: Sshd, tmp_path: Path, onnx_file: Path
) -> None:
    memory = memory_job(onnx_file)

    def kill(name: str) -> None:
        if name == "long":
            threading.Thread(target=kill_runner).start()

    def kill_runner() -> None:
        folder = tmp_path / "wd"
        seen = set(folder.glob("*.pid"))
        wait_for(lambda: set(folder.glob("*.pid")) - seen)
        (path,) = set(folder.glob("*.pid")) - seen
        wait_for(lambda: path.read_text().strip())
        os.kill(int(path.read_text()), signal.SIGKILL)

    with sshd.transport(tmp_path / "wd") as device:
        run = measure(
            device,
            launcher(),
            [("memory", memory), ("long", latency_job(onnx_file, min_seconds=60)), ("x", memory)],
            on_job=kill,
        )
    assert list(run.answers) == ["memory"]
    assert isinstance(run.error, Missing)
    assert "the run was killed there" in run.error.message
    assert run.after is not None


def failing(transport: Any, start: Launcher, job: Job) -> SepdeployError:
    with pytest.raises(SepdeployError) as error:
        DeviceRunner(transport, start).run_job(job)
    assert "\n" not in error.value.message
    assert error.value.hint
    return error.value


@pytest.mark.slow
def test_no_python_there(sshd: Sshd, tmp_path: Path, onnx_file: Path) -> None:
    with sshd.transport(tmp_path / "wd") as device:
        error = failing(device, launcher("nosuchpython"), latency_job(onnx_file))
    assert error.exit_code == 4
    assert "no nosuchpython there" in error.message


@pytest.mark.slow
def test_no_runtime_there(sshd: Sshd, tmp_path: Path, onnx_file: Path) -> None:
    start = launcher()
    bare = Launcher(start.files, (sys.executable, "-S", "-B", *start.argv[2:]))
    with sshd.transport(tmp_path / "wd") as device:
        error = failing(device, bare, latency_job(onnx_file))
    assert error.exit_code == 4
    assert "numpy is not installed" in error.message


def test_a_runtime_that_is_missing_says_how_to_get_it(tmp_path: Path, onnx_file: Path) -> None:
    blocker = tmp_path / "block"
    blocker.mkdir()
    (blocker / "onnxruntime.py").write_text("raise ImportError('no onnxruntime')")
    start = launcher()
    bare = Launcher(start.files, start.argv, env={"PYTHONPATH": str(blocker)})
    error = failing(LocalTransport(tmp_path / "wd"), bare, latency_job(onnx_file))
    assert error.exit_code == 4
    assert "onnxruntime is not installed" in error.message
    assert error.hint == "on the device: pip install onnxruntime"


def test_a_broken_model_is_bad_input_under_its_own_name(tmp_path: Path) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"not a model")
    error = failing(LocalTransport(tmp_path / "wd"), launcher(), latency_job(broken))
    assert error.exit_code == 2
    assert str(broken) in error.message
    assert "files/" not in error.message


def test_a_model_that_is_not_here_is_bad_input(tmp_path: Path) -> None:
    job = latency_job(tmp_path / "absent.onnx")
    assert failing(LocalTransport(tmp_path), launcher(), job).exit_code == 2


@pytest.mark.slow
def test_a_program_for_another_processor(sshd: Sshd, tmp_path: Path, onnx_file: Path) -> None:
    foreign = tmp_path / "runner-arm"
    header = bytearray(Path("/bin/true").read_bytes())
    header[18:20] = (0xFFFE).to_bytes(2, "little")  # e_machine: nobody's
    foreign.write_bytes(header)
    with sshd.transport(tmp_path / "wd") as device:
        error = failing(device, program_launcher(foreign), latency_job(onnx_file))
    assert error.exit_code == 4
    assert "another architecture" in error.message


@pytest.mark.parametrize(
    ("script", "code", "words"),
    [
        ("kill -4 $$", 4, "an instruction that its processor lacks"),
        ("kill -9 $$", 4, "ran out of memory, or somebody ended it"),
        ("kill -11 $$", 2, "broke down on .*, signal 11"),
        ("echo '{'; exit 3", 2, "exit code 3"),
        ("echo 'write: No space left on device' >&2; exit 1", 4, "the disk is full"),
        ('echo \'{"ok": false, "error": "odd", "kind": "internal"}\'; exit 70', 2, "odd"),
    ],
)
def test_how_a_runner_can_end(
    tmp_path: Path, onnx_file: Path, script: str, code: int, words: str
) -> None:
    program = tmp_path / "runner"
    program.write_text(f"#!/bin/sh\ncat > /dev/null\n{script}\n")
    error = failing(
        LocalTransport(tmp_path / "wd"), program_launcher(program), latency_job(onnx_file)
    )
    assert error.exit_code == code
    assert re.search(words, error.message)


class Flaky(LocalTransport):
    """Loses its connection in its first ``drops`` runs of a job."""

    drops = 0

    def run(self, argv: Sequence[str], **options: Any) -> Completed:
        if "echo $$" in argv[-1] and self.drops > 0:
            self.drops -= 1
            raise Disconnected("local: the connection was lost", hint="plug it in")
        return super().run(argv, **options)


@pytest.mark.parametrize(("drops", "finished"), [(1, 2), (2, 0)])
def test_a_connection_is_restored_once_not_for_ever(
    tmp_path: Path, onnx_file: Path, inputs: Array, drops: int, finished: int
) -> None:
    device = Flaky(tmp_path / "wd")
    device.drops = drops
    run = measure(device, launcher(), jobs(onnx_file, tmp_path, inputs)[1:], pause=0)
    assert len(run.answers) == finished
    assert (run.error is None) == (finished == 2)
    if run.error is not None:
        assert run.error.exit_code == 4


@pytest.mark.slow
def test_a_recorded_run_is_replayed_byte_for_byte(
    tmp_path: Path, onnx_file: Path, inputs: Array
) -> None:
    work = jobs(onnx_file, tmp_path, inputs)
    with Recorder(LocalTransport(tmp_path / "wd"), tmp_path / "r", {"id": "rpi4"}) as device:
        first = measure(device, launcher(), work)
    logits = (tmp_path / "logits.npy").read_bytes()
    (tmp_path / "logits.npy").unlink()
    shutil.rmtree(tmp_path / "wd")
    elsewhere = tmp_path / "elsewhere.onnx"  # the file may have moved since
    shutil.copy(onnx_file, elsewhere)
    with Replay(tmp_path / "r") as device:
        second = measure(device, launcher(), work)
    with Replay(tmp_path / "r") as device:
        moved = measure(device, launcher(), jobs(elsewhere, tmp_path, inputs))
    assert second == first
    assert (tmp_path / "logits.npy").read_bytes() == logits
    assert moved.answers["memory"] == first.answers["memory"]


@pytest.mark.slow
def test_adb_end_to_end(
    adb_world: AdbWorld, tmp_path: Path, onnx_file: Path, weight: Array, inputs: Array
) -> None:
    device = AdbTransport("localhost:6001", workdir="/mnt/phone/bench", adb=adb_world.adb)
    run = measure(device, launcher(), jobs(onnx_file, tmp_path, inputs))
    assert run.error is None
    assert run.kind is Kind.MEASURED
    assert run.device()["board"] == "Google Pixel 6"
    np.testing.assert_allclose(np.load(tmp_path / "logits.npy")[0], inputs @ weight, rtol=1e-5)
    assert run.answers["latency"].times.models[0].samples_ms


def test_an_android_emulator_is_labelled(adb_world: AdbWorld, onnx_file: Path) -> None:
    device = AdbTransport("emulator-5554", workdir="/mnt/emulator/bench", adb=adb_world.adb)
    run = measure(device, launcher(), [("latency", latency_job(onnx_file))])
    assert run.kind is Kind.MEASURED_EMULATOR
    assert "an Android emulator: the host's processor, not a phone's" in run.notes


class Hot(LocalTransport):
    """Says what a warm Raspberry Pi says."""

    after = "throttled throttled=0x50005"
    asked = 0

    def run(self, argv: Sequence[str], **options: Any) -> Completed:
        done = super().run(argv, **options)
        if "vcgencmd" not in argv[-1]:
            return done
        self.asked += 1
        extra = "throttled throttled=0x0" if self.asked == 1 else self.after
        return Completed(done.rc, done.stdout + extra.encode() + b"\n")


def test_a_throttled_run_is_void_and_kept(tmp_path: Path, onnx_file: Path) -> None:
    work = [("latency", latency_job(onnx_file))]
    run = measure(Hot(tmp_path / "wd"), launcher(), work)
    assert isinstance(run.error, Unstable)
    assert run.error.exit_code == 5
    assert "under-voltage" in run.error.message
    assert run.answers["latency"].times
    assert measure(Hot(tmp_path / "wd"), launcher(), work, steady=False).error is None


def test_the_wrong_machine_is_refused_before_anything_is_sent(
    tmp_path: Path, onnx_file: Path
) -> None:
    device = LocalTransport(tmp_path / "wd")
    foreign = replace(profile("rpi4"), abi="riscv64")
    with pytest.raises(BadInput, match="the profile rpi4 says"):
        measure(device, launcher(), [("latency", latency_job(onnx_file))], profile=foreign)
    assert not list((tmp_path / "wd").iterdir())


def test_a_time_limit_ends_the_job(tmp_path: Path, onnx_file: Path) -> None:
    job = latency_job(onnx_file, min_seconds=60)
    with pytest.raises(BadInput, match="did not finish within 1 s"):
        DeviceRunner(LocalTransport(tmp_path / "wd"), launcher()).run_job(job, timeout=1)
