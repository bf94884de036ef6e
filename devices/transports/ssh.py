"""A device reached with the system's ``ssh``: its configuration, agent, keys and jump hosts apply.

One connection is opened and shared by all calls (ControlMaster). Files travel through the same
channel (``cat`` on the device), so that nothing but a shell is needed there and a full disk says
so; a file gets its name only when its size is right, at both ends.
"""

from __future__ import annotations

import contextlib
import re
import secrets
import shlex
import shutil
import socket
import tempfile
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import IO

from sepdeploy.devices.transports.base import (
    Call,
    Completed,
    Disconnected,
    Transport,
    new_token,
)
from sepdeploy.devices.transports.process import (
    COPY_TIMEOUT_S,
    GRACE_S,
    MOST_SAID,
    execute,
    no_room,
)
from sepdeploy.devices.transports.remote import (
    MOST_BEFORE,
    CutOff,
    check_size,
    last_line,
    no_shell,
    run_marked,
    stored_size,
)
from sepdeploy.errors import PATH, BadInput, Missing, SepdeployError
from sepdeploy.files import atomic_path, temporary_folder

CONNECT_TIMEOUT_S = 5
NAME_TIMEOUT_S = 2.0
CLIENT_FAILED = 255  # exit code of ssh when ssh itself failed
WORKDIR = ".cache/sepdeploy"  # under the home folder, where ssh starts
_ADDRESS = re.compile(r"(?:[\w.+-]+@)?[\w.:%-]+\Z")


def check_address(address: str) -> None:
    """Check that a text can be the address of an ssh host.

    Raises:
        BadInput: It cannot.
    """
    if address.startswith("-") or not _ADDRESS.match(address):
        raise BadInput(
            f"'{address}' is not an ssh address", hint="write HOST or USER@HOST, as for ssh"
        )


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
        check_address(address)
        if shutil.which(ssh) is None:
            raise Missing(f"{ssh} is not installed", hint="sudo apt install openssh-client")
        self.address = address
        self.token = new_token()
        self.workdir = workdir.removeprefix("~/") or "."
        own = ["-F", str(config)] if config is not None else []
        own += ["-p", str(port)] if port is not None else []
        self._ssh = [ssh, *own]
        settings = self._settings()
        # Short, because the path of a socket may have 107 bytes at most.
        self._stack = ExitStack()
        self._folder = self._stack.enter_context(temporary_folder(_short_folder(), "sd~"))
        self._command = [
            ssh,
            *own,
            *_options(self._folder, settings.get("stricthostkeychecking", "ask")),
            "--",
            address,
        ]
        self._port = settings.get("port", "")
        proxied = {"proxycommand", "proxyjump"} & settings.keys()
        self._name = "" if proxied else settings.get("hostname", "")  # which ssh looks up itself
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
        self,
        call: Call,
        source: IO[bytes] | None = None,
        target: IO[bytes] | None = None,
        most: int = MOST_SAID,
    ) -> Completed:
        if not self._used:
            self._check_name()
        try:
            done = run_marked(
                self._command,
                call,
                folder=self.workdir,
                where=self.where,
                source=source,
                target=target,
                most=most,
            )
        except CutOff as cut:
            raise self._failed(cut) from None
        self._used = True
        return done

    def _check_name(self) -> None:
        """Refuse a name that is not known soon; ssh itself waits for a name service without limit.

        Raises:
            Missing: It is not.
        """
        told: list[str] = []

        def ask() -> None:
            try:
                socket.getaddrinfo(self._name, None)
                told.append("")
            except (OSError, UnicodeError) as error:
                told.append(str(error))

        if not self._name:
            return
        asking = threading.Thread(target=ask, daemon=True)
        asking.start()
        asking.join(NAME_TIMEOUT_S)
        why = told[0] if told else f"no answer within {NAME_TIMEOUT_S:.0f} s"
        if why:
            raise Missing(f"{self.where}: no such host: {why}", hint=NO_HOST)

    def _failed(self, cut: CutOff) -> SepdeployError:
        """Return the error for a call whose program never reported its end."""
        if cut.rc != CLIENT_FAILED and not cut.begun:
            return no_shell(self.where, cut.last)
        text = cut.text
        for pattern, what, hint in REFUSALS:
            if re.search(pattern, text):
                return Missing(
                    f"{self.where}: {what}: {last_line(text)}",
                    hint=hint.format(address=self.address, host=self.address.rpartition("@")[2]),
                )
        if self._used or re.search(DROPS, text) or not text.strip():
            return Disconnected(
                f"{self.where}: the connection was lost"
                + (f": {last_line(text)}" if text.strip() else ""),
                hint="is the device still on, and its network stable? then try again",
            )
        return Missing(f"{self.where}: {cut.last}", hint=f"try: ssh {self.address} true")

    def push(self, local: Path, remote: str, *, executable: bool = False) -> None:
        """Send a file through the connection."""
        try:
            size = local.stat().st_size
            stream = local.open("rb")
        except OSError as error:
            raise BadInput(f"cannot read {local}: {error.strerror}", hint=PATH) from error
        target, part = shlex.quote(remote), shlex.quote(f"{remote}.{secrets.token_hex(6)}.part")
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
        quoted = shlex.quote(remote)
        asked = self.shell(f"wc -c < {quoted}")
        size = stored_size(asked)
        if size is None:
            raise Missing(
                f"{self.where}: cannot read {remote}: {asked.error_line}",
                hint="is the device still there, and its disk not full? run it again",
            )
        with atomic_path(local) as temporary:
            with temporary.open("wb") as stream:
                call = Call(["sh", "-c", f"cat < {quoted}"], timeout=COPY_TIMEOUT_S)
                done = self._run(call, target=stream, most=size + MOST_BEFORE)
            if done.rc != 0:
                raise Missing(
                    f"{self.where}: cannot read {remote}: {done.error_line}",
                    hint="is the device still there, and its disk not full? run it again",
                )
            check_size(self.where, remote, temporary, size)

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
        self._stack.close()


NO_HOST = "check the name, or use the address of the device: USER@192.168.…"
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
        NO_HOST,
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


def _short_folder() -> Path:
    usual = tempfile.gettempdir()
    return Path(usual if len(usual) < 40 else "/tmp")
