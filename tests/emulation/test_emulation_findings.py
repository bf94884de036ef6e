"""What goes wrong on the emulated device: findings about it, and errors about files."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from arm_logits import logits

from sepdeploy.devices.emulation import (
    Emulator,
    count_instructions,
    measurements,
    qemu_transport,
)
from sepdeploy.devices.transports import Recorder, Replay
from sepdeploy.devices.transports.qemu import QemuTransport
from sepdeploy.errors import BadInput, Missing


@pytest.fixture
def transport() -> Callable[[str], QemuTransport]:
    def make(core: str) -> QemuTransport:
        try:
            return qemu_transport(core)
        except Missing as error:
            pytest.skip(f"no emulation: {error.message}; {error.hint}")

    return make


def test_an_instruction_beyond_the_core_ends_the_program(
    dot_program: Path, transport: Callable[[str], QemuTransport]
) -> None:
    signals = {}
    for core in ("cortex-a72", "cortex-a76"):
        with transport(core) as device:
            device.push(dot_program, "dot", executable=True)
            signals[core] = device.run(["dot"]).signal
    assert signals == {"cortex-a72": 4, "cortex-a76": 0}


def test_an_illegal_instruction_is_a_finding_about_the_device(
    dot_program: Path,
    transport: Callable[[str], QemuTransport],
    samples: dict[str, Any],
    tmp_path: Path,
) -> None:
    """The runner's loader is replaced by a program built for a newer core."""
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "ld-linux-aarch64.so.1").symlink_to(dot_program)
    with transport("cortex-a72") as whole:
        machine = dataclasses.replace(whole.machine, bundle=tmp_path / "bundle")
    path = samples["mlp.onnx"].path
    with Emulator(QemuTransport(machine)) as emulator:
        outcome = count_instructions(emulator, path)
        assert outcome.value is None
        assert "cortex-a72" in outcome.finding
        assert "SIGILL" in outcome.finding
        found = measurements(emulator, path)
    assert [m.value for m in found] == [None, None]
    assert all("SIGILL" in m.details["reason"] for m in found)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("cut.onnx", b"\x08\x0a\x12\x03cut"),
        ("cut.tflite", b"\x1c\0\0\0TFL3" + b"\xff" * 40),
        ("text.tflite", b"not a model at all\n" * 10),
    ],
)
def test_a_damaged_model_is_named(
    name: str, content: bytes, emulator: Callable[[str], Emulator], tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BadInput, match=name) as caught:
        count_instructions(emulator("cortex-a72"), tmp_path / name)
    assert "\n" not in caught.value.message


def test_wrong_inputs_are_refused(
    emulator: Callable[[str], Emulator], samples: dict[str, Any]
) -> None:
    wrong = np.zeros((2, 7), np.float32)
    with pytest.raises(BadInput, match="inputs"):
        logits(emulator("cortex-a72"), samples["mlp.tflite"].path, wrong)


def test_absent_and_foreign_files_are_refused(
    emulator: Callable[[str], Emulator], tmp_path: Path
) -> None:
    with pytest.raises(BadInput, match=r"absent\.onnx"):
        count_instructions(emulator("cortex-a72"), tmp_path / "absent.onnx")
    with pytest.raises(BadInput, match=r"\.pt"):
        count_instructions(emulator("cortex-a72"), tmp_path / "model.pt")


def test_a_job_that_takes_too_long_is_ended(
    transport: Callable[[str], QemuTransport], samples: dict[str, Any]
) -> None:
    with (
        Emulator(transport("cortex-a72"), timeout=0.05) as emulator,
        pytest.raises(BadInput, match="did not finish"),
    ):
        count_instructions(emulator, samples["mlp.onnx"].path)


def test_an_emulator_without_plugins_still_gives_logits(
    transport: Callable[[str], QemuTransport], samples: dict[str, Any]
) -> None:
    with transport("cortex-a72") as whole:
        facts = {**whole.machine.facts, "plugin": ""}
        machine = dataclasses.replace(whole.machine, plugin=None, facts=facts)
    sample = samples["int8.tflite"]
    with Emulator(QemuTransport(machine)) as emulator:
        assert np.isfinite(logits(emulator, sample.path, sample.inputs)).all()
        found = {m.metric: m for m in measurements(emulator, sample.path)}
        with pytest.raises(Missing, match="cannot count"):
            emulator.transport.run(["count", "b/runner"])
    assert found["instructions"].value is None
    assert "cannot count" in found["instructions"].details["reason"]
    assert found["peak_rss_bytes"].value


def test_other_programs_do_not_exist_there(transport: Callable[[str], QemuTransport]) -> None:
    with transport("cortex-a72") as device:
        assert device.run(["sh", "-c", "true"]).rc == 127
        script = device.workdir / "script"
        script.write_text("#!/bin/sh\n")
        assert device.run(["script"]).rc == 126
        with pytest.raises(Missing, match="no file"):
            device.pull("absent", device.workdir / "copy")
        folder = device.workdir
    assert not folder.exists()


@pytest.mark.slow
def test_a_recording_gives_the_same_without_an_emulator(
    transport: Callable[[str], QemuTransport], samples: dict[str, Any], tmp_path: Path
) -> None:
    sample, file = samples["int8.tflite"], tmp_path / "run.jsonl"
    with Emulator(Recorder(transport("cortex-a76"), file, {"device": "rpi5"})) as emulator:
        first = (
            logits(emulator, sample.path, sample.inputs),
            count_instructions(emulator, sample.path),
            measurements(emulator, sample.path),
        )
    assert str(tmp_path.parent) not in file.read_text()
    with Emulator(Replay(file)) as emulator:
        again = (
            logits(emulator, sample.path, sample.inputs),
            count_instructions(emulator, sample.path),
            measurements(emulator, sample.path),
        )
    np.testing.assert_array_equal(first[0], again[0])
    assert first[1:] == again[1:]
