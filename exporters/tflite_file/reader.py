"""Read .tflite files: metadata, operators, tensors and what constants weigh.

Files come from anywhere, so every offset is checked before it is followed, counts are bounded by
the file's size, and anything out of bounds is `BadInput`; no file can make a read run away.
"""

from __future__ import annotations

import mmap
import struct
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

from sepdeploy.errors import BadInput
from sepdeploy.exporters.tflite_file.schema import (
    CUSTOM_CODE,
    FILE_IDENTIFIER,
    MAX_FILE_BYTES,
    OPS,
    PLACEHOLDER_CODE,
    TYPE_NAMES,
)

Source = str | PathLike[str] | bytes

MAX_RANK = 16
_OP_NAMES = {schema.code: name for name, schema in OPS.items()}


@dataclass(frozen=True)
class TensorInfo:
    """One tensor. ``shape`` has -1 for open dimensions; ``constant_bytes`` is 0 if computed."""

    index: int
    name: str
    shape: tuple[int, ...]
    dtype: str
    buffer: int
    constant_bytes: int


@dataclass(frozen=True)
class OpInfo:
    """One operator: name (or custom name), version, tensor indices (-1: absent)."""

    kind: str
    version: int
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    custom: bool


@dataclass(frozen=True)
class TfliteFile:
    """What a .tflite file consists of (its first subgraph)."""

    tensors: tuple[TensorInfo, ...]
    ops: tuple[OpInfo, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    metadata: tuple[str, ...]

    def op_counts(self) -> Counter[str]:
        """Return how often each operator occurs."""
        return Counter(op.kind for op in self.ops)

    def constant_bytes(self, layer: str | None = None) -> int:
        """Return the bytes of constants, of one layer (by tensor name prefix) or of all.

        A buffer that several tensors share counts once.
        """
        own = {
            t.buffer: t.constant_bytes
            for t in self.tensors
            if layer is None or t.name == layer or t.name.startswith(f"{layer}/")
        }
        return sum(own.values())

    def float_constant_bytes(self, layer: str) -> int:
        """Return the bytes of a layer's floating-point constants, shared buffers once."""
        own = {
            t.buffer: t.constant_bytes
            for t in self.tensors
            if t.dtype.startswith("float") and t.name.startswith(f"{layer}/")
        }
        return sum(own.values())


def read_tflite(source: Source) -> TfliteFile:
    """Return the structure of a .tflite file.

    Args:
        source: Path, or the file's bytes.

    Raises:
        BadInput: Not a .tflite file, or one whose offsets do not hold.
    """
    with _opened(source) as data:
        model = _root(data)
        buffers = [_data_size(data, t) for t in model.tables(4)]
        graphs = model.tables(2)
        if not graphs:
            raise _broken("it has no subgraph")
        codes = [_operator_code(t) for t in model.tables(1)]
        graph = graphs[0]
        tensors = tuple(_tensor(i, t, buffers) for i, t in enumerate(graph.tables(0)))
        ops = tuple(_operator(t, codes, len(tensors)) for t in graph.tables(3))
        names = tuple(t.string(0) for t in model.tables(6))
        inputs = _indices(graph.ints(1), len(tensors))
        outputs = _indices(graph.ints(2), len(tensors))
        return TfliteFile(tensors, ops, inputs, outputs, names)


def read_metadata(source: Source, name: str) -> bytes | None:
    """Return a metadata entry of a .tflite file, or None where there is none of that name.

    Args:
        source: Path, or the file's bytes.
        name: Name of the entry (`METADATA_NAME` for ours).

    Raises:
        BadInput: Not a .tflite file, or one whose offsets do not hold.
    """
    with _opened(source) as data:
        model = _root(data)
        for entry in model.tables(6):
            if entry.string(0) != name:
                continue
            buffers = model.tables(4)
            index = entry.u32(1)
            if index >= len(buffers):
                raise _broken(f"metadata '{name}' points outside the buffers")
            return buffers[index].bytes(0)
        return None


def is_tflite(head: bytes) -> bool:
    """Whether a file that starts with these bytes (8 or more) says that it is a .tflite file."""
    return head[4:8] == FILE_IDENTIFIER


Data = bytes | mmap.mmap


@contextmanager
def _opened(source: Source) -> Iterator[Data]:
    if isinstance(source, bytes):
        yield source
        return
    path = Path(source)
    try:
        size = path.stat().st_size
        if size < 8:
            raise _broken(f"{path} has only {size} bytes")
        if size > MAX_FILE_BYTES:
            raise _broken(f"{path} is larger than 2 GiB")
        with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as m:
            yield m
    except OSError as error:
        raise BadInput(
            f"cannot read {path}: {error.strerror}", hint="check the path and its permissions"
        ) from error


def _broken(what: str) -> BadInput:
    return BadInput(
        f"not a usable .tflite file: {what}", hint="it may be truncated; export or copy it again"
    )


class _Table:
    """A flatbuffer table; reads only inside the file."""

    def __init__(self, data: Data, position: int) -> None:
        self.data = data
        self.position = position
        vtable = position - _unpack(data, "<i", position)
        self.slots = _unpack(data, "<H", vtable)
        if self.slots < 4 or self.slots % 2:
            raise _broken("a table has no valid list of fields")
        self.vtable = vtable

    def field(self, slot: int) -> int | None:
        """Return the position of a field, or None where it has its default."""
        at = 4 + 2 * slot
        if at + 2 > self.slots:
            return None
        offset = _unpack(self.data, "<H", self.vtable + at)
        return self.position + offset if offset else None

    def number(self, slot: int, form: str, default: int) -> int:
        position = self.field(slot)
        return default if position is None else _unpack(self.data, form, position)

    def u32(self, slot: int) -> int:
        return self.number(slot, "<I", 0)

    def vector(self, slot: int, width: int) -> tuple[int, int]:
        """Return the position of a vector's elements and their number (0, 0 where absent)."""
        position = self.field(slot)
        if position is None:
            return 0, 0
        start = position + _unpack(self.data, "<I", position)
        count = _unpack(self.data, "<I", start)
        if start + 4 + count * width > len(self.data):
            raise _broken("a vector reaches past its end")
        return start + 4, count

    def tables(self, slot: int) -> list[_Table]:
        start, count = self.vector(slot, 4)
        positions = [start + 4 * i for i in range(count)]
        return [_Table(self.data, p + _unpack(self.data, "<I", p)) for p in positions]

    def ints(self, slot: int) -> tuple[int, ...]:
        start, count = self.vector(slot, 4)
        return struct.unpack_from(f"<{count}i", self.data, start) if count else ()

    def bytes(self, slot: int) -> bytes:
        start, count = self.vector(slot, 1)
        return self.data[start : start + count]

    def string(self, slot: int) -> str:
        return self.bytes(slot).decode("utf-8", "replace")


def _unpack(data: Data, form: str, position: int) -> int:
    if position < 0 or position + struct.calcsize(form) > len(data):
        raise _broken("an offset points past its end")
    return int(struct.unpack_from(form, data, position)[0])


def _root(data: Data) -> _Table:
    if len(data) < 8 or not is_tflite(data[:8]):
        raise _broken("it lacks the identifier TFL3")
    return _Table(data, _unpack(data, "<I", 0))


def _data_size(data: Data, buffer: _Table) -> int:
    offset, size = buffer.number(1, "<Q", 0), buffer.number(2, "<Q", 0)
    if offset > 1:  # data kept behind the flatbuffer, as in files larger than 2 GiB
        if offset + size > len(data):
            raise _broken("a buffer reaches past its end")
        return size
    return buffer.vector(0, 1)[1]


def _operator_code(table: _Table) -> tuple[int, str, int]:
    old, new = table.number(0, "<b", 0), table.number(3, "<i", 0)
    code = max(old, new) if old != PLACEHOLDER_CODE else new
    return code, table.string(1), table.number(2, "<i", 1)


def _operator(table: _Table, codes: list[tuple[int, str, int]], tensors: int) -> OpInfo:
    index = table.u32(0)
    if index >= len(codes):
        raise _broken("an operator has no operator code")
    code, custom_name, version = codes[index]
    custom = code == CUSTOM_CODE
    kind = custom_name if custom else _OP_NAMES.get(code, f"BUILTIN_{code}")
    inputs, outputs = _indices(table.ints(1), tensors), _indices(table.ints(2), tensors)
    return OpInfo(kind, version, inputs, outputs, custom)


def _indices(indices: tuple[int, ...], tensors: int) -> tuple[int, ...]:
    if any(not -1 <= i < tensors for i in indices):
        raise _broken("an operator or the graph names a tensor that is not there")
    return indices


def _tensor(index: int, table: _Table, buffers: list[int]) -> TensorInfo:
    buffer = table.u32(2)
    if buffer >= len(buffers):
        raise _broken(f"tensor {index} points outside the buffers")
    shape = table.ints(7) or table.ints(0)
    if len(shape) > MAX_RANK:
        raise _broken(f"tensor {index} has {len(shape)} dimensions")
    dtype = TYPE_NAMES.get(table.number(1, "<b", 0), "unknown")
    return TensorInfo(index, table.string(3), shape, dtype, buffer, buffers[buffer])
