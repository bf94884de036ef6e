"""A device reached with the system's ``ssh``: its configuration, agent, keys and jump hosts apply.

One connection is opened and shared by all calls (ControlMaster). Files travel through the same
channel (``cat`` on the device), so that nothing but a shell is needed there and a full disk says
so; a file gets its name only when its size is right.
"""

from __future__ import annotations

import contextlib
import re
import shlex
import shutil
import tempfile
from pathlib import Path
from typing import IO

from sepdeploy.devices.transports.base import Call, Completed, Disconnected, Transport
from sepdeploy.devices.transports.process import (
    COPY_TIMEOUT_S,
    GRACE_S,
    execute,
    no_room,
    remote_line,
    timed_out,
    unmark,
)
from sepdeploy.errors import BadInput, Missing, SepdeployError
from sepdeploy.files import atomic_path

CONNECT_TIMEOUT_S = 5
WORKDIR = ".cache/sepdeploy"  # under the home folder, where ssh starts
_ADDRESS = re.compile(r"(?:[\w.+-]+@)?[\w.:%-]+\Z")


class SshTransport(Transport):
    """A device behind ``ssh USER@HOST``.

    Args:
        address: As on the ``ssh`` command line: a host, ``user@host`` or a name of ssh's own
            configuration.
        port: Port of its daemon; None leaves it to the configuration.
        config: An ssh configuration file to use instead of the user's.
        workdir: Folder on the device, relative to the home folder.
        ssh: The client program.

    Raises:
        BadInput: The address is not one, or the ssh configuration is broken.
        Missing: There is no ssh on this machine.
    """

    name = "ssh"

    def __init__(
        self,
        address: str,
        *,
        port: int | None = None,
        config: Path | None = None,
        workdir: str = WORKDIR,
        ssh: str = "ssh",
    ) -> None:
        if address.startswith("-") or not _ADDRESS.match(address):
            raise BadInput(
                f"'{address}' is not an ssh address", hint="write HOST or USER@HOST, as for ssh"
            )
        if shutil.which(ssh) is None:
            raise Missing(f"{ssh} is not installed", hint="sudo apt install openssh-client")
        self.address = address
        self.workdir = workdir.removeprefix("~/") or "."
        own = ["-F", str(config)] if config is not None else []
        own += ["-p", str(port)] if port is not None else []
        self._ssh = [ssh, *own]
        settings = self._settings()
        # Short, because the path of a socket may have 107 bytes at most.
        self._folder = Path(tempfile.mkdtemp(prefix="sd-", dir=_short_folder()))
        self._command = [
            ssh,
            *own,
            *_options(self._folder, settings.get("stricthostkeychecking", "ask")),
            "--",
            address,
        ]
        self._port = settings.get("port", "")
        self._used = False  # whether any call has worked
        self._closed = False

    def _settings(self) -> dict[str, str]:
        """Return what ssh would use for this host, from its own configuration."""
        found = execute(
            [*self._ssh, "-G", "--", self.address], timeout=GRACE_S, subject=f"{self.where}: ssh -G"
        )
        if found.rc != 0:
            raise BadInput(
                f"ssh refuses its configuration for '{self.address}': {found.error_line}",
                hint="correct it (~/.ssh/config), or name another file in the device profile",
            )
        parts = [line.partition(" ") for line in found.text.splitlines()]
        return {key: value for key, _, value in parts}

    def _run(
        self, call: Call, source: IO[bytes] | None = None, target: IO[bytes] | None = None
    ) -> Completed:
        line = remote_line(call.argv, folder=self.workdir, timeout=call.timeout, env=call.env)
        found = execute(
            [*self._command, line],
            stdin=source or call.stdin,
            stdout=target,
            timeout=call.timeout + GRACE_S,
            subject=f"{self.where}: {call.argv[0]}",
        )
        ended = unmark(found)
        if ended is None:
            raise self._failed(found)
        self._used = True
        if ended.rc == 124:
            raise timed_out(f"{self.where}: {call.argv[0]}", call.timeout)
        return ended

    def _failed(self, found: Completed) -> SepdeployError:
        """Return the error for a call whose program never reported its end."""
        if found.rc == 73:
            return Missing(
                f"{self.where}: cannot make the folder {self.workdir}: {found.error_line}",
                hint="free some space there, or set transport.workdir in the device profile",
            )
        text = found.stderr.decode(errors="replace")
        for pattern, what, hint in REFUSALS:
            if re.search(pattern, text):
                return Missing(
                    f"{self.where}: {what}: {_last_words(text)}",
                    hint=hint.format(address=self.address, host=self.address.rpartition("@")[2]),
                )
        if self._used or re.search(DROPS, text) or not text.strip():
            return Disconnected(
                f"{self.where}: the connection was lost"
                + (f": {_last_words(text)}" if text.strip() else ""),
                hint="is the device still on, and its network stable? then try again",
            )
        return Missing(f"{self.where}: {_last_words(text)}", hint=f"try: ssh {self.address} true")

    def push(self, local: Path, remote: str, *, executable: bool = False) -> None:
        """Send a file through the connection."""
        try:
            size = local.stat().st_size
            stream = local.open("rb")
        except OSError as error:
            raise BadInput(f"cannot read {local}: {error.strerror}") from error
        target, part = shlex.quote(remote), shlex.quote(f"{remote}.part")
        mode = f" && chmod 700 {part}" if executable else ""
        script = (
            f'mkdir -p "$(dirname {target})" && cat > {part} && '
            f'[ "$(wc -c < {part})" -eq {size} ]{mode} && mv -f {part} {target} || '
            f"{{ rm -f {part}; exit 1; }}"
        )
        with stream:
            done = self._run(Call(["sh", "-c", script], timeout=COPY_TIMEOUT_S), stream)
        if done.rc != 0:
            raise no_room(self.where, remote, size, done)

    def pull(self, remote: str, local: Path) -> None:
        """Fetch a file through the connection."""
        with atomic_path(local) as temporary:
            with temporary.open("wb") as stream:
                done = self._run(Call(["cat", remote], timeout=COPY_TIMEOUT_S), target=stream)
            if done.rc != 0:
                raise Missing(f"{self.where}: cannot read {remote}: {done.error_line}")

    def facts(self) -> dict[str, object]:
        """Return address, port and the client's version."""
        found = execute([self._ssh[0], "-V"], timeout=GRACE_S, subject="ssh -V")
        version = found.stderr.decode(errors="replace").strip().split(",")[0]
        return {
            "transport": self.name,
            "address": self.address,
            "port": self._port,
            "client": version,
        }

    def close(self) -> None:
        """Close the shared connection and remove its socket."""
        if self._closed:
            return
        self._closed = True
        with contextlib.suppress(SepdeployError):
            end = [*self._command[:-2], "-O", "exit", *self._command[-2:]]
            execute(end, timeout=GRACE_S, subject=f"{self.where}: closing")
        shutil.rmtree(self._folder, ignore_errors=True)


# What ssh says when it cannot connect: pattern, our words, next step.
REFUSALS = (
    (
        r"REMOTE HOST IDENTIFICATION HAS CHANGED|Host key verification failed",
        "its host key is not the one known here",
        "if the device was set up anew: ssh-keygen -R {host}; if not, somebody may be listening",
    ),
    (
        r"Permission denied",
        "it does not accept our key",
        "copy your key there: ssh-copy-id {address}",
    ),
    (
        r"Too many authentication failures",
        "it refuses our keys",
        "name the right key for {host} in ~/.ssh/config (IdentityFile, IdentitiesOnly yes)",
    ),
    (
        r"Could not resolve hostname",
        "no such host",
        "check the name, or use the address of the device: USER@192.168.…",
    ),
    (
        r"Connection refused",
        "nothing answers there",
        "is ssh switched on? on a Pi: sudo raspi-config nonint do_ssh 0",
    ),
    (
        r"No route to host|Network is unreachable|[Tt]imed out",
        "it cannot be reached",
        "is the device on and in this network? try: ping {host}",
    ),
    (
        r"no matching (host key|key exchange|cipher)|Bad configuration|Permissions .* are too open",
        "ssh cannot agree with it",
        "try: ssh -v {address} true",
    ),
)
DROPS = r"closed|reset|[Bb]roken pipe|disconnect|read from master failed|not responding"


def _options(folder: Path, checking: str) -> list[str]:
    """Return the client's options; a user's own strict rule about host keys is left in force."""
    settings = {
        "BatchMode": "yes",
        "ConnectTimeout": str(CONNECT_TIMEOUT_S),
        "ControlMaster": "auto",
        "ControlPath": f"{folder}/%C",
        "ControlPersist": "30",
        "ServerAliveInterval": "5",
        "ServerAliveCountMax": "3",
        "ClearAllForwardings": "yes",
        "RemoteCommand": "none",
        "LogLevel": "ERROR",
    }
    if checking == "ask":
        settings["StrictHostKeyChecking"] = "accept-new"
    return ["-T", *(part for k, v in settings.items() for part in ("-o", f"{k}={v}"))]


def _short_folder() -> str | None:
    return None if len(tempfile.gettempdir()) < 40 else "/tmp"


def _last_words(text: str) -> str:
    """Return the last line of a client's message, as one line."""
    lines = [line for line in text.splitlines() if line.strip()]
    return " ".join(lines[-1].split())[:200] if lines else "no reason given"
