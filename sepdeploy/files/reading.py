"""Reading what may be damaged, hostile, or no file at all."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import BinaryIO

from sepdeploy.errors import ArtifactCheckFailed, BadInput

CHUNK = 1 << 20
# Without O_NONBLOCK the opening of a pipe itself waits for a writer; Windows knows O_BINARY only.
READING = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


def sha256_file(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file.

    Raises:
        BadInput: The file cannot be read, or is none.
    """
    digest = hashlib.sha256()
    try:
        with open_plain(path) as stream:
            while chunk := stream.read(CHUNK):
                digest.update(chunk)
    except OSError as error:
        raise _unreadable(path, error) from error
    return digest.hexdigest()


class Watched:
    """Files that must stay what they are while something is said about them.

    The digest is compared again afterwards, and so is what the system notes of every change: a
    file that was replaced for a while and put back is noticed as well.

    Args:
        paths: The files; the digests of those that are there are taken now.
        known: Digests that were taken before.

    Attributes:
        digests: The SHA-256 of each.
    """

    def __init__(self, paths: Iterable[Path] = (), known: Mapping[Path, str] | None = None) -> None:
        wanted = [path for path in paths if path.is_file()]
        self._marks = {path: _mark(path) for path in [*(known or {}), *wanted]}
        self.digests = dict(known or {}) | {path: sha256_file(path) for path in wanted}

    def check(self) -> None:
        """Compare the files with their digests again.

        Raises:
            ArtifactCheckFailed: One is another by now.
        """
        for path, digest in self.digests.items():
            if _mark(path) != self._marks[path] or sha256_file(path) != digest:
                raise ArtifactCheckFailed(
                    f"{path} was changed while it was in use",
                    hint="run the command again when nothing else writes it",
                )


def _mark(path: Path) -> tuple[int, ...]:
    """Return what differs after a file was written to or another one took its name."""
    try:
        found = path.stat()
    except OSError:
        return ()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def open_plain(path: Path) -> BinaryIO:
    """Open a file, or what a link points at, for reading if it is a plain file.

    A pipe that nobody writes to would block for ever, a device might never end.

    Raises:
        BadInput: Missing, unreadable, or no plain file.
    """
    try:
        handle = os.open(path, READING)
    except OSError as error:
        raise _unreadable(path, error) from error
    mode = os.fstat(handle).st_mode
    if stat.S_ISREG(mode):
        return os.fdopen(handle, "rb")
    os.close(handle)
    if stat.S_ISDIR(mode):
        raise BadInput(f"cannot read {path}: Is a directory", hint="name a file in it")
    raise BadInput(
        f"cannot read {path}: not a regular file", hint="copy its content into a file first"
    )


def _unreadable(path: Path, error: OSError) -> BadInput:
    return BadInput(
        f"cannot read {path}: {error.strerror}", hint="check the path and its permissions"
    )


def read_bytes(path: Path, *, limit: int | None = None) -> bytes:
    """Return a file's content.

    Args:
        path: The file.
        limit: Refuse files larger than this many bytes.

    Raises:
        BadInput: Missing, unreadable, no plain file, or too large for the limit or for memory.
    """
    try:
        with open_plain(path) as stream:
            if limit is None:
                return stream.read()
            size = os.fstat(stream.fileno()).st_size
            data = stream.read(size + 1) if size <= limit else b""
            if size < len(data) <= limit:  # it grows, or the system does not know its size
                data += stream.read(limit + 1 - len(data))
    except OSError as error:
        raise _unreadable(path, error) from error
    except MemoryError as error:
        raise BadInput(f"{path} does not fit in memory", hint="is it the right file?") from error
    if max(size, len(data)) > limit:
        raise BadInput(f"{path} is larger than {limit} bytes", hint="is it the right file?")
    return data


def file_beside(path: Path, location: str, *, what: str = "it") -> Path:
    """Return the file that a file refers to, which must be a plain file in its own folder.

    Args:
        path: The file that refers.
        location: What it says, relative to its folder.
        what: Whose data they are, for messages.

    Raises:
        BadInput: An absolute path, a place outside the folder, a link of any kind, or no file.
    """
    folder = path.resolve().parent
    target = Path(os.path.normpath(folder / location))
    if Path(location).is_absolute():
        why = "an absolute path"
    elif not target.is_relative_to(folder):
        why = "outside the model's folder"
    elif not target.exists() and not target.is_symlink():
        why = "which does not exist"
    elif target.resolve() != target:
        why = "a symbolic link"
    elif not target.is_file():
        why = "not a plain file"
    elif target.stat().st_nlink > 1:
        why = "a file with several hard links"
    else:
        return target
    raise BadInput(
        f"{path}: {what} keeps its data in '{location}', {why}",
        hint="only plain files in the model's own folder are read",
    )
