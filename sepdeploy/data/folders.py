"""Where a data set's files are looked for."""

from __future__ import annotations

import os
from pathlib import Path

from sepdeploy.errors import BadInput

VARIABLE = "SEPDEPLOY_DATA"


def find_folder(name: str, data_dir: Path | None) -> Path:
    """Return the folder of a data set.

    ``data_dir`` itself, or its subfolder ``name`` where that exists; without ``data_dir`` the
    subfolder ``name`` of the folder in the environment variable SEPDEPLOY_DATA.

    Raises:
        BadInput: No folder is known, or it does not exist.
    """
    if data_dir is None:
        root = os.environ.get(VARIABLE)
        if not root:
            raise BadInput(
                f"data set '{name}': no folder given",
                hint=f"give its folder with --data-dir, or set {VARIABLE}",
            )
        data_dir = Path(root)
    for folder in (data_dir / name, data_dir):
        if folder.is_dir():
            return folder
    raise BadInput(
        f"data folder {data_dir} does not exist", hint="check --data-dir (or SEPDEPLOY_DATA)"
    )
