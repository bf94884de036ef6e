"""A phone or Android emulator reached with the system's ``adb``.

The device is always named (``-s``): with several attached nothing is chosen silently. One daemon
can be listed twice (an emulator is found by itself and again after ``adb connect``); it counts
once.
"""

from __future__ import annotations

import re
import secrets
import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path

from sepdeploy.devices.transports.base import (
    Call,
    Completed,
    Disconnected,
    Transport,
    new_token,
)
from sepdeploy.devices.transports.process import COPY_TIMEOUT_S, GRACE_S, execute, no_room
from sepdeploy.devices.transports.remote import (
    CutOff,
    check_size,
    last_line,
    no_shell,
    run_marked,
    stored_size,
)
from sepdeploy.errors import PATH, BadInput, Missing, SepdeployError
from sepdeploy.files import atomic_path

WORKDIR = "/data/local/tmp/sepdeploy"  # the one place where any app-less user may run programs
SERVER_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class Attached:
    """One device that adb lists.

    ``state`` is "device" when it is usable, else "offline", "unauthorized", ...
    """

    serial: str
    state: str
    model: str = ""

    @property
    def emulator(self) -> bool:
        """Whether the serial is that of an Android emulator."""
        return self.serial.startswith("emulator-")


def attached(adb: str = "adb") -> tuple[Attached, ...]:
    """Return the devices that adb lists, each once, in the order of their serials.

    Raises:
        Missing: adb is not installed, or its server does not start.
    """
    if shutil.which(adb) is None:
        raise Missing("adb is not installed", hint="sudo apt install adb")
    found = execute([adb, "devices", "-l"], timeout=SERVER_TIMEOUT_S, subject="adb devices")
    if found.rc != 0:
        raise Missing(
            f"adb's server does not start: {found.error_line or found.text}",
            hint="try: adb kill-server; another port: export ANDROID_ADB_SERVER_PORT=5137",
        )
    devices = {}
    for line in found.text.splitlines():
        match = re.match(r"(\S+)\s+(no permissions|\S+)(.*)", line)
        if line.startswith(("*", "List of")) or match is None:
            continue
        model = re.search(r"\bmodel:(\S+)", match[3])
        devices[match[1]] = Attached(match[1], match[2], model[1] if model else "")
    for serial in [s for s in devices if _console_name(s) in devices]:
        del devices[serial]
    return tuple(devices[serial] for serial in sorted(devices))


def _console_name(serial: str) -> str:
    """Return the emulator's own serial for an address that leads to the same emulator, else ""."""
    match = re.fullmatch(r"(?:localhost|127\.0\.0\.1):(\d+)", serial)
    return f"emulator-{int(match[1]) - 1}" if match else ""


def choose(
    serial: str | None = None, *, emulator: bool | None = None, adb: str = "adb"
) -> Attached:
    """Return the one device to use.

    Args:
        serial: The user's choice; None takes the only one there is.
        emulator: True or False looks only among emulators or phones.
        adb: The client program.

    Raises:
        BadInput: Several devices and no serial.
        Missing: No device, an unknown serial, or a device that is not ready.
    """
    devices = attached(adb)
    listed = ", ".join(f"{d.serial} ({d.model or d.state})" for d in devices) or "none"
    if serial is not None:
        found = [d for d in devices if serial in (d.serial, d.model)]
        again = [d for d in devices if d.serial == _console_name(serial)]
        if not found and not again:
            raise Missing(f"no device '{serial}' attached; attached: {listed}", hint=PLUG_IN)
        return _ready((found or again)[0])
    fitting = [d for d in devices if emulator is None or d.emulator == emulator]
    if not fitting:
        what = {None: "device", True: "Android emulator", False: "phone"}[emulator]
        raise Missing(f"no {what} attached to adb; attached: {listed}", hint=PLUG_IN)
    if len(fitting) > 1:
        names = ", ".join(f"{d.serial} ({d.model or d.state})" for d in fitting)
        raise BadInput(
            f"{len(fitting)} devices are attached: {names}",
            hint=f"choose one: --serial {fitting[0].serial}",
        )
    return _ready(fitting[0])


PLUG_IN = (
    "plug the phone in, switch on USB debugging (developer options), then look at: adb devices"
)
NOT_READY = {
    "unauthorized": "unlock the phone and allow USB debugging from this computer",
    "offline": "reconnect it, or try: adb reconnect offline",
    "no permissions": "sudo apt install android-sdk-platform-tools-common, then plug it in again",
}


def _ready(device: Attached) -> Attached:
    if device.state != "device":
        raise Missing(
            f"adb {device.serial}: the device is {device.state}",
            hint=NOT_READY.get(device.state, "try: adb kill-server, then plug it in again"),
        )
    return device


class AdbTransport(Transport):
    """A device behind ``adb -s SERIAL``.

    Args:
        serial: The device, as ``adb devices`` names it; see ``choose``.
        workdir: Folder on the device.
        adb: The client program.
    """

    name = "adb"

    def __init__(self, serial: str, *, workdir: str = WORKDIR, adb: str = "adb") -> None:
        if shutil.which(adb) is None:
            raise Missing("adb is not installed", hint="sudo apt install adb")
        self.address = serial
        self.token = new_token()
        self.workdir = workdir
        self._adb = adb
        self._command = [adb, "-s", serial]

    def push(self, local: Path, remote: str, *, executable: bool = False) -> None:
        """Send a file; it gets its name when it is complete."""
        if not local.is_file():
            raise BadInput(f"cannot read {local}: no such file", hint=PATH)
        target = f"{self.workdir}/{remote}" if not remote.startswith("/") else remote
        size = local.stat().st_size
        folder = self.run(["mkdir", "-p", str(Path(target).parent)])
        if folder.rc != 0:
            raise no_room(self.where, remote, size, folder)
        part = f"{target}.{secrets.token_hex(6)}.part"
        done = execute(
            [*self._command, "push", str(local), part],
            timeout=COPY_TIMEOUT_S,
            subject=f"{self.where}: push {local.name}",
        )
        part, quoted = shlex.quote(part), shlex.quote(target)
        if done.rc != 0:
            self.shell(f"rm -f {part}")
            raise self._refused(done) or no_room(self.where, remote, size, done)
        mode = "700" if executable else "600"
        moved = self.shell(
            f'[ "$(wc -c < {part})" -eq {size} ] && chmod {mode} {part} && '
            f"mv -f {part} {quoted} || {{ rm -f {part}; exit 1; }}"
        )
        if moved.rc != 0:
            raise no_room(self.where, remote, size, moved)

    def _run(self, call: Call) -> Completed:
        try:
            command = [*self._command, "shell", "-T"]
            return run_marked(command, call, folder=self.workdir, where=self.where)
        except CutOff as cut:
            gone = self._refused(Completed(cut.rc, b"", cut.text.encode()))
            if gone is None and cut.last and not cut.begun:
                gone = no_shell(self.where, cut.last)
            raise gone or Disconnected(
                f"{self.where}: the connection was lost"
                + (f": {last_line(cut.text)}" if cut.text.strip() else ""),
                hint="is the cable or network stable? then try again",
            ) from None

    def pull(self, remote: str, local: Path) -> None:
        """Fetch a file."""
        source = f"{self.workdir}/{remote}" if not remote.startswith("/") else remote
        asked = self.shell(f"wc -c < {shlex.quote(source)}")
        size = stored_size(asked)
        if size is None:
            raise Missing(
                f"{self.where}: cannot read {remote}: {asked.error_line}",
                hint="is the device still there, and its disk not full? run it again",
            )
        with atomic_path(local) as temporary:
            done = execute(
                [*self._command, "pull", source, str(temporary)],
                timeout=COPY_TIMEOUT_S,
                subject=f"{self.where}: pull {remote}",
            )
            if done.rc != 0:
                text = _words(done)
                raise self._refused(done) or Missing(
                    f"{self.where}: cannot read {remote}: {text}",
                    hint="is the device still there, and its disk not full? run it again",
                )
            check_size(self.where, remote, temporary, size)

    def _refused(self, done: Completed) -> SepdeployError | None:
        """Return the error when adb itself says that the device is gone, else None."""
        text = _words(done)
        if re.search(r"device .*not found|device offline|no devices/emulators|error: closed", text):
            return Disconnected(f"{self.where}: the device is gone: {text}", hint=PLUG_IN)
        if "unauthorized" in text:
            what = f"{self.where}: the device is unauthorized"
            return Missing(what, hint=NOT_READY["unauthorized"])
        if "cannot connect to daemon" in text or "failed to start daemon" in text:
            return Missing(f"{self.where}: {text}", hint="try: adb kill-server")
        return None

    def facts(self) -> dict[str, object]:
        """Return the serial and the client's version."""
        found = execute([self._adb, "version"], timeout=GRACE_S, subject="adb version")
        version = re.search(r"^Version (\S+)", found.text, re.MULTILINE)
        return {
            "transport": self.name,
            "address": self.address,
            "client": f"adb {version[1] if version else 'unknown'}",
        }


def _words(done: Completed) -> str:
    """Return what adb said went wrong; it writes to either stream."""
    text = done.stderr.decode(errors="replace") + "\n" + done.text
    lines = [line for line in text.splitlines() if "error" in line or "cannot" in line]
    return " ".join((lines or [done.error_line])[0].split())[:200]
