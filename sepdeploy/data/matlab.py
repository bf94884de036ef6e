"""Numeric arrays from MATLAB 5 files (``.mat``), enough of the format for data sets.

A file is a 128-byte header and a row of elements; an element is a tag (type, bytes) and data
padded to 8 bytes. Small data stand inside the tag. An array (type 14) consists of flags, its
dimensions, a name and its values in column-major order; it may be deflated (type 15).

A file may come from anybody, and a deflated one says little by its size: what it asks for is
counted before it is given.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sepdeploy.errors import BadInput
from sepdeploy.files import read_bytes

MAX_BYTES = 1 << 29  # of a file, and of all that it inflates to; SVHN's training images: 2.3e8
MAX_ELEMENTS = 1 << 10
MAX_DIMENSIONS, MAX_NAME = 32, 63
HEADER, TAG = 128, 8
FIRST = 1 << 10  # bytes of a deflated element that hold the tag of what is in it
MATRIX, DEFLATED = 14, 15
NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8",
           13: "u8"}  # fmt: skip


def read_arrays(path: Path) -> dict[str, npt.NDArray[np.generic]]:
    """Return the numeric arrays of a file by name; anything else in it is passed over.

    Raises:
        BadInput: Unreadable, of another version, damaged or truncated.
    """
    data = memoryview(read_bytes(path, limit=MAX_BYTES))
    if bytes(data[:8]) == b"\x89HDF\r\n\x1a\n" or bytes(data[:10]) == b"MATLAB 7.3":
        raise BadInput(f"{path}: a MATLAB 7.3 file", hint="save it with -v7 or older")
    if len(data) < HEADER or bytes(data[126:128]) not in (b"IM", b"MI"):
        raise BadInput(f"{path}: not a MATLAB 5 file", hint="fetch the file again")
    order = "<" if bytes(data[126:128]) == b"IM" else ">"
    try:
        return dict(_matrices(data[HEADER:], order))
    except (struct.error, zlib.error, ValueError, IndexError) as error:
        raise BadInput(f"{path}: damaged ({error})", hint="fetch the file again") from error
    except (MemoryError, RecursionError, OverflowError) as error:
        raise BadInput(f"{path}: too large for memory", hint="fetch the file again") from error


def _matrices(data: memoryview, order: str) -> Iterator[tuple[str, npt.NDArray[np.generic]]]:
    left = MAX_BYTES
    for number, (kind, body) in enumerate(_elements(data, order)):
        if number == MAX_ELEMENTS:
            raise ValueError(f"more than {MAX_ELEMENTS} elements")
        if kind == DEFLATED:
            kind, body = _inflated(body, order, left)
            left -= len(body)
        array = _matrix(body, order) if kind == MATRIX else None
        if array is not None:
            yield array


def _inflated(packed: memoryview, order: str, most: int) -> tuple[int, memoryview]:
    """Return the only element of a deflated one, if that is an array of at most ``most`` bytes."""
    tag = zlib.decompressobj().decompress(packed[:FIRST], TAG)
    if len(tag) < TAG:
        raise ValueError("a deflated array is cut off")
    kind, size = struct.unpack(f"{order}II", tag)
    if kind == DEFLATED:
        raise ValueError("a deflated element inside a deflated one")
    if kind != MATRIX:
        return kind, memoryview(b"")
    if size > most:
        raise ValueError(f"more than {MAX_BYTES} bytes of arrays")
    engine = zlib.decompressobj()
    whole = memoryview(engine.decompress(packed, TAG + size + TAG))  # room for padding
    if len(whole) < TAG + size or not engine.eof:
        raise ValueError("a deflated array is cut off, or longer than it says")
    return kind, whole[TAG : TAG + size]


def _matrix(body: memoryview, order: str) -> tuple[str, npt.NDArray[np.generic]] | None:
    parts = list(islice(_elements(body, order), 5))
    if len(parts) != 4 or parts[3][0] not in NUMBERS:
        return None  # text, cells, structures, complex numbers
    if len(parts[1][1]) > 4 * MAX_DIMENSIONS:
        raise ValueError(f"an array of more than {MAX_DIMENSIONS} dimensions")
    shape = struct.unpack(f"{order}{len(parts[1][1]) // 4}i", parts[1][1])
    values = np.frombuffer(parts[3][1], dtype=order + NUMBERS[parts[3][0]])
    if any(n < 0 for n in shape) or math.prod(shape) != len(values):
        raise ValueError(f"an array of {shape} with {len(values)} values")
    name = bytes(parts[2][1][:MAX_NAME]).decode("ascii", "replace")
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
