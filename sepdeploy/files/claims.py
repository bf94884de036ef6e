"""What a command may write: never over what it reads, never twice, never while another writes it.

A command's options say what they are with ``Reads`` and ``Writes``. Before anything runs, the
files behind all of them are checked and those to be written are locked (``claimed``).
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

from sepdeploy.errors import BadInput
from sepdeploy.files.roles import SAID, Reads, Values, Writes, said_by
from sepdeploy.files.scratch import hold, is_at, sweep
from sepdeploy.files.writing import WRITE_HINT, check_writable, is_stream, target_of

UPDATE_WAIT_S = 60.0  # for another update of the same file


@dataclass(frozen=True)
class Output:
    """One file to be written, and what asked for it.

    ``named`` tells that a person chose its name; others are written beside that.
    """

    path: Path
    role: Writes
    asked: str
    named: bool = True

    @property
    def target(self) -> Path:
        """The file itself, behind all links."""
        return target_of(self.path)


def same_file(a: Path, b: Path) -> bool:
    """Return whether two paths lead to one file, by links of any kind or in other letters."""
    if target_of(a) == target_of(b):
        return True
    with contextlib.suppress(OSError):
        return a.samefile(b)
    return False


HELD: ContextVar[tuple[Path, ...]] = ContextVar("HELD", default=())


def outputs_of(role: Writes, path: Path, asked: str = "out") -> list[Output]:
    """Return everything that is written with an output of a role."""
    return [Output(file, role, asked, file == path) for file in role.files(path, {})]


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


@contextmanager
def command_claimed(
    roles: Mapping[str, tuple[str, Reads | Writes]], values: Values
) -> Iterator[None]:
    """Claim the files behind the options of a command.

    Args:
        roles: By the name of an option: how it is typed, and what it is.
        values: What was given.

    Raises:
        BadInput: As ``claimed``; or a folder that is a file.
    """
    outputs: list[Output] = []
    inputs: list[Path] = []
    for name, (asked, role) in roles.items():
        if isinstance(role, Reads):
            inputs += role.files(values[name], values)
            continue
        if role.folder and values[name] is not None:
            check_folder(Path(values[name]), asked)
        files = role.files(values[name], values)
        outputs += (Output(path, role, asked, str(path) == str(values[name])) for path in files)
    with claimed(outputs, inputs):
        yield


def refuse_written(path: Path) -> None:
    """Refuse to read what the running command writes: where its options do not name it.

    Raises:
        BadInput: It does.
    """
    if any(same_file(path, held) for held in HELD.get()):
        raise BadInput(
            f"{path} is what the command reads and would write", hint="choose another output"
        )


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
            hint=f"{asked} {quote(str(folder)[: -len(end)])}",
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
    end, role = said_by(output.path) if output.named else "", output.role
    if end and role.suffixes and end not in role.suffixes and not is_stream(output.path):
        raise BadInput(
            f"{output.asked} writes {role.what}, and {output.path} says {SAID[end]}",
            hint=f"{output.asked} {quote(str(output.path)[: -len(end)] + role.suffixes[0])}",
        )


def _is_among(output: Output, folder: Path) -> bool:
    """Whether an output replaces what may be a file of a data set: not one that we write."""
    inside = output.target.is_relative_to(target_of(folder))
    return inside and output.named and said_by(output.path) not in output.role.suffixes


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
