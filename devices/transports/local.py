"""This machine, seen as a device."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sepdeploy.devices.transports.base import RUN_TIMEOUT_S, Completed
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
        self.workdir = workdir.absolute()
        try:
            self.workdir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise BadInput(f"cannot make the folder {workdir}: {error.strerror}") from error

    def run(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes = b"",
        timeout: float = RUN_TIMEOUT_S,
        env: Mapping[str, str] | None = None,
    ) -> Completed:
        """Run a program in the folder."""
        program = argv[0]
        if "/" in program:  # relative to the folder, not to the caller's
            program = str(self.workdir / program)
        return execute(
            [program, *argv[1:]],
            stdin=stdin,
            timeout=timeout,
            env=env,
            folder=self.workdir,
            subject=f"{self.where}: {argv[0]}",
        )

    def facts(self) -> dict[str, Any]:
        """Return the name of the transport and of this machine's architecture."""
        return {"transport": self.name, "address": "", "machine": platform.machine()}
