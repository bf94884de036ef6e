"""TFLite files in LiteRT or in the older tflite-runtime."""

from __future__ import annotations

import struct
from pathlib import Path

from sepdeploy.errors import BadInput
from sepdeploy.runtimes.base import ENTRY_KEY, OpenSession, translate
from sepdeploy.runtimes.runner import RunnerError, TfliteModel

# Field numbers of the TFLite schema's tables.
MODEL_BUFFERS, MODEL_METADATA = 4, 6
METADATA_NAME, METADATA_BUFFER = 0, 1
BUFFER_DATA = 0


def open_tflite(path: Path, threads: int = 1, runtime: str = "litert") -> OpenSession:
    """Open a TFLite file on the CPU; the caller's batches stay NCHW and float32.

    Raises:
        BadInput: The file is damaged or has several inputs.
        Missing: The runtime is not installed, or cannot work with this numpy.
    """
    try:
        entry = read_metadata(path, ENTRY_KEY)
        model = TfliteModel(str(path), threads, runtime)
    except RunnerError as error:
        raise translate(error) from error
    return OpenSession(path, model, threads, entry)


def read_metadata(path: Path, name: str) -> str | None:
    """Return the text of a metadata entry of a TFLite file, None when it has none of that name.

    Raises:
        BadInput: Not a TFLite file, or its tables point outside it.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BadInput(f"{path}: cannot be read: {error.strerror}") from error
    if data[4:8] != b"TFL3":
        raise BadInput(f"{path}: not a TFLite file", hint="is it complete?")
    try:
        root = _u32(data, 0)
        metadata, buffers = _field(data, root, MODEL_METADATA), _field(data, root, MODEL_BUFFERS)
        if not metadata or not buffers:
            return None
        for entry in _tables(data, metadata):
            at = _field(data, entry, METADATA_NAME)
            if at and _bytes(data, at).decode() == name:
                index = _field(data, entry, METADATA_BUFFER, indirect=False)
                number = _u32(data, index) if index else 0
                content = _field(data, _tables(data, buffers)[number], BUFFER_DATA)
                return _bytes(data, content).decode() if content else ""
    except (struct.error, IndexError, UnicodeDecodeError) as error:
        raise BadInput(f"{path}: its tables are damaged", hint="is it complete?") from error
    return None


def _u32(data: bytes, at: int) -> int:
    value: int = struct.unpack_from("<I", data, at)[0]
    return value


def _field(data: bytes, table: int, number: int, *, indirect: bool = True) -> int:
    """Return where a table's field stands (what it points to, if ``indirect``); 0 when absent."""
    vtable = table - struct.unpack_from("<i", data, table)[0]
    if vtable < 0 or 4 + 2 * number + 2 > struct.unpack_from("<H", data, vtable)[0]:
        return 0
    offset = struct.unpack_from("<H", data, vtable + 4 + 2 * number)[0]
    if not offset:
        return 0
    at: int = table + offset
    return at + _u32(data, at) if indirect else at


def _tables(data: bytes, vector: int) -> list[int]:
    """Return where the tables of a vector stand."""
    count = _u32(data, vector)
    if vector + 4 + 4 * count > len(data):
        raise IndexError
    starts = range(vector + 4, vector + 4 + 4 * count, 4)
    return [at + _u32(data, at) for at in starts]


def _bytes(data: bytes, vector: int) -> bytes:
    count = _u32(data, vector)
    if vector + 4 + count > len(data):
        raise IndexError
    return data[vector + 4 : vector + 4 + count]
