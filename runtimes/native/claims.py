"""What runs a file's custom nodes: native kernels, and what else where those are not to be had.

A runtime takes a registered kernel by the op's name alone; for a half-precision node ONNX Runtime
would refuse the whole file instead of falling back to the function body. So it is decided here,
before the runtime sees the file: kernels only for files whose custom nodes are all float32.
"""

from __future__ import annotations

import mmap
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from sepdeploy.errors import PATH, BadInput
from sepdeploy.files import open_plain
from sepdeploy.records import DOMAIN
from sepdeploy.runtimes.native.library import native_status
from sepdeploy.runtimes.native.proofs import REFERENCE, reference_works
from sepdeploy.runtimes.native.survey import OPS, Survey, survey_onnx, survey_tflite

CHUNK = 1 << 20
SETUP = "sepdeploy devices setup host"


@dataclass(frozen=True)
class Claim:
    """What runs the custom nodes of a file.

    Attributes:
        nodes: How many nodes of the domain it has.
        library: The native library that is to run them, "reference" for the kernels in Python;
            "" where an ONNX file's function bodies do, or nothing can run a TFLite file's.
        note: One line for people about what runs them, "" for a file without such nodes.
    """

    nodes: int = 0
    library: str = ""
    note: str = ""

    @property
    def kernels(self) -> str:
        """What kind of kernels: "native", "reference", or "" for none."""
        return "native" if self.library not in ("", REFERENCE) else self.library


def claim_onnx(path: Path, runtime: str, version: str | None, *, wanted: bool = True) -> Claim:
    """Return what runs the custom nodes of an ONNX file: native kernels or function bodies.

    Args:
        path: The file.
        runtime: "onnxruntime".
        version: Its installed version.
        wanted: Whether native kernels may run them at all.

    Raises:
        BadInput: The file is not readable.
    """
    found = _survey(path, (DOMAIN,), onnx=True)
    if not found.nodes:
        return Claim()
    library, reason = _native(runtime, version, wanted, found.reason)
    if library:
        return Claim(found.nodes, library, f"{_layers(found.nodes)} in native kernels")
    return Claim(found.nodes, "", f"{_layers(found.nodes)} as function bodies: {reason}")


def claim_tflite(path: Path, runtime: str, version: str | None, *, wanted: bool = True) -> Claim:
    """Return what runs the custom nodes of a TFLite file, which has nothing to fall back on.

    Args:
        path: The file.
        runtime: "litert" or "tflite-runtime".
        version: Its installed version.
        wanted: Whether native kernels may run them; else only those in Python.

    Raises:
        BadInput: The file is not readable.
    """
    found = _survey(path, OPS, onnx=False)
    if not found.nodes:
        return Claim()
    library, reason = _native(runtime, version, wanted, found.reason)
    if library:
        return Claim(found.nodes, library, f"{_layers(found.nodes)} in native kernels")
    if not found.reason and version is not None and reference_works(runtime, version):
        note = f"{_layers(found.nodes)} in slow reference kernels: {reason}"
        return Claim(found.nodes, REFERENCE, note)
    return Claim(found.nodes, "", f"no kernel runs its {found.nodes} custom layers: {reason}")


def _layers(nodes: int) -> str:
    return f"{nodes} layer{'s' if nodes != 1 else ''} run{'s' if nodes == 1 else ''}"


def _native(runtime: str, version: str | None, wanted: bool, reason: str) -> tuple[str, str]:
    """Return the native library, or "" and why it is not used."""
    if not wanted:
        return "", "as asked for"
    if reason:
        return "", reason
    found = native_status()
    if found.state == "off":
        return "", f"native kernels are switched off ({found.why})"
    if found.state != "ready":
        return "", f"native kernels are {found.state} ({found.why})"
    if found.runtimes.get(runtime) != version:
        return "", f"the native kernels are not proven in {runtime} {version} ({SETUP})"
    return found.path, ""


def _survey(path: Path, words: tuple[str, ...], *, onnx: bool) -> Survey:
    """Look into a file, but only where one of the words occurs in it at all."""
    try:
        with open_plain(path) as file:
            if not _occurs(file, [word.encode() for word in words]):
                return Survey()
            if not onnx:
                with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                    return survey_tflite(data)
    except ValueError:  # an empty file cannot be mapped
        return Survey()
    except OSError as error:
        raise BadInput(f"{path}: cannot be read: {error.strerror}", hint=PATH) from error
    return survey_onnx(path)


def _occurs(file: BinaryIO, words: list[bytes]) -> bool:
    """Whether a file has one of the words; it is read in pieces, so it takes no memory."""
    overlap = max(map(len, words)) - 1
    tail = b""
    while piece := file.read(CHUNK):
        text = tail + piece
        if any(word in text for word in words):
            return True
        tail = text[len(text) - overlap :]
    return False
