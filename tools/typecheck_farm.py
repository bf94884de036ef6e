"""Build `.typecheck/sepdeploy`, a folder of links that shows type checkers the installed layout.

Type checkers do not follow setuptools' package-dir mapping, so `exporters/`, `runtimes/` and
`devices/` are linked beside the modules of `sepdeploy/`. The folder is ignored by git.
"""

from __future__ import annotations

import shutil
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MAPPED = ("exporters", "runtimes", "devices")


def main() -> None:
    """Recreate the farm from what is in the tree now."""
    farm = ROOT / ".typecheck" / "sepdeploy"
    shutil.rmtree(farm.parent, ignore_errors=True)
    farm.mkdir(parents=True)
    inside = [p for p in (ROOT / "sepdeploy").iterdir() if p.name != "__pycache__"]
    for entry in [*inside, *(ROOT / name for name in MAPPED)]:
        (farm / entry.name).symlink_to(entry)


if __name__ == "__main__":
    main()
