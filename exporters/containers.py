"""Find the embedded entry in a file without loading the model it holds.

An .onnx file is walked field by field on a memory map, every length checked against the file's
size: a gigabyte costs as little as a small file, and a hostile file costs an error.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path

from sepdeploy.errors import NEW_FILE, BadInput
from sepdeploy.exporters.formats import ONNX, told_format
from sepdeploy.exporters.tflite_file.format.reader import read_metadata
from sepdeploy.files import open_plain

ENTRY_NAME = "sepdeploy"
MAX_ENTRY_BYTES = 64 << 20
MAX_FIELDS = 1 << 16  # a graph is one field: no real model has many

# Field numbers of onnx.ModelProto and onnx.StringStringEntryProto.
_METADATA_PROPS, _KEY, _VALUE = 14, 1, 2
_MODEL_FIELDS = {1, 2, 3, 4, 5, 6, 7, 8, 14, 20, 25, 26}

View = mmap.mmap | bytes


class _DamagedError(Exception):
    """An offset or a length that points outside the file."""


def find_entry(path: Path) -> bytes:
    """The entry's bytes.

    Raises:
        BadInput: Unreadable, of no format, damaged, or without an entry.
    """
    found = look_for_entry(path)
    if found is None:
        raise BadInput(
            f"{path} holds no sepdeploy entry",
            hint="only files written by sepdeploy carry one; export the model with sepdeploy",
        )
    return found


def look_for_entry(path: Path) -> bytes | None:
    """The entry's bytes, None where there is none.

    Raises:
        BadInput: Unreadable, of no format, or damaged.
    """
    try:
        with open_plain(path) as stream:
            head = stream.read(8)
        if not head:
            raise BadInput(f"{path} is empty", hint=NEW_FILE)
        return (told_format(path, head) or ONNX).entry(path)
    except OSError as error:
        raise BadInput(
            f"cannot read {path}: {error.strerror or error}",
            hint="check the path and its permissions",
        ) from error


def tflite_entry(path: Path) -> bytes | None:
    """The entry of a .tflite file.

    Raises:
        BadInput: Damaged.
    """
    try:
        return read_metadata(path, ENTRY_NAME)
    except BadInput as error:
        raise BadInput(f"{path}: {error.message}", hint=error.hint) from error


def onnx_entry(path: Path) -> bytes | None:
    """The entry of an .onnx file.

    Raises:
        BadInput: Damaged.
    """
    try:
        with (
            open_plain(path) as stream,
            mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as view,
        ):
            return _in_onnx(view)
    except _DamagedError as error:
        raise BadInput(
            f"{path} is not a complete ONNX file",
            hint="it may be truncated: copy or export it again",
        ) from error


def _in_onnx(view: View) -> bytes | None:
    found = None
    for number, start, end in _fields(view, 0, len(view)):
        if number not in _MODEL_FIELDS:
            raise _DamagedError
        if number == _METADATA_PROPS and start >= 0:
            parts = {n: (s, e) for n, s, e in _fields(view, start, end) if n in (_KEY, _VALUE)}
            key, value = parts.get(_KEY, (0, 0)), parts.get(_VALUE, (0, 0))
            if min(*key, *value) >= 0 and view[key[0] : key[1]] == ENTRY_NAME.encode():
                found = _cut(view, *value)
    return found


def _fields(view: View, position: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Number, start and end of each protobuf field; start is -1 where it is a plain number."""
    for _ in range(MAX_FIELDS):
        if position == end:
            return
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
        if position > end:
            raise _DamagedError
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
