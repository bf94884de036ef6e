"""``benchmark_model``: its output in two versions, and a stand-in program that prints it."""

from __future__ import annotations

from pathlib import Path

import pytest

from sepdeploy.devices.benchmark_model import parse_benchmark_model, run_benchmark_model
from sepdeploy.devices.transports import LocalTransport
from sepdeploy.errors import SepdeployError

OUTPUT = """INFO: Loaded model m.tflite
INFO: Running benchmark for at least 5 iterations
count=35 first=18535 curr=14421 min=14301 max=18535 avg=14462.3 std=700
INFO: Running benchmark for at least 50 iterations
count=69 first=14500 curr=14540 min=14200 max=15100 avg=14575.2 std=150
INFO: Inference timings in us: Init: 5685, First inference: 18535, Warmup (avg): 14462.3, \
Inference (avg): 14575.2
INFO: Memory footprint delta from the start of the tool (MB): init=3.1 overall=12.5
"""


def test_the_last_lines_count() -> None:
    times = parse_benchmark_model(OUTPUT)
    assert times is not None
    assert times.mean_ms == pytest.approx(14.5752)
    assert times.first_ms == pytest.approx(18.535)
    assert times.init_ms == pytest.approx(5.685)
    assert times.runs == 69


def test_a_version_that_prints_the_summary_only() -> None:
    line = next(line for line in OUTPUT.splitlines() if "timings" in line)
    times = parse_benchmark_model(line)
    assert times is not None
    assert times.runs == 0
    assert parse_benchmark_model("ERROR: nothing") is None


def program(folder: Path, script: str) -> Path:
    path = folder / "benchmark_model"
    path.write_text(f"#!/bin/sh\n{script}\n")
    return path


def test_it_gets_the_model_and_its_options(tmp_path: Path) -> None:
    model = tmp_path / "m.tflite"
    model.write_bytes(b"TFL3")
    (tmp_path / "out").write_text(OUTPUT)
    script = f'echo "$@" > seen; cat "${{1#--graph=}}" > model; cat {tmp_path}/out >&2'
    device = LocalTransport(tmp_path / "wd")
    times = run_benchmark_model(device, program(tmp_path, script), model, threads=2, runs=70)
    assert times.runs == 69
    assert (tmp_path / "wd/model").read_bytes() == b"TFL3"
    assert "--num_threads=2 --warmup_runs=5 --num_runs=70" in (tmp_path / "wd/seen").read_text()


@pytest.mark.parametrize(
    ("script", "code", "words"),
    [
        ("echo 'ERROR: Failed to load model' >&2; exit 1", 2, "Failed to load model"),
        ("exit 3", 2, "code 3"),
        ("kill -4 $$", 4, "cannot run there"),
        ("exit 127", 4, "cannot run there"),
    ],
)
def test_how_it_fails(tmp_path: Path, script: str, code: int, words: str) -> None:
    model = tmp_path / "m.tflite"
    model.write_bytes(b"TFL3")
    with pytest.raises(SepdeployError, match=words) as error:
        run_benchmark_model(LocalTransport(tmp_path / "wd"), program(tmp_path, script), model)
    assert error.value.exit_code == code
