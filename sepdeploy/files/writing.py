"""Writing: complete or untouched, through links, never over what is no plain file."""

from __future__ import annotations

import errno
import os
import re
import stat
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shlex import quote

from sepdeploy.errors import BadInput, NoRoom
from sepdeploy.files.scratch import FULL, temporary_file

WRITE_HINT = "is the folder there, writable, and not full? else choose another path"
OWN_STREAM = re.compile(r"/dev/(stdout|stderr|fd/(\d+))|/proc/self/fd/(\d+)")
READER_WAIT_S = 10.0  # for somebody to open the other end of a pipe


def target_of(path: Path) -> Path:
    """Return where a file is really written: links are followed, also to what is not there yet."""
    return Path(os.path.realpath(path))


def stream_number(path: Path) -> int | None:
    """Return which open file of this process a path such as /dev/stdout means, if any."""
    for _ in range(40):  # as many links as the system follows
        found = OWN_STREAM.fullmatch(str(Path.cwd() / path))
        if found is not None:
            named = {"stdout": 1, "stderr": 2}
            return named.get(found[1]) or int(found[2] or found[3])
        if not path.is_symlink():
            return None
        path = path.parent / path.readlink()
    return None


def is_stream(path: Path) -> bool:
    """Return whether a path is a pipe, a character device, or an open file of this process."""
    if stream_number(path) is not None:
        return True
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISCHR(mode)


def check_writable(path: Path, *, stream: bool = False) -> None:
    """Check that a file could be written, before the work whose result it is to hold.

    Args:
        path: The file.
        stream: A pipe or a device will be written to as it is; otherwise it is refused.

    Raises:
        BadInput: No plain file, a protected one, or its folder cannot be made or written.
    """
    if stream and is_stream(path):
        _check_stream(path)
        return
    try:
        folder = _plain_target(path).parent
        while not folder.exists():
            folder = folder.parent
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise _unwritable(path, error) from error


def _check_stream(path: Path) -> None:
    number = stream_number(path)
    try:
        if number is not None:
            os.fstat(number)
        elif not os.access(path, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise _unwritable(path, error) from error


def _plain_target(path: Path) -> Path:
    """Return where a file is written.

    Raises:
        BadInput: Something else is there, or a file that may not be changed.
        OSError: It cannot be found out.
    """
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return target_of(path)
    if stat.S_ISDIR(mode):
        raise BadInput(f"{path} is a folder, not a file", hint="add a file name to it")
    if not stat.S_ISREG(mode) or stream_number(path) is not None:
        raise BadInput(f"{path} is not a regular file", hint="name a file to write")
    # The superuser may write everything: what nobody may write was protected on purpose.
    if not mode & 0o222 or not os.access(path, os.W_OK):
        raise BadInput(
            f"{path} is write-protected",
            hint=f"choose another path, or: chmod u+w {quote(str(path))}",
        )
    return target_of(path)


def _unwritable(path: Path, error: OSError) -> BadInput:
    kind = NoRoom if error.errno in FULL else BadInput
    return kind(f"cannot write {path}: {error.strerror or error}", hint=WRITE_HINT)


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a temporary file in the same folder that becomes ``path`` only if the block succeeds.

    The folder is created when missing, and links are written through. Whatever happens in the
    block, ``path`` holds either its old content or the complete new one, and no temporary file
    stays behind.

    Raises:
        BadInput: No plain file, a folder that cannot be written, or a full disk.
    """
    try:
        target = _plain_target(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        with temporary_file(target) as temporary:
            yield temporary
            _settle(temporary, target)
    except OSError as error:
        raise _unwritable(path, error) from error


def _settle(temporary: Path, target: Path) -> None:
    with temporary.open("rb") as stream:
        os.fsync(stream.fileno())
    try:
        mode = stat.S_IMODE(target.stat().st_mode)
    except FileNotFoundError:
        mask = os.umask(0)
        os.umask(mask)
        mode = 0o666 & ~mask
    temporary.chmod(mode)
    temporary.replace(target)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically (UTF-8).

    Raises:
        BadInput: No plain file, a folder that cannot be written, or a full disk.
    """
    write_bytes(path, text.encode())


def write_bytes(path: Path, data: bytes) -> None:
    """Write a binary file atomically.

    Raises:
        BadInput: No plain file, a folder that cannot be written, or a full disk.
    """
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def write_out(path: Path, text: str) -> None:
    """Write a result where a person asked for it: into a pipe or a device, else atomically.

    Raises:
        BadInput: It cannot be written, or nobody reads the pipe.
    """
    if not is_stream(path):
        write_text(path, text)
        return
    try:
        with os.fdopen(_opened(path), "wb") as stream:
            stream.write(text.encode())
    except OSError as error:
        raise _unwritable(path, error) from error


def _opened(path: Path) -> int:
    """Open a stream for writing; a pipe waits a while for its reader.

    Raises:
        OSError: It cannot be opened.
    """
    number = stream_number(path)
    if number is not None:
        for own in (sys.stdout, sys.stderr):
            own.flush()
        return os.dup(number)
    end = time.monotonic() + READER_WAIT_S
    while True:
        try:
            handle = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
        except OSError as error:
            if error.errno != errno.ENXIO or time.monotonic() > end:
                raise
            time.sleep(0.05)
            continue
        os.set_blocking(handle, True)
        return handle
