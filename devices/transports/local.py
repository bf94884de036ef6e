"""This machine, seen as a device."""

from __future__ import annotations

import platform
from pathlib import Path

from sepdeploy.devices.transports.base import Call, Completed, new_token
from sepdeploy.devices.transports.folder import FolderTransport
from sepdeploy.devices.transports.process import execute
from sepdeploy.errors import BadInput


class LocalTransport(FolderTransport):
    """Runs programs here, in a folder of their own.

    Args:
        workdir: Where relative device paths lie; made when missing.
    """

    name = "local"

    def __init__(self, workdir: Path) -> None:
        self.token = new_token()
        self.workdir = workdir.absolute()
        try:
            self.workdir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise BadInput(
                f"cannot make the folder {workdir}: {error.strerror}",
                hint="is there such a folder, and may it be written?",
            ) from error

    def _run(self, call: Call) -> Completed:
        program = call.argv[0]
        if "/" in program:  # relative to the folder, not to the caller's
            program = str(self.workdir / program)
        return execute(
            [program, *call.argv[1:]],
            stdin=call.stdin,
            timeout=call.timeout,
            env=call.env,
            folder=self.workdir,
            subject=f"{self.where}: {call.argv[0]}",
        )

    def facts(self) -> dict[str, object]:
        """Return the name of the transport and of this machine's architecture."""
        return {"transport": self.name, "address": "", "machine": platform.machine()}
