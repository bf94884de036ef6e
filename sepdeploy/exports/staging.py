"""Results that appear together or not at all: a hidden folder, and the move out of it."""

from __future__ import annotations

import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sepdeploy.errors import BadInput


@contextmanager
def staging(out_dir: Path, stem: str) -> Iterator[Path]:
    """Give a hidden folder inside ``out_dir`` that is gone afterwards, whatever happens.

    Raises:
        BadInput: The folder cannot be made or written.
    """
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(dir=out_dir, prefix=f".{stem}.export-"))
    except OSError as error:
        raise BadInput(
            f"cannot write into {out_dir}: {error.strerror}", hint="choose another folder with -o"
        ) from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def move_all(folder: Path, out_dir: Path, *, last: str) -> None:
    """Move the finished files to their places; an interruption waits until all are there.

    Args:
        folder: Where they are; in the same file system as ``out_dir``.
        out_dir: Where they shall be.
        last: Name of the file that vouches for the others.

    Raises:
        BadInput: A place is taken by a folder (nothing was moved then), or cannot be written.
    """
    names = sorted((p.name for p in folder.iterdir()), key=lambda n: (n == last, n))
    for name in names:
        if (out_dir / name).is_dir():
            raise BadInput(
                f"cannot write {out_dir / name}: it is a folder", hint="choose another -o"
            )
    with _uninterrupted():
        try:
            for name in names:
                (folder / name).replace(out_dir / name)
        except OSError as error:
            raise BadInput(
                f"cannot write {out_dir}: {error.strerror}", hint="choose another folder with -o"
            ) from error


@contextmanager
def _uninterrupted() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    pressed: list[Any] = []
    before = signal.signal(signal.SIGINT, lambda *_: pressed.append(True))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if pressed:
        signal.raise_signal(signal.SIGINT)
