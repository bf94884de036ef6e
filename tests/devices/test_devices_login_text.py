"""What a login shell says by itself must not end up in results and files."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest
from device_daemons import Sshd

from sepdeploy.devices.facts import read_facts
from sepdeploy.devices.transports import Disconnected
from sepdeploy.errors import BadInput, Missing

RUN = 'bash -c "$SSH_ORIGINAL_COMMAND"'
TALKING = {
    "before": f'echo "Welcome, 23 updates"; exec {RUN}',
    "before, no line end": f"printf 'loading'; exec {RUN}",
    "before, both streams": f"echo hello; echo 'no such locale' >&2; exec {RUN}",
    "before, much": f"seq 1 60000; exec {RUN}",
    "before, not text": rf"printf '\0\377<>'; exec {RUN}",
    "after": f"{RUN}; r=$?; echo bye; echo bye >&2; exit $r",
    "after, another code": f"{RUN}; clear_console; echo logout; exit 3",
    "repeats the line": f'printf "%s\\n" "$SSH_ORIGINAL_COMMAND"; {RUN}',
    "traces": 'bash -xvc "$SSH_ORIGINAL_COMMAND"',
    "one stream": f"exec 2>&1; echo hello; exec {RUN}",
    "no second stream": f"exec 2>/dev/null; exec {RUN}",
    "tcsh": 'exec tcsh -c "$SSH_ORIGINAL_COMMAND"',
    "csh": 'exec csh -c "$SSH_ORIGINAL_COMMAND"',
    "fish": 'exec fish -c "$SSH_ORIGINAL_COMMAND"',
}


QUICK = ("before, both streams", "after", "tcsh")


@pytest.mark.slow
@pytest.mark.parametrize(
    "shell",
    [
        pytest.param(shell, id=name, marks=() if name in QUICK else pytest.mark.slow)
        for name, shell in TALKING.items()
    ],
)
def test_a_program_and_files_come_through_whatever_the_shell_says(
    sshd: Sshd, tmp_path: Path, shell: str
) -> None:
    program = shell.removeprefix("exec ").split()[0]
    if program in ("tcsh", "csh", "fish") and shutil.which(program) is None:
        pytest.skip(f"no {program} here")
    blob = hashlib.shake_256(b"x").digest(200_001)
    (tmp_path / "blob").write_bytes(blob)
    nasty = ["a b", "it's", '"$HOME"', "!x", "x;y", "ä", "a\\nb", "two\nlines", "`date`", "%s"]
    with sshd.behind(shell, tmp_path / "w d") as device:
        assert device.run(["printf", "[%s]", *nasty]).stdout.decode() == "".join(
            f"[{word}]" for word in nasty
        )
        ended = device.shell("echo exact; echo wrong >&2; exit 7")
        assert (ended.rc, ended.stdout) in [(7, b"exact\n"), (7, b"exact\nwrong\n")]
        assert device.run(["cat"], stdin=blob).stdout == blob
        device.push(tmp_path / "blob", "deep/b")
        device.pull("deep/b", tmp_path / "back")
        with pytest.raises(Missing, match="cannot read nothing"):
            device.pull("nothing", tmp_path / "none")
        assert read_facts(device).memory_kib > 0
    assert (tmp_path / "w d/deep/b").read_bytes() == blob
    assert (tmp_path / "back").read_bytes() == blob
    assert not (tmp_path / "none").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shell", "words"),
    [
        ("echo 'This account is currently not available.'; exit 1", "not available"),
        ("echo 'use the web page' >&2; exit 0", "use the web page"),
        ("exit 1", "does not run commands"),
    ],
)
def test_an_account_without_a_shell_is_told(
    sshd: Sshd, tmp_path: Path, shell: str, words: str
) -> None:
    (tmp_path / "x").write_bytes(b"x")
    for call in (
        lambda device: device.run(["true"]),
        lambda device: device.push(tmp_path / "x", "x"),
        lambda device: device.pull("x", tmp_path / "y"),
    ):
        with (
            sshd.behind(shell, tmp_path / "wd") as device,
            pytest.raises(
                Missing, match=f"login shell does not run commands.*{words}|{words}$"
            ) as error,
        ):
            call(device)
        assert not isinstance(error.value, Disconnected)
        assert "chsh" in error.value.hint
    assert not (tmp_path / "y").exists()


@pytest.mark.slow
def test_output_that_does_not_end_is_refused(sshd: Sshd, tmp_path: Path) -> None:
    with (
        sshd.transport(tmp_path) as device,
        pytest.raises(BadInput, match="says more than 64 MiB"),
    ):
        device.run(["cat", "/dev/zero"], timeout=120)


def test_a_file_that_changes_its_size_is_refused(sshd: Sshd, tmp_path: Path) -> None:
    (tmp_path / "wd").mkdir()
    (tmp_path / "wd/wc").write_text("#!/bin/sh\necho 5\n")
    (tmp_path / "wd/wc").chmod(0o755)
    (tmp_path / "wd/f").write_bytes(b"four")
    shell = f"export PATH={tmp_path}/wd:$PATH; exec {RUN}"
    with (
        sshd.behind(shell, tmp_path / "wd") as device,
        pytest.raises(Missing, match="f arrives damaged: 4 of 5 bytes"),
    ):
        device.pull("f", tmp_path / "back")
    assert not (tmp_path / "back").exists()
