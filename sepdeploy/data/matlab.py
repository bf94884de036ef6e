"""Numeric arrays from MATLAB 5 files (``.mat``), enough of the format for data sets.

A file is a 128-byte header and a row of elements; an element is a tag (type, bytes) and data
padded to 8 bytes. Small data stand inside the tag. An array (type 14) consists of flags, its
dimensions, a name and its values in column-major order; it may be deflated (type 15).
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sepdeploy.errors import BadInput
from sepdeploy.files import read_bytes

MAX_FILE = 1 << 31
MAX_ARRAY = 1 << 32
HEADER = 128
MATRIX, DEFLATED = 14, 15
NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8",
           13: "u8"}  # fmt: skip


def read_arrays(path: Path) -> dict[str, npt.NDArray[np.generic]]:
    """Return the numeric arrays of a file by name; anything else in it is passed over.

    Raises:
        BadInput: Unreadable, of another version, damaged or truncated.
    """
    data = memoryview(read_bytes(path, limit=MAX_FILE))
    if bytes(data[:8]) == b"\x89HDF\r\n\x1a\n" or bytes(data[:10]) == b"MATLAB 7.3":
        raise BadInput(f"{path}: a MATLAB 7.3 file", hint="save it with -v7 or older")
    if len(data) < HEADER or bytes(data[126:128]) not in (b"IM", b"MI"):
        raise BadInput(f"{path}: not a MATLAB 5 file", hint="fetch the file again")
    order = "<" if bytes(data[126:128]) == b"IM" else ">"
    try:
        return dict(_matrices(data[HEADER:], order))
    except (struct.error, zlib.error, ValueError, IndexError) as error:
        raise BadInput(f"{path}: damaged ({error})", hint="fetch the file again") from error


def _matrices(data: memoryview, order: str) -> Iterator[tuple[str, npt.NDArray[np.generic]]]:
    for kind, body in _elements(data, order):
        if kind == DEFLATED:
            engine = zlib.decompressobj()
            inflated = engine.decompress(body, MAX_ARRAY)
            if not engine.eof:
                raise ValueError("a deflated array is cut off or too large")
            yield from _matrices(memoryview(inflated), order)
        elif kind == MATRIX:
            found = _matrix(body, order)
            if found is not None:
                yield found


def _matrix(body: memoryview, order: str) -> tuple[str, npt.NDArray[np.generic]] | None:
    parts = list(_elements(body, order))
    if len(parts) < 4 or parts[3][0] not in NUMBERS or len(parts) > 4:
        return None  # text, cells, structures, complex numbers
    shape = struct.unpack(f"{order}{len(parts[1][1]) // 4}i", parts[1][1])
    values = np.frombuffer(parts[3][1], dtype=order + NUMBERS[parts[3][0]])
    if any(n < 0 for n in shape) or math.prod(shape) != len(values):
        raise ValueError(f"an array of {shape} with {len(values)} values")
    name = bytes(parts[2][1]).decode("ascii", "replace")
    return name, values.reshape(shape, order="F")


def _elements(data: memoryview, order: str) -> Iterator[tuple[int, memoryview]]:
    at = 0
    while at + 8 <= len(data):
        kind, size = struct.unpack_from(f"{order}II", data, at)
        if kind >> 16:  # small: the size stands in the upper half, the data in the tag
            kind, size, start, end = kind & 0xFFFF, kind >> 16, at + 4, at + 8
            if size > 4:
                raise ValueError("a small element of more than 4 bytes")
        else:
            start = at + 8
            end = start + size + (-size % 8 if kind != DEFLATED else 0)
        if start + size > len(data):
            raise ValueError("an element goes past the end")
        yield kind, data[start : start + size]
        at = end
