"""Programs of this machine: the clients transports start, and the remote line they carry."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from sepdeploy.devices.transports.base import Completed, command_line
from sepdeploy.errors import BadInput, Missing

COPY_TIMEOUT_S = 600.0
GRACE_S = 10.0  # a client may live this much longer than the program it started on the device
MARK = "sepdeploy-exit:"
_MARKED = re.compile(rb"\n?" + MARK.encode() + rb"(\d+)\s*\Z")


def execute(
    argv: Sequence[str],
    *,
    stdin: bytes | IO[bytes] = b"",
    stdout: IO[bytes] | None = None,
    timeout: float,
    env: Mapping[str, str] | None = None,
    folder: str | Path | None = None,
    subject: str,
) -> Completed:
    """Run a program of this machine to its end, in a process group of its own.

    Args:
        argv: The program and its arguments.
        stdin: What it reads: bytes, or an open file.
        stdout: Where its output goes instead of into the result.
        timeout: Seconds after which the whole group is killed.
        env: Variables added to this process's own.
        folder: Where it starts.
        subject: What the program does, for the message of a time-out.

    Returns:
        Its end; ``rc`` is negative when a signal ended it, 127 when there is no such program.

    Raises:
        BadInput: It did not end within ``timeout``.
    """
    data, source = (stdin, subprocess.PIPE) if isinstance(stdin, bytes) else (None, stdin)
    try:
        process = subprocess.Popen(
            list(argv),
            stdin=source,
            stdout=subprocess.PIPE if stdout is None else stdout,
            stderr=subprocess.PIPE,
            env={**os.environ, **env} if env else None,
            cwd=folder,
            start_new_session=True,
        )
    except FileNotFoundError as error:
        return Completed(127, b"", f"{argv[0]}: not found ({error.filename})".encode())
    except OSError as error:
        return Completed(126, b"", f"{argv[0]}: {error.strerror}".encode())
    out, err = b"", b""
    try:
        out, err = process.communicate(data, timeout=timeout)
    except subprocess.TimeoutExpired as error:
        raise timed_out(subject, timeout) from error
    finally:
        if process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    return Completed(process.returncode, out or b"", err or b"")


def timed_out(subject: str, timeout: float) -> BadInput:
    """Return the error for a program that did not end in time."""
    return BadInput(
        f"{subject}: did not finish within {timeout:.0f} s",
        hint="is the device busy? try again, or measure a smaller model or fewer samples",
    )


def remote_line(
    argv: Sequence[str],
    *,
    folder: str,
    timeout: float,
    env: Mapping[str, str] | None = None,
) -> str:
    """Return the one line of shell that a remote client hands to its device.

    It makes and enters ``folder``, ends the program itself after ``timeout`` seconds where the
    device has ``timeout`` (so that nothing keeps running there), and ends standard error with the
    program's exit status: a client's own status of 255 or 1 can otherwise mean two things.
    """
    program = command_line(argv, env)
    limit = f"timeout -k 5 {max(1, round(timeout + 0.5))}"
    script = (
        f"umask 077; mkdir -p {shlex.quote(folder)} && cd {shlex.quote(folder)} || exit 73; "
        f"if timeout -k 5 9 true 2>/dev/null; then {limit} {program}; else {program}; fi; "
        f"r=$?; printf '\\n{MARK}%d\\n' $r >&2; exit $r"
    )
    return shlex.join(["sh", "-c", script])


def unmark(found: Completed) -> Completed | None:
    """Return what a ``remote_line`` said, without its mark; None when the mark never came.

    Very old daemons mix standard error into standard output, so the mark may stand in either.
    """
    for stream in (found.stderr, found.stdout):
        match = _MARKED.search(stream)
        if match is None:
            continue
        rest = stream[: match.start()]
        code = int(match.group(1))
        if stream is found.stderr:
            return Completed(code, found.stdout, rest)
        return Completed(code, rest, found.stderr)
    return None


def no_room(where: str, remote: str, size: int, done: Completed) -> Missing:
    """Return the error for a file that could not be stored on a device."""
    text = done.stderr.decode(errors="replace") + "\n" + done.text  # adb uses either
    if "No space left" in text or "Disk quota" in text:
        return Missing(
            f"{where}: no room for {remote} ({size / 1e6:.1f} MB)",
            hint="free some space on the device, or set transport.workdir in its profile",
        )
    said = next((line for line in text.splitlines() if "error" in line), done.error_line)
    return Missing(
        f"{where}: cannot store {remote}: {said.strip() or f'exit code {done.rc}'}",
        hint="may this user write there? transport.workdir in the device profile names the folder",
    )
