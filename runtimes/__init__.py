"""The runtimes that artifacts run in: ONNX Runtime, LiteRT and the older tflite-runtime."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

from sepdeploy.errors import AT_LEAST_ONE, PATH, BadInput, Missing, unknown_name
from sepdeploy.files import open_plain
from sepdeploy.runtimes.base import Session
from sepdeploy.runtimes.kinds import KINDS
from sepdeploy.runtimes.native.claims import SETUP, Claim
from sepdeploy.runtimes.runner.table import RUNTIMES, Runtime
from sepdeploy.runtimes.sibling import standard_sibling

__all__ = [
    "KINDS",
    "RUNTIMES",
    "Claim",
    "Runtime",
    "Session",
    "custom_nodes",
    "file_format",
    "installed",
    "open",
    "versions",
]


def versions() -> dict[str, str]:
    """Return name and version of every runtime that is installed and able to work."""
    return {name: found for name, r in RUNTIMES.items() if (found := r.version()) is not None}


def installed(format: str) -> tuple[str, ...]:
    """Return the names of the installed runtimes for "onnx" or "tflite" files, preferred first."""
    return tuple(name for name in versions() if RUNTIMES[name].format == format)


def file_format(path: str | os.PathLike[str]) -> str:
    """Return the name of a file's format, by its content first and its name second.

    Raises:
        BadInput: No such file, or neither format.
    """
    path = Path(path)
    try:
        with open_plain(path) as file:
            head = file.read(8)
    except OSError as error:
        raise BadInput(f"{path}: cannot be read: {error.strerror}", hint=PATH) from error
    for kind in KINDS.values():
        if kind.head(head) if kind.head else head and path.suffix == kind.suffix:
            return kind.name
    what = "is empty" if not head else "is neither an ONNX nor a TFLite file"
    raise BadInput(f"{path}: {what}", hint="expected a complete .onnx or .tflite file")


def choose(path: str | os.PathLike[str], runtime: str | None) -> str:
    """Return the runtime for a file: the one asked for, or the preferred installed one.

    Raises:
        BadInput: No such runtime, or it takes the other format.
        Missing: None is installed for that format.
    """
    if runtime is not None and runtime not in RUNTIMES:
        raise unknown_name("runtime", runtime, RUNTIMES)
    form = file_format(path)
    names = [name for name, r in RUNTIMES.items() if r.format == form]
    if runtime is None:
        found = installed(form)
        if not found:
            raise Missing(
                f"no runtime for .{form} files is installed", hint=RUNTIMES[names[0]].hint
            )
        return found[0]
    if runtime not in names:
        raise BadInput(
            f"{path}: {runtime} runs .{RUNTIMES[runtime].format} files, this is .{form}",
            hint=f"use --runtime {' or '.join(names)}",
        )
    return runtime


def custom_nodes(path: str | os.PathLike[str], runtime: str, *, native: bool = True) -> Claim:
    """Return what runs the nodes of ``ai.sepdeploy`` in a file.

    Native kernels, where they are built and fit; else the function bodies in an ONNX file, or slow
    kernels in Python for a TFLite file.

    Args:
        path: The file.
        runtime: A name of ``RUNTIMES``.
        native: Whether native kernels may run them.

    Raises:
        BadInput: The file is not readable, or there is no such runtime.
    """
    if runtime not in RUNTIMES:
        raise unknown_name("runtime", runtime, RUNTIMES)
    row = RUNTIMES[runtime]
    return KINDS[row.format].claim(Path(path), runtime, row.version(), wanted=native)


def open(
    path: str | os.PathLike[str],
    runtime: str | None = None,
    threads: int = 1,
    *,
    native: bool = True,
) -> Session:
    """Open an artifact in a runtime, inside this process.

    Files of doubtful origin belong in a child process: see ``sepdeploy.measure.run_job``.

    Args:
        path: The .onnx or .tflite file.
        runtime: A name of ``RUNTIMES``; by default the preferred installed one for the format.
        threads: How many threads the runtime may use.
        native: Let native kernels run the custom nodes, where they are built and fit the file;
            the session's ``note`` says what runs them.

    A TFLite file whose custom nodes nothing can run is replaced by the standard file of the same
    export, which its manifest names; the session's ``note`` and a warning say so.

    Raises:
        BadInput: The file, the runtime's name or the number of threads is not usable.
        Missing: The runtime is not installed, or cannot work with this numpy; or nothing can run
            the file's custom nodes and it has no standard sibling.
    """
    path = Path(path)
    name = choose(path, runtime)
    if threads < 1:
        raise BadInput(f"threads must be at least 1, found {threads}", hint=AT_LEAST_ONE)
    kind = KINDS[RUNTIMES[name].format]
    claimed = custom_nodes(path, name, native=native)
    if kind.bodies or not claimed.nodes or claimed.library:
        return kind.open(path, threads, name, claimed)
    sibling = standard_sibling(path)
    if sibling is None:
        raise Missing(f"{path}: {claimed.note}", hint=f"{SETUP}; or open the standard file")
    note = f"{path.name}: {claimed.note}; {sibling.name} runs in its place"
    warnings.warn(note, RuntimeWarning, stacklevel=2)
    return kind.open(sibling, threads, name, Claim(note=note))
