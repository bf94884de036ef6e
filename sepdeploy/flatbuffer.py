"""Just enough of the flatbuffer format to read TFLite files, every step checked.

The one reader of the bytes for whoever looks into a .tflite file, so that a session and an
inspection agree on what is damaged. Works without the flatbuffers package and on files of any
origin: an offset that points outside the file raises ``DamagedError``, never reads beyond it.
"""

from __future__ import annotations

import mmap
import struct

IDENTIFIER = b"TFL3"

# Field numbers of the TFLite schema's tables (their order in the schema).
MODEL_CODES, MODEL_GRAPHS, MODEL_BUFFERS, MODEL_METADATA = 1, 2, 4, 6
MODEL_DESCRIPTION, MODEL_SIGNATURES = 3, 7
METADATA_NAME, METADATA_BUFFER = 0, 1
BUFFER_DATA = 0

Data = bytes | mmap.mmap


class DamagedError(Exception):
    """An offset, a count or a text that cannot be; the message says which."""


def is_tflite(head: bytes) -> bool:
    """Whether a file that starts with these bytes (8 or more) says that it is a .tflite file."""
    return head[4:8] == IDENTIFIER


class Table:
    """A table of a flatbuffer: ``data`` is the whole file, ``at`` where the table stands.

    Raises:
        DamagedError: Its list of fields lies outside the file or makes no sense.
    """

    def __init__(self, data: Data, at: int) -> None:
        self.data = data
        self.at = at
        self._fields = at - _unpack("<i", data, at)
        self._size = _unpack("<H", data, self._fields)
        if self._size < 4 or self._size % 2:
            raise DamagedError("a table has no valid list of fields")

    @classmethod
    def root(cls, data: Data) -> Table:
        """Return the root table of a TFLite file.

        Raises:
            DamagedError: Not a TFLite file.
        """
        if not is_tflite(data[:8]):
            raise DamagedError("it lacks the identifier TFL3")
        return cls(data, _u32(data, 0))

    def field(self, number: int) -> int:
        """Return where a field's value stands, 0 when the table lacks it."""
        entry = 4 + 2 * number
        if entry + 2 > self._size:
            return 0
        offset = _unpack("<H", self.data, self._fields + entry)
        return self.at + offset if offset else 0

    def number(self, number: int, format: str = "<I", default: int = 0) -> int:
        """Return an integer field."""
        at = self.field(number)
        return _unpack(format, self.data, at) if at else default

    def vector(self, number: int, width: int) -> tuple[int, int]:
        """Return where the elements (of ``width`` bytes) start and how many; 0, 0 for none."""
        field = self.field(number)
        if not field:
            return 0, 0
        at = field + _u32(self.data, field)
        count = _u32(self.data, at)
        if at + 4 + count * width > len(self.data):
            raise DamagedError("a vector reaches past its end")
        return at + 4, count

    def tables(self, number: int) -> list[Table]:
        """Return the tables of a vector of tables."""
        start, count = self.vector(number, 4)
        places = range(start, start + 4 * count, 4)
        return [Table(self.data, at + _u32(self.data, at)) for at in places]

    def table(self, number: int) -> Table | None:
        """Return the table of a field, None when this table lacks it."""
        at = self.field(number)
        return Table(self.data, at + _u32(self.data, at)) if at else None

    def real(self, at: int) -> float:
        """Return the float32 that stands somewhere in the file."""
        _unpack("<i", self.data, at)  # within it
        return float(struct.unpack_from("<f", self.data, at)[0])

    def whole(self, at: int) -> int:
        """Return the int64 that stands somewhere in the file."""
        return _unpack("<q", self.data, at)

    def integers(self, number: int) -> tuple[int, ...]:
        """Return a vector of int32."""
        start, count = self.vector(number, 4)
        return struct.unpack_from(f"<{count}i", self.data, start) if count else ()

    def text(self, number: int) -> str:
        """Return a string, or a vector of bytes that holds UTF-8; "" when the table lacks it."""
        start, count = self.vector(number, 1)
        try:
            return self.data[start : start + count].decode()
        except UnicodeDecodeError as error:
            raise DamagedError("a text is not UTF-8") from error


def metadata(data: Data, name: str) -> str | None:
    """Return the text of a metadata entry, None when the file has none of that name.

    Raises:
        DamagedError: Not a TFLite file, its tables point outside it, or the entry is no text.
    """
    root = Table.root(data)
    for entry in root.tables(MODEL_METADATA):
        if entry.text(METADATA_NAME) == name:
            buffers = root.tables(MODEL_BUFFERS)
            index = entry.number(METADATA_BUFFER)
            if index >= len(buffers):
                raise DamagedError(f"metadata '{name}' points outside the buffers")
            return buffers[index].text(BUFFER_DATA)
    return None


def _unpack(format: str, data: Data, at: int) -> int:
    if at < 0 or at + struct.calcsize(format) > len(data):
        raise DamagedError("an offset points past its end")
    return int(struct.unpack_from(format, data, at)[0])


def _u32(data: Data, at: int) -> int:
    return _unpack("<I", data, at)
