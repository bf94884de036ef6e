"""Just enough of the flatbuffer format to find a TFLite file's metadata, every step checked.

Works without the flatbuffers package and on files of any origin: an offset that points outside the
file raises ``DamagedError``, never reads beyond it.
"""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass

IDENTIFIER = b"TFL3"

# Field numbers of the TFLite schema's tables (their order in the schema).
MODEL_BUFFERS, MODEL_METADATA = 4, 6
METADATA_NAME, METADATA_BUFFER = 0, 1
BUFFER_DATA = 0

Data = bytes | mmap.mmap


class DamagedError(Exception):
    """An offset, a count or a text that cannot be."""


@dataclass(frozen=True)
class Table:
    """A table of a flatbuffer: ``data`` is the whole file, ``at`` where the table stands."""

    data: Data
    at: int

    @classmethod
    def root(cls, data: Data) -> Table:
        """Return the root table of a TFLite file.

        Raises:
            DamagedError: Not a TFLite file.
        """
        if data[4:8] != IDENTIFIER:
            raise DamagedError
        return cls(data, _u32(data, 0))

    def field(self, number: int) -> int:
        """Return where a field's value stands, 0 when the table lacks it."""
        vtable = self.at - _unpack("<i", self.data, self.at)
        size = _unpack("<H", self.data, vtable)
        if size < 4:
            raise DamagedError
        if 4 + 2 * number + 2 > size:
            return 0
        offset = _unpack("<H", self.data, vtable + 4 + 2 * number)
        return self.at + offset if offset else 0

    def number(self, number: int, format: str = "<I", default: int = 0) -> int:
        """Return an integer field."""
        at = self.field(number)
        return _unpack(format, self.data, at) if at else default

    def vector(self, number: int) -> int:
        """Return where a vector (its length first) stands, 0 when the table lacks it."""
        at = self.field(number)
        return at + _u32(self.data, at) if at else 0

    def tables(self, number: int) -> list[Table]:
        """Return the tables of a vector of tables."""
        at = self.vector(number)
        if not at:
            return []
        count = _count(self.data, at, 4)
        starts = range(at + 4, at + 4 + 4 * count, 4)
        return [Table(self.data, start + _u32(self.data, start)) for start in starts]

    def text(self, number: int) -> str:
        """Return a string, or a vector of bytes that holds UTF-8."""
        at = self.vector(number)
        if not at:
            return ""
        try:
            return self.data[at + 4 : at + 4 + _count(self.data, at, 1)].decode()
        except UnicodeDecodeError as error:
            raise DamagedError from error


def metadata(data: Data, name: str) -> str | None:
    """Return the text of a metadata entry, None when the file has none of that name.

    Raises:
        DamagedError: Not a TFLite file, or its tables point outside it.
    """
    root = Table.root(data)
    for entry in root.tables(MODEL_METADATA):
        if entry.text(METADATA_NAME) == name:
            buffers = root.tables(MODEL_BUFFERS)
            index = entry.number(METADATA_BUFFER)
            if index >= len(buffers):
                raise DamagedError
            return buffers[index].text(BUFFER_DATA)
    return None


def _unpack(format: str, data: Data, at: int) -> int:
    if at < 0:
        raise DamagedError
    try:
        value: int = struct.unpack_from(format, data, at)[0]
    except struct.error as error:
        raise DamagedError from error
    return value


def _u32(data: Data, at: int) -> int:
    return _unpack("<I", data, at)


def _count(data: Data, at: int, width: int) -> int:
    """Return the length of the vector at ``at``, which must lie within the file."""
    count = _u32(data, at)
    if at + 4 + count * width > len(data):
        raise DamagedError
    return count
