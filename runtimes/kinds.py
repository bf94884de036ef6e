"""What the files of each format are like to a runtime: how one is told, opened and filled in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from sepdeploy.flatbuffer import is_tflite
from sepdeploy.runtimes.base import Session
from sepdeploy.runtimes.litert import open_tflite
from sepdeploy.runtimes.native.claims import Claim, claim_onnx, claim_tflite
from sepdeploy.runtimes.ort import open_onnx


class Look(Protocol):
    """Tells what runs a file's custom nodes in a runtime of some version."""

    def __call__(self, path: Path, runtime: str, version: str | None, *, wanted: bool) -> Claim:
        """Return it; ``wanted`` is whether native kernels may."""
        ...


@dataclass(frozen=True)
class FileKind:
    """One format, as its runtimes see it.

    Attributes:
        name: Of the format, as ``Runtime.format`` has it.
        suffix: By which a file is told whose content does not tell.
        head: Tells a file by its first eight bytes, None where they do not tell.
        open: Opens a file: path, threads, runtime, and what runs its custom nodes.
        claim: Tells what runs them.
        bodies: Custom nodes carry functions of standard operators, so they run anywhere.
    """

    name: str
    suffix: str
    head: Callable[[bytes], bool] | None
    open: Callable[[Path, int, str, Claim], Session]
    claim: Look
    bodies: bool


KINDS: dict[str, FileKind] = {
    k.name: k
    for k in (
        FileKind("tflite", ".tflite", is_tflite, open_tflite, claim_tflite, bodies=False),
        FileKind("onnx", ".onnx", None, open_onnx, claim_onnx, bodies=True),
    )
}
