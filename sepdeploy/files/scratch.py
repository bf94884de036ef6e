"""Temporary files and folders that outlive nobody.

Each is locked by the process that uses it. A lock ends with its process, whatever ended that, so
whoever makes the next one of the same name removes those that nobody holds any more.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from sepdeploy.errors import BadInput, NoRoom

try:
    import fcntl
except ImportError:  # a system without these locks: nothing is held and nothing swept up
    fcntl = None  # type: ignore[assignment]

SCRATCH = "sepdeploy~"  # a name that no folder of a user's own has
RANDOM = "[a-z0-9_]{8}"  # what tempfile puts into names
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, None)  # numpy says no number
NO_ROOM = "is there space left? TMPDIR names another folder for temporary files"


def hold(handle: int) -> bool:
    """Lock an open file or folder until it is closed; False where somebody else holds it."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return True
    return True


def is_at(handle: int, path: Path) -> bool:
    """Return whether an open file is still the one at a path."""
    with contextlib.suppress(OSError):
        return os.path.samestat(os.fstat(handle), path.lstat())
    return False


def _made(make: Callable[[], str]) -> tuple[Path, int]:
    """Make a temporary file or folder and lock it, before or instead of one that sweeps up."""
    while True:
        path = Path(make())
        with contextlib.suppress(FileNotFoundError):
            handle = os.open(path, os.O_RDONLY)
            if hold(handle) and is_at(handle, path):
                return path, handle
            os.close(handle)


def _file(folder: Path, prefix: str) -> str:
    handle, name = tempfile.mkstemp(dir=folder, prefix=prefix, suffix=".tmp")
    os.close(handle)
    return name


@contextmanager
def temporary_file(target: Path) -> Iterator[Path]:
    """Give a hidden temporary file beside the one that it will become; gone afterwards."""
    path, handle = _made(lambda: _file(target.parent, f".{target.name}."))
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)
        os.close(handle)


@contextmanager
def temporary_folder(folder: Path, prefix: str) -> Iterator[Path]:
    """Give a temporary folder, gone afterwards; those of the same prefix left behind go too."""
    sweep(folder, prefix)
    path, handle = _made(lambda: tempfile.mkdtemp(dir=folder, prefix=prefix))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        os.close(handle)


@contextmanager
def scratch(place: str | None = None) -> Iterator[Path]:
    """Give a temporary folder outside the user's own, gone afterwards, whatever happens.

    Args:
        place: Where it is made; by default where this system keeps temporary files.

    Raises:
        BadInput: It cannot be made, or what is written into it does not fit.
    """
    made = False
    try:
        where = place or tempfile.gettempdir()
        with temporary_folder(Path(where), SCRATCH) as folder:
            made = True
            yield folder
    except OSError as error:
        if made and error.errno not in FULL:
            raise
        kind = NoRoom if error.errno in FULL else BadInput
        raise kind(
            f"cannot write temporary files: {error.strerror or error}", hint=NO_ROOM
        ) from error


def sweep(folder: Path, prefix: str, suffix: str = "") -> None:
    """Remove the temporary files and folders of one prefix that no living process holds."""
    name = re.compile(re.escape(prefix) + RANDOM + re.escape(suffix))
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for path in [Path(entry) for entry in entries if name.fullmatch(entry.name)]:
            _remove(path)


def _remove(path: Path) -> None:
    if fcntl is None:
        return
    with contextlib.suppress(OSError):
        mode, owner = path.lstat().st_mode, path.lstat().st_uid
        if owner != os.getuid() or not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            return
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        try:
            if hold(handle) and is_at(handle, path):
                if stat.S_ISDIR(mode):
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink()
        finally:
            os.close(handle)
