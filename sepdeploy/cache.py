"""The user's own folders, and folders in the cache that appear whole or not at all."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sepdeploy.errors import BadInput
from sepdeploy.files import sha256_file, temporary_folder


def cache_folder() -> Path:
    """Return ``$XDG_CACHE_HOME/sepdeploy``, by default ``~/.cache/sepdeploy``."""
    return _user_folder("XDG_CACHE_HOME", ".cache")


def config_folder() -> Path:
    """Return ``$XDG_CONFIG_HOME/sepdeploy``, by default ``~/.config/sepdeploy``."""
    return _user_folder("XDG_CONFIG_HOME", ".config")


def _user_folder(variable: str, usual: str) -> Path:
    base = Path(os.environ.get(variable, ""))  # the XDG specification: a relative one is ignored
    return (base if base.is_absolute() else Path.home() / usual) / "sepdeploy"


def digest(*parts: str | bytes) -> str:
    """Return a short key that names exactly these parts."""
    total = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        total.update(len(data).to_bytes(8, "little") + data)
    return total.hexdigest()[:16]


@contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """Give an empty folder that becomes ``target`` only if the block succeeds.

    Two processes may make the same folder at once: the first one to finish wins, and because the
    folder's name is a digest of what goes into it, the other's is the same.

    Raises:
        BadInput: The cache cannot be written or the disk is full.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with temporary_folder(target.parent, f".{target.name}.") as made:
            made.chmod(0o755)
            yield made
            _settle(made, target)
    except OSError as error:
        raise _unwritable(target, error) from error


def _settle(made: Path, target: Path) -> None:
    try:
        made.rename(target)
    except OSError:
        if not target.is_dir():
            raise


def _unwritable(target: Path, error: OSError) -> BadInput:
    return BadInput(
        f"cannot write {target}: {error.strerror or error}",
        hint="free some space, or set XDG_CACHE_HOME to another folder",
    )


def untrusted(path: Path, sha256: str) -> str:
    """Return why a file of the cache must not be executed, "" where it may be.

    The one gate for libraries, plugins, bundles and packages: the file is the one that was made,
    it and all folders above it belong to this user or root, and nobody else may write them.

    Args:
        path: The file.
        sha256: Its digest when it was made; "" where nobody wrote one down.
    """
    for place in (path, *path.absolute().parents):
        try:
            info = place.lstat()
        except OSError as error:
            return f"{place} cannot be read: {error.strerror}"
        inside = place == path or place == path.parent
        if inside and stat.S_ISLNK(info.st_mode):
            return f"{place} is a link"
        if info.st_uid not in (os.geteuid(), 0):
            return f"{place} belongs to another user"
        if stat.S_ISLNK(info.st_mode) or (not inside and info.st_mode & stat.S_ISVTX):
            continue
        own_group = info.st_gid in (0, os.getegid()) and not inside
        if info.st_mode & (stat.S_IWOTH if own_group else stat.S_IWGRP | stat.S_IWOTH):
            return f"{place} can be written by other users"
    try:
        same = not sha256 or sha256_file(path) == sha256
    except BadInput as error:
        return error.message
    return "" if same else f"{path} is not the file that was made (digest differs)"
