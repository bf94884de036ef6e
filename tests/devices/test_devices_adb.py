"""The adb transport against real daemons, each in a network of its own."""

from __future__ import annotations

import hashlib
import threading
from pathlib import Path

import pytest
from device_daemons import AdbWorld, wait_for

from sepdeploy.devices.facts import read_facts
from sepdeploy.devices.measured import kind_of
from sepdeploy.devices.transports import AdbTransport, Disconnected
from sepdeploy.devices.transports.adb import attached, choose
from sepdeploy.errors import BadInput, Missing, SepdeployError
from sepdeploy.records import Kind

PHONE, EMULATOR = "localhost:6001", "emulator-5554"


def phone(world: AdbWorld, folder: str = "/mnt/phone/sepdeploy") -> AdbTransport:
    return AdbTransport(PHONE, workdir=folder, adb=world.adb)


@pytest.mark.parametrize("code", [0, 1, 7, 73, 255])
def test_every_exit_code_comes_back_and_streams_stay_apart(adb_world: AdbWorld, code: int) -> None:
    done = phone(adb_world).shell(f"echo out; echo err >&2; exit {code}")
    assert (done.rc, done.stdout, done.stderr) == (code, b"out\n", b"err\n")


def test_programs_get_their_arguments_and_input_unchanged(adb_world: AdbWorld) -> None:
    nasty = ["a b", "it's", '"$HOME"', "*", "-n", "x;y", "ä", "", "a\\nb"]
    device = phone(adb_world)
    assert device.run(["printf", "[%s]", *nasty]).text == "".join(f"[{w}]" for w in nasty)
    data = bytes(range(256)) * 300
    assert device.run(["cat"], stdin=data).stdout == data
    assert device.run(["printenv", "A"], env={"A": "x y'z"}).text == "x y'z"
    assert device.run(["nosuchprogram"]).rc == 127


def test_files_travel_both_ways_byte_for_byte(adb_world: AdbWorld, tmp_path: Path) -> None:
    source = tmp_path / "model.bin"
    source.write_bytes(hashlib.shake_256(b"x").digest(3_000_000))
    device = phone(adb_world)
    device.push(source, "deep/model.bin", executable=True)
    device.pull("deep/model.bin", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == source.read_bytes()
    assert device.run(["test", "-x", "deep/model.bin"]).rc == 0
    assert device.shell("ls deep").text == "model.bin"
    with pytest.raises(Missing, match="cannot read nothing"):
        device.pull("nothing", tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_a_full_phone_is_told(adb_world: AdbWorld, tmp_path: Path) -> None:
    big = tmp_path / "big"
    big.write_bytes(bytes(5_000_000))
    device = phone(adb_world, "/mnt/small/sepdeploy")
    with pytest.raises(Missing, match=r"no room for model \(5.0 MB\)"):
        device.push(big, "model")
    assert device.run(["ls"]).text == ""


def test_an_emulator_that_is_listed_twice_counts_once(adb_world: AdbWorld) -> None:
    assert "connected to localhost:5555" in adb_world.connect(5555)
    assert "localhost:5555" in adb_world.call("devices")
    try:
        serials = [d.serial for d in attached(adb_world.adb)]
        again = choose("localhost:5555", adb=adb_world.adb)
    finally:
        adb_world.call("disconnect", "localhost:5555")
    assert serials == [EMULATOR, PHONE]
    assert again.serial == EMULATOR


def test_two_devices_are_a_question_not_a_guess(adb_world: AdbWorld) -> None:
    with pytest.raises(BadInput, match="2 devices are attached: emulator-5554") as error:
        choose(adb=adb_world.adb)
    assert error.value.hint == "choose one: --serial emulator-5554"
    assert choose(PHONE, adb=adb_world.adb).serial == PHONE
    assert choose(emulator=True, adb=adb_world.adb).serial == EMULATOR
    assert choose(emulator=False, adb=adb_world.adb).serial == PHONE


def test_a_serial_that_is_not_there_lists_those_that_are(adb_world: AdbWorld) -> None:
    with pytest.raises(Missing, match=r"no device 'nosuch' attached; attached: emulator-5554"):
        choose("nosuch", adb=adb_world.adb)


def test_no_adb_here(tmp_path: Path) -> None:
    absent = str(tmp_path / "adb")
    for call in (lambda: attached(absent), lambda: AdbTransport("x", adb=absent)):
        with pytest.raises(Missing, match="adb is not installed"):
            call()


def test_an_emulator_is_not_a_phone(adb_world: AdbWorld) -> None:
    kinds = {}
    for serial in (PHONE, EMULATOR):
        device = AdbTransport(serial, workdir="/mnt/emulator/wd", adb=adb_world.adb)
        facts = read_facts(device)
        assert (facts.board, facts.android) == ("Google Pixel 6", "14")
        kinds[serial] = kind_of(device, facts)
    assert kinds == {PHONE: Kind.MEASURED, EMULATOR: Kind.MEASURED_EMULATOR}


def test_a_daemon_that_dies_during_a_run(adb_world: AdbWorld) -> None:
    daemon = adb_world.daemon(6003)
    device = AdbTransport("localhost:6003", workdir="/mnt/phone/dying", adb=adb_world.adb)
    assert device.run(["echo", "alive"]).text == "alive"
    killer = threading.Timer(0.5, daemon.kill)
    killer.start()
    with pytest.raises(Disconnected):
        device.run(["sleep", "20"])
    killer.join()
    daemon.wait()
    with pytest.raises(Disconnected, match="the device is gone"):
        device.run(["true"])
    adb_world.call("disconnect", "localhost:6003")
    wait_for(lambda: "6003" not in adb_world.call("devices"))


def test_nothing_can_be_pushed_to_a_device_that_is_gone(
    adb_world: AdbWorld, tmp_path: Path
) -> None:
    (tmp_path / "x").write_bytes(b"x")
    device = AdbTransport("localhost:6999", workdir="/mnt/phone", adb=adb_world.adb)
    for call in (
        lambda: device.push(tmp_path / "x", "x"),
        lambda: device.pull("x", tmp_path / "y"),
        lambda: device.run(["true"]),
    ):
        with pytest.raises(Missing) as error:
            call()
        assert error.value.exit_code == 4
    assert not (tmp_path / "y").exists()


FAKE = """#!/bin/sh
case $1 in
  devices) cat "$(dirname "$0")/devices" ;;
esac
"""


@pytest.mark.parametrize(
    ("listing", "error", "words"),
    [
        ("", Missing, "no device attached to adb; attached: none"),
        ("ABC unauthorized usb:1-1", Missing, "the device is unauthorized"),
        ("ABC offline", Missing, "the device is offline"),
        ("ABC no permissions (user in plugdev group); see [x]", Missing, "no permissions"),
        ("ABC device model:Pixel_6\nDEF device model:Pixel_7", BadInput, "Pixel_6.*Pixel_7"),
    ],
)
def test_what_only_a_phone_says(
    tmp_path: Path, listing: str, error: type[SepdeployError], words: str
) -> None:
    (tmp_path / "adb").write_text(FAKE)
    (tmp_path / "adb").chmod(0o755)
    (tmp_path / "devices").write_text(f"List of devices attached\n{listing}\n\n")
    with pytest.raises(error, match=words):
        choose(adb=str(tmp_path / "adb"))
