"""Find the embedded entry in a file without loading the model it holds.

Both formats are walked field by field on a memory map, every length checked against the file's
size: an .onnx of a gigabyte costs as little as a small one, and a hostile file costs an error.
"""

from __future__ import annotations

import mmap
import struct
from pathlib import Path
from typing import Any

from sepdeploy.errors import BadInput

ENTRY_NAME = b"sepdeploy"
MAX_ENTRY_BYTES = 64 << 20
TFLITE_MAGIC = b"TFL3"
MAX_METADATA = 4096

# Field numbers of onnx.ModelProto and onnx.StringStringEntryProto.
_METADATA_PROPS, _KEY, _VALUE = 14, 1, 2
_MODEL_FIELDS = {1, 2, 3, 4, 5, 6, 7, 8, 14, 20, 25, 26}
# Field slots of the TensorFlow Lite schema: tables Model, Metadata, Buffer.
_MODEL_BUFFERS, _MODEL_METADATA = 4, 6
_METADATA_NAME, _METADATA_BUFFER = 0, 1
_BUFFER_DATA, _BUFFER_OFFSET, _BUFFER_SIZE = 0, 1, 2

View = Any  # bytes-like: mmap or bytes


class _DamagedError(Exception):
    """An offset or a length that points outside the file."""


def find_entry(path: Path) -> bytes:
    """The entry's bytes.

    Raises:
        BadInput: Unreadable, neither format, damaged, or without an entry.
    """
    try:
        with path.open("rb") as stream:
            if stream.seek(0, 2) == 0:
                raise BadInput(f"{path} is empty")
            with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as view:
                return _find(view, path)
    except OSError as error:
        raise BadInput(
            f"cannot read {path}: {error.strerror or error}",
            hint="check the path and its permissions",
        ) from error


def _find(view: View, path: Path) -> bytes:
    tflite = view[4:8] == TFLITE_MAGIC
    try:
        found = _in_tflite(view) if tflite else _in_onnx(view)
    except (_DamagedError, struct.error) as error:
        kind = "TFLite" if tflite else "ONNX"
        raise BadInput(
            f"{path} is not a complete {kind} file",
            hint="it may be truncated: copy or export it again",
        ) from error
    if found is None:
        raise BadInput(
            f"{path} holds no sepdeploy entry",
            hint="only files written by sepdeploy carry one; export the model with sepdeploy",
        )
    return found


def _in_onnx(view: View) -> bytes | None:
    found = None
    for number, start, end in _fields(view, 0, len(view)):
        if number not in _MODEL_FIELDS:
            raise _DamagedError
        if number == _METADATA_PROPS and start >= 0:
            parts = {n: (s, e) for n, s, e in _fields(view, start, end) if n in (_KEY, _VALUE)}
            key, value = parts.get(_KEY, (0, 0)), parts.get(_VALUE, (0, 0))
            if min(*key, *value) >= 0 and view[key[0] : key[1]] == ENTRY_NAME:
                found = _cut(view, *value)
    return found


def _fields(view: View, position: int, end: int) -> Any:
    """Number, start and end of each protobuf field; start is -1 where it is a plain number."""
    while position < end:
        tag, position = _varint(view, position, end)
        number, kind = tag >> 3, tag & 7
        if kind == 0:
            _, position = _varint(view, position, end)
            yield number, -1, -1
        elif kind == 2:
            length, position = _varint(view, position, end)
            if length > end - position:
                raise _DamagedError
            yield number, position, position + length
            position += length
        elif kind in (1, 5):
            position += 8 if kind == 1 else 4
            yield number, -1, -1
        else:
            raise _DamagedError
    if position != end:
        raise _DamagedError


def _varint(view: View, position: int, end: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if position >= end:
            raise _DamagedError
        byte = view[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise _DamagedError


def _cut(view: View, start: int, end: int) -> bytes:
    if not 0 <= start <= end <= len(view) or end - start > MAX_ENTRY_BYTES:
        raise _DamagedError
    return bytes(view[start:end])


def _in_tflite(view: View) -> bytes | None:
    model = _follow(view, 0)
    buffers, count = _vector(view, model, _MODEL_BUFFERS, 4)
    metadata, entries = _vector(view, model, _MODEL_METADATA, 4)
    if entries > MAX_METADATA:
        raise _DamagedError
    for i in range(entries):
        table = _follow(view, metadata + 4 * i)
        name, length = _vector(view, table, _METADATA_NAME, 1)
        if _cut(view, name, name + length) == ENTRY_NAME:
            index = _scalar(view, table, _METADATA_BUFFER, "<I")
            if index >= count:
                raise _DamagedError
            return _buffer(view, _follow(view, buffers + 4 * index))
    return None


def _buffer(view: View, table: int) -> bytes:
    data, size = _vector(view, table, _BUFFER_DATA, 1)
    if size:
        return _cut(view, data, data + size)
    # Files above 2 GB keep buffers behind the flatbuffer, at an absolute offset.
    offset = _scalar(view, table, _BUFFER_OFFSET, "<Q")
    return _cut(view, offset, offset + _scalar(view, table, _BUFFER_SIZE, "<Q"))


def _unpack(view: View, layout: str, position: int) -> int:
    if not 0 <= position <= len(view) - struct.calcsize(layout):
        raise _DamagedError
    return int(struct.unpack_from(layout, view, position)[0])


def _follow(view: View, position: int) -> int:
    """Where the unsigned offset at ``position`` points."""
    return position + _unpack(view, "<I", position)


def _slot(view: View, table: int, slot: int) -> int:
    """Position of a table's field, 0 where it is absent."""
    vtable = table - _unpack(view, "<i", table)
    if 4 + 2 * slot + 2 > _unpack(view, "<H", vtable):
        return 0
    offset = _unpack(view, "<H", vtable + 4 + 2 * slot)
    return table + offset if offset else 0


def _scalar(view: View, table: int, slot: int, layout: str) -> int:
    position = _slot(view, table, slot)
    return _unpack(view, layout, position) if position else 0


def _vector(view: View, table: int, slot: int, width: int) -> tuple[int, int]:
    """Start and length of a vector or string field; length 0 where it is absent."""
    position = _slot(view, table, slot)
    if not position:
        return 0, 0
    start = _follow(view, position)
    length = _unpack(view, "<I", start)
    if length * width > len(view) - start - 4:
        raise _DamagedError
    return start + 4, length
