"""``bench --device``: over a real ssh daemon, on an emulated core, and played back."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

PROFILE = """
schema = 1
id = "box"
name = "this machine, reached like a device"
os = "linux"
abi = "any"
[transport]
kind = "{kind}"
python = "{python}"
ssh_config = "{config}"
workdir = "{workdir}"
"""


@pytest.fixture(autouse=True)
def own_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "settings"))


def profile(folder: Path, kind: str, config: Path | str = "", python: str = sys.executable) -> Path:
    """Write a profile into the user's own folder, the only one that may choose programs."""
    path = folder / "settings/sepdeploy/devices/box.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        PROFILE.format(kind=kind, python=python, config=config, workdir=folder / "there")
    )
    return path


def numbers(report: Path, kind: str) -> dict[str, Any]:
    (result,) = json.loads(report.read_text())["results"]
    return {m["metric"]: m for m in result["measurements"] if m["kind"] == kind}


@pytest.mark.slow
def test_measured_over_ssh_then_played_back_byte_for_byte(
    copy: Path, tmp_path: Path, call, sshd
) -> None:
    device = profile(tmp_path, "ssh", sshd.config())
    out, again, tape = tmp_path / "a.json", tmp_path / "b.json", tmp_path / "tape"
    common = ("bench", copy / "tiny.onnx", "--attack", "pgd-3", "--samples", "40")
    got = call(*common, "--device", device, "--host", "pi", "--json", out, "--record", tape)
    assert got.code == 0, got.err
    measured = numbers(out, "MEASURED")
    assert {"latency_ms", "latency_vs_dense", "peak_rss_bytes", "clean_accuracy",
            "adversarial_accuracy"} <= set(measured)  # fmt: skip
    here = numbers(out, "HOST")
    for metric in ("clean_accuracy", "adversarial_accuracy"):
        assert measured[metric]["samples"] == here[metric]["samples"]
    played = call(*common, "--device", f"replay:{tape}", "--json", again)
    assert played.code == 0, played.err
    assert again.read_bytes() == out.read_bytes()
    assert played.out == got.out


@pytest.mark.slow
def test_emulated_numbers_agree_with_the_host_and_carry_no_milliseconds(
    copy: Path, tmp_path: Path, call
) -> None:
    out = tmp_path / "a.json"
    common = ("bench", copy / "tiny.onnx", "--attack", "pgd-3", "--samples", "40")
    got = call(*common, "--device", "rpi4", "--require", "emulated", "--json", out)
    if got.code == 4:
        pytest.skip(f"no emulation: {got.err.strip()}")
    assert got.code == 0, got.err
    emulated, here = numbers(out, "EMULATED"), numbers(out, "HOST")
    assert emulated["instructions"]["value"] > 0
    assert emulated["parity_max_rel"]["value"] <= 1e-6
    assert emulated["adversarial_accuracy"]["samples"] == here["adversarial_accuracy"]["samples"]
    assert not any(m["unit"] == "ms" for m in emulated.values())
    estimated = numbers(out, "ESTIMATED")["latency_ms"]
    assert estimated["low"] < estimated["value"] < estimated["high"]
    assert "EMULATED" in got.out
    assert "ESTIMATED" in got.out


@pytest.mark.parametrize(
    ("host", "code", "said"),
    [("nobody@127.0.0.1:1", 2, ""), ("nobody@127.0.0.1", 4, "127.0.0.1")],
)
def test_a_device_that_was_named_and_does_not_answer_is_an_error(
    exported: Path, tmp_path: Path, call, host: str, code: int, said: str
) -> None:
    config = tmp_path / "config"
    config.write_text("Host *\n Port 1\n")
    device = profile(tmp_path, "ssh", config)
    got = call("bench", exported / "tiny.onnx", "--attack", "pgd-3", "--samples", "40",
               "--device", device, "--host", host)  # fmt: skip
    assert got.code in (code, 4)
    assert said in got.line
    assert "next: " in got.err


@pytest.mark.slow
def test_what_a_device_gave_before_it_failed_is_kept(exported: Path, tmp_path: Path, call) -> None:
    device = profile(tmp_path, "local", python="/bin/false")
    out = tmp_path / "a.json"
    got = call("bench", exported / "tiny.onnx", "--attack", "pgd-3", "--samples", "40",
               "--device", device, "--require", "measured", "--json", out)  # fmt: skip
    assert got.code == 4
    assert "next: " in got.err


def test_a_recording_of_something_else_is_refused(exported: Path, tmp_path: Path, call) -> None:
    tape = tmp_path / "tape"
    tape.write_text("nonsense")
    got = call("bench", exported / "tiny.onnx", "--device", f"replay:{tape}")
    assert got.code == 2
    assert str(tape) in got.line
    assert call("bench", exported / "tiny.onnx", "--device", "replay:/nowhere").code == 2


@pytest.mark.slow
def test_googles_program_gives_a_mean_and_no_more(exported: Path, tmp_path: Path, call) -> None:
    program = tmp_path / "benchmark_model"
    program.write_text(
        "#!/bin/sh\necho 'Inference timings in us: Init: 5000, First inference: 9, "
        "Warmup (avg): 8, Inference (avg): 250'\n"
    )
    device = profile(tmp_path, "local")
    out = tmp_path / "a.json"
    got = call("bench", exported / "tiny.tflite", "--runtime", "litert", "--attack", "pgd-3",
               "--samples", "40", "--device", device, "--runner", program,
               "--json", out)  # fmt: skip
    assert got.code == 0, got.err
    (result,) = json.loads(out.read_text())["results"]
    means = [m for m in result["measurements"] if m.get("statistic") == "mean"]
    assert [(m["value"], m["program"]) for m in means] == [(0.25, "benchmark_model")]


def test_there_is_nothing_to_set_up_for_an_unknown_machine(tmp_path: Path, call) -> None:
    got = call("devices", "setup", profile(tmp_path, "local"))
    assert got.code == 2
    assert "box" in got.line


@pytest.mark.slow
def test_a_named_python_is_used_or_refused_never_passed_over(
    exported: Path, tmp_path: Path, call
) -> None:
    venv = tmp_path / "venv"
    venv.write_text(f'#!/bin/sh\necho used >> {tmp_path}/log\nexec {sys.executable} "$@"\n')
    venv.chmod(0o755)
    device = profile(tmp_path, "local", python="python3")
    common = (
        "bench",
        exported / "tiny.onnx",
        "--attack",
        "pgd-1",
        "--samples",
        "20",
        "--device",
        device,
        "--python",
    )
    got = call(*common, venv)
    assert got.code == 0, got.err
    assert (tmp_path / "log").read_text()
    for python, said in [("/nowhere/python", "no /nowhere/python there"),
                         ("/bin/false", "/bin/false has no numpy")]:  # fmt: skip
        got = call(*common, python)
        assert (got.code, said in got.line) == (4, True), got.err
    assert "-m pip install" in got.err
