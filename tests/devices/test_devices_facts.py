"""Reading a device's state: recorded output of real kinds of systems, and this machine."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sepdeploy.devices import profile
from sepdeploy.devices.facts import Clock, DeviceFacts, parse_facts, read_facts
from sepdeploy.devices.judgement import (
    big_cores,
    remarks,
    require_steady,
    require_target,
    summary,
    throttling,
)
from sepdeploy.devices.transports import LocalTransport
from sepdeploy.errors import BadInput, Missing, Unstable

PI = """machine aarch64
kernel Linux 6.6.31+rpt-rpi-v8
bits 64
board Raspberry Pi 4 Model B Rev 1.4
os Debian GNU/Linux 12 (bookworm)
part 0xd08*4
online 0-3
clock 0 ondemand 600000 1800000 1800000
clock 1 ondemand 600000 1800000 1800000
zone 48199 cpu-thermal
cooling 0 cpufreq-cpu0
throttled throttled=0x50000
MemTotal 3884364
MemAvailable 3300000
load 0.08 0.03 0.01 1/150 1234
disk 20000000
"""
PHONE = """machine aarch64
kernel Linux 5.10.157-android13
android 14
board Google Pixel 6
abi arm64-v8a
hardware oriole
part 0xd05*4
part 0xd0b*2
part 0xd44*2
clock 0 sched_pixel 300000 1803000 1803000
clock 4 sched_pixel 400000 2253000 2253000
clock 5 sched_pixel 400000 2253000 2253000
clock 6 sched_pixel 500000 2000000 2802000
clock 7 sched_pixel 500000 2000000 2802000
zone 41000 BIG
zone 25000 battery
zone -274000 usb
thermal 0
"""


def test_a_raspberry_pi() -> None:
    facts = parse_facts(PI)
    assert facts.board == "Raspberry Pi 4 Model B Rev 1.4"
    assert (facts.machine, facts.bits, facts.parts) == ("aarch64", 64, {"0xd08": 4})
    assert facts.clocks[1] == Clock(1, "ondemand", 600000, 1800000, 1800000)
    assert facts.temperature_c == pytest.approx(48.199)
    assert facts.throttled_bits == 0x50000
    assert facts.available_kib == 3300000
    assert facts.load == pytest.approx(0.08)
    assert throttling(facts, facts) == ()  # it happened before: a remark, not void
    said = remarks(facts)
    assert "cpu governor is ondemand, not performance" in said
    assert "since boot: under-voltage, throttled" in said
    assert big_cores(facts, 1) == ()


def test_a_phone() -> None:
    facts = parse_facts(PHONE)
    assert (facts.android, facts.emulator, facts.thermal_status) == ("14", False, 0)
    assert facts.parts == {"0xd05": 4, "0xd0b": 2, "0xd44": 2}
    assert facts.temperature_c == pytest.approx(41.0)
    assert big_cores(facts, 1) == (6, 7)
    assert big_cores(facts, 3) == (4, 5, 6, 7)
    assert big_cores(facts, 8) == ()
    assert any("clock of cpu 6, 7 limited to 2.00 of 2.80 GHz" in r for r in remarks(facts))


@pytest.mark.parametrize("line", ["emulator 1", "hardware ranchu", "hardware goldfish"])
def test_an_android_emulator(line: str) -> None:
    assert parse_facts(f"machine x86_64\nandroid 14\n{line}\n").emulator
    assert not parse_facts("machine x86_64\nandroid 14\nemulator 0\n").emulator


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ("", "throttled throttled=0x4", "throttled"),
        ("throttled throttled=0x1", "", "under-voltage"),
        ("throttled throttled=0x0", "throttled throttled=0x20000", "the clock is capped during"),
        ("", "throttled throttled=0x8", "soft temperature limit"),
        ("", "cooling 3 thermal-cpufreq-0", "cooling by thermal-cpufreq-0"),
        ("", "thermal 3", "thermal status 3"),
    ],
)
def test_a_slowed_run_is_void(before: str, after: str, words: str) -> None:
    start, end = (parse_facts(f"machine aarch64\n{line}\n") for line in (before, after))
    with pytest.raises(Unstable, match=words) as error:
        require_steady(start, end, "ssh pi")
    assert error.value.exit_code == 5


@pytest.mark.parametrize(
    "line", ["throttled throttled=0x0", "throttled VCHI error", "cooling 1 pwm-fan", "thermal 1"]
)
def test_what_does_not_slow_it(line: str) -> None:
    facts = parse_facts(f"machine aarch64\n{line}\n")
    require_steady(facts, facts, "ssh pi")


@pytest.mark.parametrize(
    ("text", "runtime", "device", "error", "words"),
    [
        ("machine armv7l\nbits 32", "onnxruntime", "rpi4", Missing, "32-bit"),
        ("machine aarch64\nbits 32", "litert", "rpi4", Missing, "32-bit"),
        ("machine x86_64\nbits 64", "onnxruntime", "rpi4", BadInput, "profile rpi4 says aarch64"),
        (PI, "onnxruntime", "rpi3b+", BadInput, r"part 0xd08, the profile rpi3b\+ says 0xd03"),
        (PI, "onnxruntime", "rpi4", None, ""),
        (PHONE, "litert", "pixel6", None, ""),
        ("machine aarch64\nbits 64", "onnxruntime", "rpi4", None, ""),
        ("machine x86_64\nbits 64", "litert", "android-emulator", None, ""),
        ("machine armv7l\nbits 32", "tflite-runtime", "rpi3b+", None, ""),
    ],
)
def test_which_target_is_refused(
    text: str, runtime: str, device: str, error: type[Exception] | None, words: str
) -> None:
    facts, board = parse_facts(text), profile(device)
    if error is None:
        require_target(facts, runtime=runtime, where="pi", profile=board)
        return
    with pytest.raises(error, match=words):
        require_target(facts, runtime=runtime, where="pi", profile=board)


def test_this_machine(tmp_path: Path) -> None:
    facts = read_facts(LocalTransport(tmp_path))
    assert facts.machine == os.uname().machine
    assert facts.bits == 64
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert facts.memory_kib * 1024 == pytest.approx(pages, rel=0.02)
    free = os.statvfs(tmp_path)
    assert facts.disk_kib * 1024 == pytest.approx(free.f_bavail * free.f_frsize, rel=0.05)
    assert facts.load is not None
    assert facts.load >= 0
    assert summary(facts, None)["load"] == [facts.load]


def test_a_device_that_says_nothing(tmp_path: Path) -> None:
    class Mute(LocalTransport):
        def shell(self, *args: object, **options: object) -> object:  # type: ignore[override]
            return self.run(["true"])

    with pytest.raises(Missing, match="says nothing about itself"):
        read_facts(Mute(tmp_path))


KEYS = ["clock", "zone", "cooling", "throttled", "thermal", "MemTotal", "load", "part", "machine"]


@given(st.lists(st.tuples(st.sampled_from(KEYS), st.text(max_size=20)), max_size=8))
def test_no_output_breaks_the_reading(lines: list[tuple[str, str]]) -> None:
    facts = parse_facts("\n".join(f"{key} {value}" for key, value in lines))
    assert isinstance(facts, DeviceFacts)
    throttling(facts, facts)
    remarks(facts)
    big_cores(facts, 1)
    summary(facts, facts)
