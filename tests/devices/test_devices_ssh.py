"""The ssh transport against a real daemon."""

from __future__ import annotations

import hashlib
import shutil
import socket
import subprocess
import threading
import time
from pathlib import Path

import pytest
from device_daemons import Sshd, free_port

from sepdeploy.devices.transports import Disconnected, SshTransport
from sepdeploy.errors import BadInput, Missing


@pytest.mark.slow
def test_programs_get_their_arguments_input_and_environment_unchanged(
    sshd: Sshd, tmp_path: Path
) -> None:
    nasty = ["a b", "it's", '"$HOME"', "*", "-n", "x;y", "ä", "", "a\\nb"]
    with sshd.transport(tmp_path / "wd") as device:
        done = device.run(["printf", "[%s]", *nasty])
        assert done.text == "".join(f"[{word}]" for word in nasty)
        data = bytes(range(256)) * 300
        assert device.run(["cat"], stdin=data).stdout == data
        assert device.run(["printenv", "TWO WORDS"], env={"TWO WORDS": "x y'z"}).text == "x y'z"
        assert device.run(["pwd"]).text == str(tmp_path / "wd")


@pytest.mark.slow
def test_every_exit_code_comes_back_and_streams_stay_apart(sshd: Sshd, tmp_path: Path) -> None:
    with sshd.transport(tmp_path) as device:
        for code in (0, 1, 7, 73, 126, 255):
            done = device.shell(f"echo out; echo err >&2; exit {code}")
            assert (done.rc, done.stdout, done.stderr) == (code, b"out\n", b"err\n")


def test_a_missing_program_is_127_and_a_signal_is_told(sshd: Sshd, tmp_path: Path) -> None:
    with sshd.transport(tmp_path) as device:
        assert device.run(["nosuchprogram"]).rc == 127
        assert device.shell("kill -4 $$").signal == 4


@pytest.mark.slow
def test_files_travel_both_ways_byte_for_byte(sshd: Sshd, tmp_path: Path) -> None:
    source = tmp_path / "a b'c.bin"
    source.write_bytes(hashlib.shake_256(b"x").digest(3_000_000))
    with sshd.transport(tmp_path / "wd") as device:
        device.push(source, "deep/er/na me.bin", executable=True)
        device.pull("deep/er/na me.bin", tmp_path / "back")
        assert device.run(["test", "-x", "deep/er/na me.bin"]).rc == 0
        assert (tmp_path / "back").read_bytes() == source.read_bytes()
        assert not list((tmp_path / "wd/deep/er").glob("*.part"))
        with pytest.raises(Missing, match="cannot read nothing"):
            device.pull("nothing", tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_one_connection_serves_all_calls(sshd: Sshd, tmp_path: Path) -> None:
    with sshd.transport(tmp_path) as device:
        ports = {device.shell("echo $SSH_CONNECTION").text for _ in range(3)}
        facts = device.facts()
    assert len(ports) == 1
    assert facts["transport"] == "ssh"
    assert facts["port"] == str(sshd.port)
    assert facts["client"].startswith("OpenSSH")


def test_a_full_disk_is_told_and_leaves_no_part(sshd: Sshd, tmp_path: Path) -> None:
    if sshd.small is None:
        pytest.skip("mounting a small file system needs root")
    big = tmp_path / "big"
    big.write_bytes(bytes(5_000_000))
    with sshd.transport(sshd.small) as device:
        with pytest.raises(Missing, match=r"no room for model \(5.0 MB\)") as error:
            device.push(big, "model")
        assert device.run(["ls"]).text == ""
    assert "workdir" in error.value.hint


def test_a_folder_without_permission_is_told(sshd: Sshd) -> None:
    with (
        sshd.transport(Path("/proc/nowhere")) as device,
        pytest.raises(Missing, match="cannot make the folder"),
    ):
        device.run(["true"])


def refused(device: SshTransport) -> Missing:
    with device, pytest.raises(Missing) as error:
        device.run(["true"])
    assert type(error.value) is Missing
    assert error.value.exit_code == 4
    return error.value


def test_nobody_listens(sshd: Sshd, tmp_path: Path) -> None:
    config = sshd.config("refused", Port=str(free_port()))
    error = refused(sshd.transport(tmp_path, config))
    assert "nothing answers there" in error.message
    assert "Connection refused" in error.message


def test_a_key_that_is_not_welcome(sshd: Sshd, tmp_path: Path) -> None:
    config = sshd.config("badkey", IdentityFile=str(sshd.folder / "stranger"))
    error = refused(sshd.transport(tmp_path, config))
    assert "does not accept our key" in error.message
    assert error.hint == "copy your key there: ssh-copy-id pi"


def test_a_changed_host_key_is_refused(sshd: Sshd, tmp_path: Path) -> None:
    known = sshd.folder / "known-wrong"
    key = (sshd.folder / "stranger.pub").read_text()
    known.write_text(f"[127.0.0.1]:{sshd.port} {key}")
    config = sshd.config("changed", UserKnownHostsFile=str(known))
    error = refused(sshd.transport(tmp_path, config))
    assert "host key is not the one known" in error.message
    assert "ssh-keygen -R" in error.hint
    assert known.read_text() == f"[127.0.0.1]:{sshd.port} {key}"


def test_a_user_who_wants_strict_host_keys_keeps_them(sshd: Sshd, tmp_path: Path) -> None:
    empty = sshd.folder / "known-none"
    config = sshd.config("strict", UserKnownHostsFile=str(empty), StrictHostKeyChecking="yes")
    error = refused(sshd.transport(tmp_path, config))
    assert "host key" in error.message
    assert not empty.exists()


def test_a_host_without_address(sshd: Sshd, tmp_path: Path) -> None:
    config = sshd.config("noname", HostName="no-such-host.invalid")
    assert "no such host" in refused(sshd.transport(tmp_path, config)).message


@pytest.mark.parametrize("address", ["-oProxyCommand=touch x", "a b", "x;y", "", "a@b@c", "$(id)"])
def test_what_is_not_an_address_never_reaches_ssh(address: str) -> None:
    with pytest.raises(BadInput, match="not an ssh address"):
        SshTransport(address)


def test_a_broken_configuration_is_bad_input(tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.write_text("Host pi\n NoSuchOption yes\n")
    with pytest.raises(BadInput, match="refuses its configuration"):
        SshTransport("pi", config=config)


def test_no_ssh_here(tmp_path: Path) -> None:
    with pytest.raises(Missing, match="is not installed"):
        SshTransport("pi", ssh=str(tmp_path / "ssh"))


@pytest.mark.slow
def test_a_program_that_never_ends_is_ended_on_the_device(sshd: Sshd, tmp_path: Path) -> None:
    with sshd.transport(tmp_path) as device:
        with pytest.raises(BadInput, match="did not finish within 1 s"):
            device.run(["sh", "-c", "echo $$ > pid; exec sleep 60"], timeout=0.6)
        pid = (tmp_path / "pid").read_text().strip()
        assert device.run(["kill", "-0", pid]).rc != 0


@pytest.mark.slow
def test_a_lost_connection_is_told_and_the_next_call_connects_again(
    sshd: Sshd, tmp_path: Path
) -> None:
    with sshd.transport(tmp_path) as device:
        device.run(["true"])
        breaker = threading.Timer(0.5, sshd.drop)
        breaker.start()
        with pytest.raises(Disconnected, match="the connection was lost"):
            device.run(["sleep", "20"])
        breaker.join()
        assert device.run(["echo", "back"]).text == "back"


def test_closing_leaves_no_client_behind(sshd: Sshd, tmp_path: Path) -> None:
    device = sshd.transport(tmp_path)
    device.run(["true"])
    folder = str(device._folder)
    device.close()
    device.close()
    time.sleep(0.1)
    listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True)
    assert folder not in listed.stdout
    assert not Path(folder).exists()


def test_an_unknown_name_is_refused_soon(
    sshd: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = sshd.config("unknown", HostName="nosuch.invalid")
    assert "no such host" in refused(sshd.transport(tmp_path, config)).message
    asked = threading.Event()

    def silent(*_: object) -> None:
        asked.wait(20)
        raise OSError

    monkeypatch.setattr(socket, "getaddrinfo", silent)
    monkeypatch.setattr("sepdeploy.devices.transports.ssh.NAME_TIMEOUT_S", 0.1)
    error = refused(sshd.transport(tmp_path, sshd.config()))
    asked.set()
    assert "no answer" in error.message


def test_a_name_that_a_jump_host_looks_up_is_left_to_it(sshd: Sshd, tmp_path: Path) -> None:
    proxy = f"nc 127.0.0.1 {sshd.port}"
    if shutil.which("nc") is None:
        proxy = f"socat - TCP:127.0.0.1:{sshd.port}"
        if shutil.which("socat") is None:
            pytest.skip("no nc and no socat here")
    config = sshd.config("proxied", HostName="nosuch.invalid", ProxyCommand=proxy)
    with sshd.transport(tmp_path / "wd", config) as device:
        assert device.run(["echo", "there"]).text == "there"
