"""What a command may write: never over what it reads, never twice, never while another writes it.

A command's options say what they are with ``Reads`` and ``Writes``. Before anything runs, the
files behind all of them are checked and those to be written are locked (``claimed``).
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sepdeploy.errors import BadInput
from sepdeploy.files.scratch import hold, is_at, sweep
from sepdeploy.files.writing import WRITE_HINT, check_writable, is_stream, target_of

Values = Mapping[str, Any]
UPDATE_WAIT_S = 60.0  # for another update of the same file
# What the ends of file names say; the longest one counts.
SAID = {
    ".csv": "a table",
    ".data": "the weights of an ONNX file",
    ".eval.npz": "an evaluation pack",
    ".history.jsonl": "the history of a training",
    ".jpg": "an image",
    ".json": "JSON",
    ".jsonl": "JSON lines",
    ".manifest.json": "a manifest",
    ".mat": "a data set",
    ".md": "Markdown",
    ".npy": "an array",
    ".npz": "a set of images",
    ".onnx": "an ONNX file",
    ".png": "an image",
    ".pt": "a model",
    ".pth": "a model",
    ".py": "a program",
    ".sarif": "SARIF",
    ".tflite": "a TFLite file",
    ".toml": "a recipe, a profile or rules",
    ".training.pt": "the state of a training",
    ".xml": "XML",
    ".zip": "an archive",
}


def as_given(value: Any, values: Values) -> Iterator[Path]:
    """Give the paths of an option's value: none, one or several."""
    if value is not None:
        for path in value if isinstance(value, (list, tuple)) else (value,):
            yield Path(path)


Files = Callable[[Any, Values], Iterable[Path]]


@dataclass(frozen=True)
class Reads:
    """An option that names what a command reads.

    ``files`` gives everything behind its value; it is told the values of the other options.
    """

    files: Files = as_given


@dataclass(frozen=True)
class Writes:
    """An option that names what a command writes.

    Attributes:
        what: For messages: "a model file".
        suffixes: Ends of names, of those in ``SAID``, that it may have.
        files: As with ``Reads``.
        stream: Pipes and devices are written to as they are.
        folder: The value is a folder; ``files`` gives the files in it.
        waits: Written in a moment: a second command waits instead of ending.
    """

    what: str
    suffixes: tuple[str, ...] = ()
    files: Files = as_given
    stream: bool = False
    folder: bool = False
    waits: bool = False


@dataclass(frozen=True)
class Output:
    """One file to be written, and what asked for it."""

    path: Path
    role: Writes
    asked: str

    @property
    def target(self) -> Path:
        """The file itself, behind all links."""
        return target_of(self.path)


def said_by(path: Path) -> str:
    """Return the end of a name that says what a file is, "" where it says nothing."""
    name = path.name.lower()
    return max((end for end in SAID if name.endswith(end)), key=len, default="")


def same_file(a: Path, b: Path) -> bool:
    """Return whether two paths lead to one file, by links of any kind or in other letters."""
    if target_of(a) == target_of(b):
        return True
    with contextlib.suppress(OSError):
        return a.samefile(b)
    return False


HELD: ContextVar[tuple[Path, ...]] = ContextVar("HELD", default=())


@contextmanager
def claimed(outputs: Iterable[Output], inputs: Iterable[Path] = ()) -> Iterator[None]:
    """Check all files of a command, and keep those that it writes to itself while it runs.

    Args:
        outputs: What it writes.
        inputs: What it reads; what is missing is no concern of this.

    Raises:
        BadInput: An output is an input or another output, is no plain file, says that it is
            something else, cannot be written, or is being written by another process.
    """
    written = list(outputs)
    _check_apart(written, list(inputs))
    for output in written:
        check_writable(output.path, stream=output.role.stream)
    with ExitStack() as stack:
        locked = list(HELD.get())
        for output in written:
            if is_stream(output.path) or output.target in locked:
                continue
            stack.enter_context(_locked(output))
            locked.append(output.target)
        token = HELD.set(tuple(locked))
        try:
            yield
        finally:
            HELD.reset(token)


def check_folder(folder: Path, asked: str) -> None:
    """Check that a path may be made a folder of results, or is one.

    Raises:
        BadInput: A file is there, or the name is one of a file.
    """
    if folder.is_dir():
        return
    if folder.exists():
        raise BadInput(f"{asked} {folder} is a file, not a folder", hint="name a folder")
    if end := said_by(folder):
        raise BadInput(
            f"{asked} names a folder, and {folder} says {SAID[end]}",
            hint=f"{asked} {folder.name[: -len(end)]}",
        )


def _check_apart(outputs: list[Output], inputs: list[Path]) -> None:
    for number, output in enumerate(outputs):
        _check_name(output)
        for source in inputs:
            if same_file(output.path, source) and not is_stream(output.path):
                raise BadInput(
                    f"{output.asked} {output.path} would overwrite what the command reads"
                    + ("" if output.path == source else f": {source}"),
                    hint="choose another path",
                )
            if source.is_dir() and output.path.exists() and _is_among(output, source):
                raise BadInput(
                    f"{output.asked} {output.path} would overwrite a file of {source}, "
                    "which the command reads",
                    hint="choose a path outside",
                )
        for other in outputs[:number]:
            _check_pair(output, other)


def _check_name(output: Output) -> None:
    end, role = said_by(output.path), output.role
    if end and role.suffixes and end not in role.suffixes and not is_stream(output.path):
        raise BadInput(
            f"{output.asked} writes {role.what}, and {output.path} says {SAID[end]}",
            hint=f"{output.asked} {output.path.name[: -len(end)]}{role.suffixes[0]}",
        )


def _is_among(output: Output, folder: Path) -> bool:
    """Whether an output replaces what may be a file of a data set: not one that we write."""
    inside = output.target.is_relative_to(target_of(folder))
    return inside and said_by(output.path) not in output.role.suffixes


def _check_pair(one: Output, other: Output) -> None:
    if is_stream(one.path) or is_stream(other.path):
        return
    if same_file(one.path, other.path):
        raise BadInput(
            f"{other.asked} and {one.asked} would both write {one.path}",
            hint="choose different paths",
        )
    for inner, outer in ((one, other), (other, one)):
        if outer.target in inner.target.parents:
            raise BadInput(
                f"{outer.asked} {outer.path} would be a file, and {inner.asked} {inner.path} "
                "is to lie in it",
                hint="choose different paths",
            )


@contextmanager
def _locked(output: Output) -> Iterator[None]:
    """Hold the lock of an output; a folder made for it goes again if nothing came into it."""
    target = output.target
    path = target.with_name(f".{target.name}.lock")
    missing = [p for p in (target.parent, *target.parents[1:]) if not p.exists()]
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle = _take(path, output)
    except OSError as error:
        raise BadInput(f"cannot write {output.path}: {error.strerror}", hint=WRITE_HINT) from error
    try:
        sweep(target.parent, f".{target.name}.", ".tmp")
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(handle)
        for folder in missing:
            with contextlib.suppress(OSError):
                folder.rmdir()


def _take(path: Path, output: Output) -> int:
    end = time.monotonic() + (UPDATE_WAIT_S if output.role.waits else 0)
    while True:
        handle = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        free = hold(handle)
        if free and is_at(handle, path):
            return handle
        os.close(handle)
        if not free and time.monotonic() >= end:
            raise BadInput(
                f"{output.path} is being written by another sepdeploy",
                hint="wait until it is done, or choose another path",
            )
        if not free:
            time.sleep(0.02)
