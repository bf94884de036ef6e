"""ONNX files in ONNX Runtime."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sepdeploy.errors import PATH, BadInput
from sepdeploy.files import file_beside, open_plain
from sepdeploy.runtimes.base import ENTRY_KEY, Session, translate
from sepdeploy.runtimes.native.claims import Claim
from sepdeploy.runtimes.runner.contract import RunnerError
from sepdeploy.runtimes.runner.table import load


def open_onnx(
    path: Path, threads: int = 1, runtime: str = "onnxruntime", claimed: Claim | None = None
) -> Session:
    """Open an ONNX file on the CPU.

    Args:
        path: The file.
        threads: How many threads the runtime may use.
        runtime: A name of ``RUNTIMES`` for .onnx files.
        claimed: What runs its custom nodes; by default their function bodies.

    Raises:
        BadInput: The file is damaged, refers to data outside its folder, or has several inputs.
        Missing: onnxruntime is not installed.
    """
    check_external_data(path)
    claimed = claimed or Claim()
    try:
        model = load(runtime, str(path), threads, claimed.library)
    except RunnerError as error:
        raise translate(error) from error
    return Session(
        path, model, threads, getattr(model, "metadata", {}).get(ENTRY_KEY), claimed.note
    )


def check_external_data(path: Path) -> None:
    """Refuse a file whose tensors lie outside its own folder.

    ONNX Runtime refuses absolute paths, ``..`` and symbolic links by itself, but not hard links;
    all four are refused here, before it sees the file.

    Raises:
        BadInput: Naming the tensor and the location.
    """
    if not _mentions(path, b"location"):  # parsing is needed only where the key occurs at all
        return
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load(str(path), load_external_data=False)
    except DecodeError as error:
        raise BadInput(f"{path}: not a readable ONNX file", hint="is it complete?") from error
    for name, location in _locations(model):
        file_beside(path, location, what=f"tensor '{name}'")


def _mentions(path: Path, word: bytes) -> bool:
    try:
        with open_plain(path) as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return data.find(word) >= 0
    except ValueError:  # an empty file cannot be mapped
        return False
    except OSError as error:
        raise BadInput(f"{path}: cannot be read: {error.strerror}", hint=PATH) from error


def _locations(message: Any) -> Iterator[tuple[str, str]]:
    """Yield (tensor name, location) of every external tensor anywhere in a protobuf message."""
    if message.DESCRIPTOR.name == "TensorProto":
        for entry in message.external_data:
            if entry.key == "location":
                yield message.name, entry.value
        return
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        for child in value if hasattr(value, "__len__") else (value,):
            yield from _locations(child)
