"""Google's ``benchmark_model`` on a device: for phones where nothing else may run.

It times one TFLite file and prints averages only: no samples, no accuracy.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sepdeploy.devices.measured import DeviceRunner, program_launcher
from sepdeploy.devices.transports.base import Completed, Transport
from sepdeploy.errors import BadInput, Missing
from sepdeploy.files import sha256_file

TIMEOUT_S = 300.0


@dataclass(frozen=True)
class BenchmarkModelTimes:
    """What ``benchmark_model`` printed, in milliseconds.

    ``mean_ms`` is the average of ``runs`` inferences, 0 where the version does not count them.
    """

    mean_ms: float
    first_ms: float
    init_ms: float
    runs: int


def parse_benchmark_model(text: str) -> BenchmarkModelTimes | None:
    """Return the times in the output of ``benchmark_model``, None when it has none."""
    number = r"([0-9.eE+]+)"
    summary = re.search(
        rf"Inference timings in us: Init: {number}, First inference: {number}, "
        rf"Warmup \(avg\): {number}, Inference \(avg\): {number}",
        text,
    )
    if summary is None:
        return None
    init, first, _, mean = (float(value) / 1000 for value in summary.groups())
    counts = re.findall(r"\bcount=(\d+)\b", text)  # warm-up first, the measurement last
    return BenchmarkModelTimes(mean, first, init, int(counts[-1]) if counts else 0)


def run_benchmark_model(
    transport: Transport,
    program: Path,
    model: Path,
    *,
    threads: int = 1,
    runs: int = 50,
    cores: Sequence[int] = (),
) -> BenchmarkModelTimes:
    """Time a TFLite file with a user's ``benchmark_model``.

    Args:
        transport: The way to the device.
        program: The executable, built for the device.
        model: The ``.tflite`` file.
        threads: Threads of the interpreter.
        runs: Least number of timed inferences.
        cores: Cores to bind to; see ``judgement.big_cores``.

    Raises:
        BadInput: It fails on the file.
        Missing: The program cannot run there.
    """
    launcher = program_launcher(program)
    runner = DeviceRunner(transport, launcher)
    graph = f"files/{sha256_file(model)}{model.suffix}"
    runner.provide(launcher.files, launcher.runnable)
    runner.provide({graph: model})
    mask = f"{sum(1 << core for core in cores):x}"
    done = transport.run(
        [
            *(["taskset", mask] if cores else []),
            *launcher.argv,
            f"--graph={graph}",
            f"--num_threads={threads}",
            "--warmup_runs=5",
            f"--num_runs={runs}",
        ],
        timeout=TIMEOUT_S,
    )
    text = done.stdout.decode(errors="replace") + "\n" + done.stderr.decode(errors="replace")
    times = parse_benchmark_model(text)
    if times is None or done.rc != 0:
        raise _failed(transport.where, program, model, done, text)
    return times


def _failed(
    where: str, program: Path, model: Path, done: Completed, text: str
) -> BadInput | Missing:
    if done.rc in (126, 127) or "xec format error" in text or done.signal == 4:
        return Missing(
            f"{where}: {program.name} cannot run there: {done.error_line or f'code {done.rc}'}",
            hint="use a build for the device's architecture (android_arm64 on phones)",
        )
    lines = [line for line in text.splitlines() if "ERROR" in line or "error" in line.lower()]
    said = " ".join((lines or [done.error_line])[0].split())[:200]
    return BadInput(
        f"{where}: {program.name} gives no times for {model.name}: {said or f'code {done.rc}'}",
        hint="does the file load on this machine? try: sepdeploy verify",
    )
