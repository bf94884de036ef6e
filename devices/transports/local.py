"""This machine, seen as a device."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sepdeploy.devices.transports.base import RUN_TIMEOUT_S, Completed, Transport
from sepdeploy.devices.transports.process import execute
from sepdeploy.errors import BadInput, Missing
from sepdeploy.files import atomic_path


class LocalTransport(Transport):
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

    def push(self, local: Path, remote: str, *, executable: bool = False) -> None:
        """Copy a file into the folder."""
        with atomic_path(self.workdir / remote) as temporary:
            shutil.copyfile(local, temporary)
        if executable:
            (self.workdir / remote).chmod(0o755)

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

    def pull(self, remote: str, local: Path) -> None:
        """Copy a file out of the folder."""
        source = self.workdir / remote
        if not source.is_file():
            raise Missing(f"{self.where}: no file {remote}")
        with atomic_path(local) as temporary:
            shutil.copyfile(source, temporary)

    def facts(self) -> dict[str, Any]:
        """Return the name of the transport and of this machine's architecture."""
        return {"transport": self.name, "address": "", "machine": platform.machine()}
