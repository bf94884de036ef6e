"""Programs of this machine: the clients that transports start, bounded in time and in words."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Protocol

from sepdeploy.devices.transports.base import Completed
from sepdeploy.errors import BadInput, Missing
from sepdeploy.programs import tied

COPY_TIMEOUT_S = 600.0
GRACE_S = 10.0  # a client may live this much longer than the program it started on the device
MOST_SAID = 64 << 20  # bytes of one stream


class Sink(Protocol):
    """Takes what a program says."""

    def write(self, data: bytes, /) -> int:
        """Take the next bytes."""


def execute(
    argv: Sequence[str],
    *,
    stdin: bytes | IO[bytes] = b"",
    stdout: Sink | None = None,
    stderr: Sink | None = None,
    most: int = MOST_SAID,
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
        stderr: The same for its standard error.
        most: Bytes of a stream after which it is ended: what a device says is not bounded.
        timeout: Seconds after which the whole group is killed.
        env: Variables added to this process's own.
        folder: Where it starts.
        subject: What the program does, for the message of a time-out.

    Returns:
        Its end; ``rc`` is negative when a signal ended it, 127 when there is no such program.

    Raises:
        BadInput: It did not end within ``timeout``, or says more than ``most`` bytes.
    """
    try:
        process = subprocess.Popen(
            tied(argv, env),
            stdin=subprocess.PIPE if isinstance(stdin, bytes) else stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, **env} if env else None,
            cwd=folder,
            start_new_session=True,
        )
    except FileNotFoundError as error:
        return Completed(127, b"", f"{argv[0]}: not found ({error.filename})".encode())
    except OSError as error:
        return Completed(126, b"", f"{argv[0]}: {error.strerror}".encode())
    assert process.stdout is not None
    assert process.stderr is not None
    kept = io.BytesIO(), io.BytesIO()
    flows = (
        _Flow(process, process.stdout, stdout or kept[0], most),
        _Flow(process, process.stderr, stderr or kept[1], most),
    )
    end = time.monotonic() + timeout
    try:
        if isinstance(stdin, bytes):
            threading.Thread(target=_feed, args=(process, stdin), daemon=True).start()
        for flow in flows:
            flow.join(max(end - time.monotonic(), 0))
        process.wait(max(end - time.monotonic(), 0))
    except subprocess.TimeoutExpired as error:
        raise timed_out(subject, timeout) from error
    finally:
        _kill(process)
        for flow in flows:
            flow.join(GRACE_S)
        process.wait()
    for flow in flows:
        if flow.failure is not None:
            raise flow.failure
        if flow.size > most:
            raise BadInput(
                f"{subject}: says more than {most >> 20} MiB",
                hint="is that device what you think it is?",
            )
    return Completed(process.returncode, kept[0].getvalue(), kept[1].getvalue())


class _Flow(threading.Thread):
    """Passes one stream of a program on, to its end or to a limit that ends the program."""

    def __init__(
        self, process: subprocess.Popen[bytes], source: IO[bytes], sink: Sink, most: int
    ) -> None:
        super().__init__(daemon=True)
        self.size = 0
        self.failure: OSError | None = None
        self._process, self._source, self._sink, self._most = process, source, sink, most
        self.start()

    def run(self) -> None:
        """Read until nothing comes any more."""
        with self._source:
            while data := os.read(self._source.fileno(), 1 << 16):
                self.size += len(data)
                try:
                    if self.size <= self._most:
                        self._sink.write(data)
                        continue
                except OSError as error:  # the disk is full
                    self.failure = error
                _kill(self._process)
                break


def _feed(process: subprocess.Popen[bytes], data: bytes) -> None:
    assert process.stdin is not None
    with contextlib.suppress(OSError), process.stdin as stream:
        stream.write(data)


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End a program's whole group unless the program has ended by itself."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def timed_out(subject: str, timeout: float) -> BadInput:
    """Return the error for a program that did not end in time."""
    return BadInput(
        f"{subject}: did not finish within {timeout:.0f} s",
        hint="is the device busy? try again, or measure a smaller model or fewer samples",
    )


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
