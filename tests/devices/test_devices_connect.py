"""From a profile and the options of the command line to a device."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from device_daemons import AdbWorld, Sshd

from sepdeploy.devices import profile
from sepdeploy.devices.connect import connect, is_addressed
from sepdeploy.devices.profile import DeviceProfile, TransportSettings
from sepdeploy.errors import BadInput, Missing


def with_transport(device: str, **settings: object) -> DeviceProfile:
    found = profile(device)
    return replace(found, transport=replace(found.transport, **settings))  # type: ignore[arg-type]


def test_a_pi_is_reached_at_the_address_of_its_profile(sshd: Sshd, tmp_path: Path) -> None:
    board = with_transport(
        "rpi4", host="pi", ssh_config=str(sshd.config()), workdir=str(tmp_path / "wd")
    )
    assert is_addressed(board)
    with connect(board) as device:
        assert device.run(["pwd"]).text == str(tmp_path / "wd")


def test_the_address_of_the_command_line_wins(sshd: Sshd) -> None:
    board = with_transport("rpi4", host="nobody@nowhere", ssh_config=str(sshd.config()))
    with connect(board, host="pi") as device:
        assert device.address == "pi"


def test_a_pi_without_address() -> None:
    assert not is_addressed(profile("rpi4"))
    with pytest.raises(Missing, match="device rpi4: no address") as error:
        connect(profile("rpi4"))
    assert "--host" in error.value.hint


def test_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert is_addressed(profile("host"))
    with connect(profile("host")) as device:
        assert device.run(["pwd"]).text == str(tmp_path / "sepdeploy/device")


def test_a_phone_and_an_emulator_are_told_apart(adb_world: AdbWorld) -> None:
    serials = {}
    for name in ("pixel6", "android-emulator"):
        assert is_addressed(profile(name), adb=adb_world.adb)
        with connect(profile(name), adb=adb_world.adb) as device:
            serials[name] = device.address
    assert serials == {"pixel6": "localhost:6001", "android-emulator": "emulator-5554"}
    with connect(profile("pixel6"), serial="emulator-5554", adb=adb_world.adb) as device:
        assert device.address == "emulator-5554"


def test_a_phone_without_adb(tmp_path: Path) -> None:
    absent = str(tmp_path / "adb")
    assert not is_addressed(profile("pixel6"), adb=absent)
    assert is_addressed(profile("pixel6"), serial="X", adb=absent)
    with pytest.raises(Missing, match="adb is not installed"):
        connect(profile("pixel6"), adb=absent)


def test_a_nonsense_address_is_bad_input() -> None:
    with pytest.raises(BadInput, match="not an ssh address"):
        connect(profile("rpi4"), host="-oProxyCommand=x")


def test_settings_have_defaults() -> None:
    assert TransportSettings() == TransportSettings(kind="ssh", python="python3")
