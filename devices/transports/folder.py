"""Devices whose files lie in a folder of this machine: itself, and processors it emulates."""

from __future__ import annotations

import shutil
from pathlib import Path

from sepdeploy.devices.transports.base import Transport
from sepdeploy.errors import Missing
from sepdeploy.files import atomic_path


class FolderTransport(Transport):
    """Moves files by copying them.

    Attributes:
        workdir: Where relative device paths lie.
    """

    workdir: Path

    def push(self, local: Path, remote: str, *, executable: bool = False) -> None:
        """Copy a file into the folder."""
        with atomic_path(self.workdir / remote) as temporary:
            shutil.copyfile(local, temporary)
        if executable:
            (self.workdir / remote).chmod(0o755)

    def pull(self, remote: str, local: Path) -> None:
        """Copy a file out of the folder."""
        source = self.workdir / remote
        if not source.is_file():
            raise Missing(
                f"{self.where}: no file {remote}",
                hint="is the device still there, and its disk not full? run it again",
            )
        with atomic_path(local) as temporary:
            shutil.copyfile(source, temporary)
