"""An emulated processor of this machine, seen as a device.

What an emulated program can see is the same on every machine and in every call: environment,
arguments, file names, the board's description. Only then are its instruction counts the same too.
So it gets none of this machine's variables, and everything lies under fixed names in a folder of
its own.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sepdeploy.devices.transports.base import Call, Completed
from sepdeploy.devices.transports.folder import FolderTransport
from sepdeploy.devices.transports.process import execute
from sepdeploy.errors import Missing
from sepdeploy.files import scratch

ENVIRONMENT = {"HOME": "/", "LC_ALL": "C", "PATH": "/usr/bin:/bin", "TF_CPP_MIN_LOG_LEVEL": "3"}
AARCH64 = (183).to_bytes(2, "little")  # the machine field of an ELF header
COUNT = "count"
COUNTS = "counts.txt"
RECORD = "record"
BLOCKS = "blocks.txt"
BUNDLE = "b"
SHORT_PLACE = "/tmp"  # a folder of a random name is made in it


@dataclass(frozen=True)
class Machine:
    """What is emulated, and with what.

    Attributes:
        qemu: The emulator.
        core: The emulator's name of the core.
        view: The folder that stands in for the board's /proc and /sys.
        plugin: The counting plugin; None where the emulator has no plugins.
        bundle: The folder of the compiled runner; it is there under the name ``b``.
        facts: What numbers from this machine depend on (versions), as plain JSON values.
        recorder: The plugin that records blocks; None as above.
        caches: The board's caches, as that plugin's options.
    """

    qemu: str
    core: str
    view: Path
    plugin: Path | None
    bundle: Path
    facts: Mapping[str, Any] = field(default_factory=dict)
    recorder: Path | None = None
    caches: str = ""


class QemuTransport(FolderTransport):
    """Runs single AArch64 programs; there is no shell and no other program.

    ``run(["count", PROGRAM, …])`` counts the instructions between the program's markers into the
    file ``counts.txt``; ``run(["record", PROGRAM, …])`` writes what its second inference executes
    to ``blocks.txt``.
    """

    name = "qemu"

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.address = machine.core
        # Always of the same length: runtimes keep the model's whole path, and how long it is
        # shifts their heap and with it a few instructions of an inference.
        place = SHORT_PLACE if os.access(SHORT_PLACE, os.W_OK) else None
        self._stack = ExitStack()
        self.workdir = self._stack.enter_context(scratch(place))
        (self.workdir / BUNDLE).symlink_to(machine.bundle)

    def _run(self, call: Call) -> Completed:
        plugins = {COUNT: self.machine.plugin, RECORD: self.machine.recorder}
        with_plugin = call.argv[0] in plugins
        program = call.argv[1:] if with_plugin else call.argv
        refused = self._refused(program[0])
        if refused is not None:
            return refused
        variables = [f"{k}={v}" for k, v in {**ENVIRONMENT, **(call.env or {})}.items()]
        emulator = [self.machine.qemu, "-cpu", self.machine.core, "-L", str(self.machine.view)]
        if with_plugin:
            plugin = plugins[call.argv[0]]
            if plugin is None:
                raise Missing(
                    f"{self.where}: this emulator has no plugins and cannot count",
                    hint="install a qemu-user with plugins: sepdeploy doctor shows which is found",
                )
            if call.argv[0] == COUNT:
                told = f"out={COUNTS}"
            else:
                told = f"out={BLOCKS},run=2,{self.machine.caches}"
                emulator += ["-seed", "1"]  # else addresses on the heap differ between processes
            emulator += ["-plugin", f"{_option(plugin)},{told}"]
        return execute(
            ["env", "-i", *variables, *emulator, *program],
            stdin=call.stdin,
            timeout=call.timeout,
            folder=self.workdir,
            subject=f"{self.where}: {program[0]}",
        )

    def _refused(self, program: str) -> Completed | None:
        """Return the end of a program that cannot start here, None of one that can."""
        try:
            with (self.workdir / program).open("rb") as file:
                start = file.read(20)
        except OSError:
            return Completed(127, b"", f"{program}: not found on the emulated device".encode())
        if start[:4] != b"\x7fELF" or start[18:20] != AARCH64:
            return Completed(126, b"", f"{program}: Exec format error (not AArch64)".encode())
        return None

    def facts(self) -> dict[str, object]:
        """Return what numbers from this transport depend on."""
        return {"transport": self.name, "address": self.address, **self.machine.facts}

    def close(self) -> None:
        """Remove the folder."""
        self._stack.close()


def _option(path: Path) -> str:
    """Return a path for the emulator's option parser, which reads two commas as one."""
    return str(path).replace(",", ",,")
