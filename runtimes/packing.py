"""The runner in one file: what a child process on this machine and a device are given."""

from __future__ import annotations

import io
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from zipfile import ZIP_STORED, ZipFile, ZipInfo

from sepdeploy.errors import BadInput
from sepdeploy.runtimes import runner
from sepdeploy.runtimes.runner.table import RUNTIMES

EPOCH = (1980, 1, 1, 0, 0, 0)  # the same bytes at any time
# Sent beside the runner: kernels in Python, and the search, which jobs may ask for.
SENT = (
    "sepdeploy.runtimes.native.reference",
    "sepdeploy.attacks.draws",
    "sepdeploy.attacks.patches",
)
START = """\
import os
from sepdeploy.runtimes.runner.table import RUNTIMES, Runtime
RUNTIMES.clear()
RUNTIMES.update((row.name, row) for row in {rows!r})
from sepdeploy.runtimes.runner.main import main
code = main()
# Runtimes may crash while tearing down threads; the answer is already out.
os._exit(code)
"""


def runner_bytes() -> bytes:
    """Return the zipped runner with the adapter of every runtime of the table.

    Its packages above the runner are empty, so that nothing else of sepdeploy is imported. The
    bytes depend on the sources and the table alone: nothing is compressed, dated or unsorted.

    Raises:
        BadInput: The source of one cannot be found.
    """
    package = runner.__name__.replace(".", "/")
    own = sorted(Path(runner.__file__).parent.glob("*.py"))
    texts = {f"{package}/{path.name}": path.read_text(encoding="utf-8") for path in own}
    for module in (*SENT, *(row.adapter for row in RUNTIMES.values())):
        texts.setdefault(module.replace(".", "/") + ".py", _source(module))
    for name in list(texts):
        for folder in list(PurePosixPath(name).parents)[:-1]:
            texts.setdefault(f"{folder}/__init__.py", "")
    texts["__main__.py"] = START.format(rows=list(RUNTIMES.values()))
    buffer = io.BytesIO()
    with ZipFile(buffer, "w", ZIP_STORED) as packed:
        for name in sorted(texts):
            entry = ZipInfo(name, EPOCH)
            entry.create_system = 3  # on every system the same
            packed.writestr(entry, texts[name])
    return buffer.getvalue()


def write_runner(folder: Path) -> Path:
    """Write the zipped runner into a folder and return its path."""
    path = folder / "runner.pyz"
    path.write_bytes(runner_bytes())
    return path


def _source(module: str) -> str:
    """Return the text of a module."""
    try:
        found = find_spec(module)
    except ImportError:
        found = None
    if found is None or found.origin is None or not found.origin.endswith(".py"):
        raise BadInput(f"{module} is no Python file", hint="is it installed?")
    return Path(found.origin).read_text(encoding="utf-8")
