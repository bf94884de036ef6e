"""The one interface through which a device is reached.

A transport moves files to and from a device and runs programs there; it knows nothing about
models, benches or device profiles. Everything that a transport is asked and answers can be
recorded and played back (``replay``), so nothing may pass around it.
"""

from __future__ import annotations

import secrets
import shlex
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from sepdeploy.errors import Missing

RUN_TIMEOUT_S = 60.0


class Disconnected(Missing):
    """The connection broke while it was in use; the same request may succeed when repeated.

    Other failures to reach a device (refused, unknown host, wrong key) are plain ``Missing``.
    """


@dataclass(frozen=True)
class Completed:
    """A program that ran to its end on a device.

    ``rc`` is its exit status; negative or above 128 where a signal ended it (depends on the
    transport, see ``signal_of``). ``stdout`` and ``stderr`` are its raw bytes.
    """

    rc: int
    stdout: bytes = b""
    stderr: bytes = b""

    @property
    def text(self) -> str:
        """Standard output as text, without surrounding white space."""
        return self.stdout.decode(errors="replace").strip()

    @property
    def error_line(self) -> str:
        """The last non-empty line of standard error, "" when there is none."""
        lines = self.stderr.decode(errors="replace").strip().splitlines()
        return " ".join(lines[-1].split())[:300] if lines else ""

    @property
    def signal(self) -> int:
        """The number of the signal that ended the program, 0 when it exited by itself."""
        if self.rc < 0:
            return -self.rc
        return self.rc - 128 if 128 < self.rc < 128 + 65 else 0


@dataclass(frozen=True)
class Call:
    """What ``Transport.run`` is asked for."""

    argv: Sequence[str]
    stdin: bytes = b""
    timeout: float = RUN_TIMEOUT_S
    env: Mapping[str, str] | None = None


class Transport(ABC):
    """A way to a device; a context manager that closes itself.

    Paths on the device are text: absolute ones are taken as they are, relative ones lie under
    ``workdir``. ``run`` starts programs in ``workdir``.

    Attributes:
        name: "local", "ssh", "adb", "qemu" or "replay".
        address: Where it leads ("pi@raspberrypi.local", an adb serial, ""), for messages.
        token: Random and of this connection alone, for names that no other one gives; "" where
            nobody else can be.
    """

    name: str = ""
    address: str = ""
    token: str = ""

    @abstractmethod
    def push(self, local: Path, remote: str, *, executable: bool = False) -> None:
        """Copy a file to the device; missing folders are made, an old file is replaced.

        The file appears under its name only when it is complete.

        Raises:
            BadInput: ``local`` cannot be read.
            Disconnected: The connection broke.
            Missing: The device cannot be reached, or has no room or no permission for the file.
        """

    def run(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes = b"",
        timeout: float = RUN_TIMEOUT_S,
        env: Mapping[str, str] | None = None,
    ) -> Completed:
        """Run a program to its end and return what it said; no shell reads the arguments.

        A program that is absent gives ``rc`` 127, as in a shell; its failures are not exceptions.

        Args:
            argv: The program and its arguments.
            stdin: What it can read.
            timeout: Seconds after which it is ended.
            env: Variables added to its environment.

        Raises:
            BadInput: It did not end in time.
            Disconnected: The connection broke while it ran.
            Missing: The device cannot be reached.
        """
        return self._run(Call(argv, stdin, timeout, env))

    @abstractmethod
    def _run(self, call: Call) -> Completed:
        """Run a program; see ``run``."""

    @abstractmethod
    def pull(self, remote: str, local: Path) -> None:
        """Copy a file from the device; ``local`` is replaced only by a complete file.

        Raises:
            BadInput: ``local`` cannot be written.
            Disconnected: The connection broke.
            Missing: The file does not exist on the device, or the device cannot be reached.
        """

    @abstractmethod
    def facts(self) -> dict[str, object]:
        """Return what is known about the connection itself, as plain JSON values.

        At least ``transport`` (the name) and ``address``; tool and server versions where known.
        Facts about the device are collected by ``sepdeploy.devices.facts``.
        """

    def close(self) -> None:  # noqa: B027  # most transports hold nothing
        """End the connection; closing twice is allowed."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def shell(self, script: str, *, timeout: float = RUN_TIMEOUT_S) -> Completed:
        """Run a line of POSIX shell on the device; see ``run``."""
        return self.run(["sh", "-c", script], timeout=timeout)

    @property
    def where(self) -> str:
        """Name and address for messages: "ssh pi@raspberrypi.local"."""
        return f"{self.name} {self.address}".strip()


def new_token() -> str:
    """Return a token for one connection."""
    return secrets.token_hex(8)


def command_line(argv: Sequence[str], env: Mapping[str, str] | None = None) -> str:
    """Return one line of POSIX shell that runs exactly these arguments.

    Variables go through ``env`` so that the line also works in shells that are not POSIX.
    """
    prefix = ["env", *(f"{k}={v}" for k, v in env.items())] if env else []
    return shlex.join([*prefix, *argv])
