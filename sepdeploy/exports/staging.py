"""Results that appear together or not at all: a hidden folder, and the move out of it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from sepdeploy.errors import BadInput
from sepdeploy.files import atomic_path, check_writable, temporary_folder
from sepdeploy.signals import uninterrupted


@contextmanager
def staging(out_dir: Path, stem: str) -> Iterator[Path]:
    """Give a hidden folder inside ``out_dir`` that is gone afterwards, whatever happens.

    What an export of the same name that was killed left of its own goes too.

    Raises:
        BadInput: The folder cannot be made or written.
    """
    with ExitStack() as stack:
        try:
            out_dir.mkdir(parents=True, exist_ok=True)
            folder = stack.enter_context(temporary_folder(out_dir, f".{stem}.export-"))
        except OSError as error:
            raise _unwritable(out_dir, error) from error
        yield folder


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
        check_writable(out_dir / name)
    with uninterrupted():
        try:
            for name in names:
                place = out_dir / name
                if place.is_symlink():  # what it leads to may lie in another file system
                    with atomic_path(place) as temporary:
                        shutil.copyfile(folder / name, temporary)
                else:
                    (folder / name).replace(place)
        except OSError as error:
            raise _unwritable(out_dir, error) from error


def _unwritable(out_dir: Path, error: OSError) -> BadInput:
    return BadInput(
        f"cannot write into {out_dir}: {error.strerror}", hint="choose another folder with -o"
    )
