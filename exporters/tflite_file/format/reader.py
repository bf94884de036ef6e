"""Read .tflite files: metadata, operators, tensors and what constants weigh.

Files come from anywhere, so every offset is checked before it is followed, counts are bounded by
the file's size, and anything out of bounds is `BadInput`; no file can make a read run away.
"""

from __future__ import annotations

import mmap
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

from sepdeploy.errors import BadInput
from sepdeploy.exporters.tflite_file.format.names import BUILTINS
from sepdeploy.exporters.tflite_file.format.schema import (
    CUSTOM_CODE,
    MAX_FILE_BYTES,
    PLACEHOLDER_CODE,
    TYPE_NAMES,
)
from sepdeploy.files import open_plain
from sepdeploy.flatbuffer import (
    BUFFER_DATA,
    MODEL_BUFFERS,
    MODEL_CODES,
    MODEL_DESCRIPTION,
    MODEL_GRAPHS,
    MODEL_METADATA,
    MODEL_SIGNATURES,
    DamagedError,
    Data,
    Table,
    metadata,
)

Source = str | PathLike[str] | bytes

MAX_RANK = 16


@dataclass(frozen=True)
class TensorInfo:
    """One tensor.

    ``shape`` has -1 for open dimensions, ``written`` the sizes that the file is laid out for;
    ``constant_bytes`` is 0 if computed. ``scales`` counts the scales of a quantised one, ``scale``
    and ``zero_point`` are the first.
    """

    index: int
    name: str
    shape: tuple[int, ...]
    dtype: str
    constant_bytes: int
    written: tuple[int, ...] = ()
    scales: int = 0
    scale: float = 0.0
    zero_point: int = 0


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
    """What a .tflite file consists of (its first subgraph).

    ``names`` are those of its only signature by tensor, ``others`` how often the operators of
    further subgraphs occur.
    """

    tensors: tuple[TensorInfo, ...]
    ops: tuple[OpInfo, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    metadata: tuple[str, ...]
    names: tuple[tuple[int, str], ...] = ()
    others: tuple[OpInfo, ...] = ()
    description: str = ""

    def op_counts(self) -> Counter[str]:
        """Return how often each operator occurs."""
        return Counter(op.kind for op in self.ops)


def read_tflite(source: Source) -> TfliteFile:
    """Return the structure of a .tflite file.

    Args:
        source: Path, or the file's bytes.

    Raises:
        BadInput: Not a .tflite file, or one whose offsets do not hold.
    """
    with _opened(source) as data:
        model = Table.root(data)
        buffers = [_data_size(data, t) for t in model.tables(MODEL_BUFFERS)]
        graphs = model.tables(MODEL_GRAPHS)
        if not graphs:
            raise DamagedError("it has no subgraph")
        codes = [_operator_code(t) for t in model.tables(MODEL_CODES)]
        graph = graphs[0]
        tensors = tuple(_tensor(i, t, buffers) for i, t in enumerate(graph.tables(0)))
        ops = tuple(_operator(t, codes, len(tensors)) for t in graph.tables(3))
        others = tuple(
            _operator(t, codes, len(g.tables(0))) for g in graphs[1:] for t in g.tables(3)
        )
        names = tuple(t.text(0) for t in model.tables(MODEL_METADATA))
        inputs = _indices(graph.integers(1), len(tensors))
        outputs = _indices(graph.integers(2), len(tensors))
        signature = _signature(model, len(tensors))
        told = model.text(MODEL_DESCRIPTION)
        return TfliteFile(tensors, ops, inputs, outputs, names, signature, others, told)


def read_metadata(source: Source, name: str) -> bytes | None:
    """Return a metadata entry of a .tflite file, or None where there is none of that name.

    Args:
        source: Path, or the file's bytes.
        name: Name of the entry (`METADATA_NAME` for ours).

    Raises:
        BadInput: Not a .tflite file, or one whose offsets do not hold.
    """
    with _opened(source) as data:
        found = metadata(data, name)
    return None if found is None else found.encode()


@contextmanager
def _opened(source: Source) -> Iterator[Data]:
    """Yield the file's bytes; damage found while they are read becomes `BadInput`."""
    try:
        if isinstance(source, bytes):
            yield source
        else:
            with _mapped(Path(source)) as data:
                yield data
    except DamagedError as error:
        raise BadInput(
            f"not a usable .tflite file: {error}",
            hint="it may be truncated; export or copy it again",
        ) from error


@contextmanager
def _mapped(path: Path) -> Iterator[Data]:
    try:
        size = path.stat().st_size
        if size < 8:
            raise DamagedError(f"{path} has only {size} bytes")
        if size > MAX_FILE_BYTES:
            raise DamagedError(f"{path} is larger than 2 GiB")
        with (
            open_plain(path) as stream,
            mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as m,
        ):
            yield m
    except OSError as error:
        raise BadInput(
            f"cannot read {path}: {error.strerror}", hint="check the path and its permissions"
        ) from error


def _data_size(data: Data, buffer: Table) -> int:
    offset, size = buffer.number(1, "<Q", 0), buffer.number(2, "<Q", 0)
    if offset > 1:  # data kept behind the flatbuffer, as in files larger than 2 GiB
        if offset + size > len(data):
            raise DamagedError("a buffer reaches past its end")
        return size
    return buffer.vector(BUFFER_DATA, 1)[1]


def _operator_code(table: Table) -> tuple[int, str, int]:
    old, new = table.number(0, "<b", 0), table.number(3, "<i", 0)
    code = max(old, new) if old != PLACEHOLDER_CODE else new
    return code, table.text(1), table.number(2, "<i", 1)


def _operator(table: Table, codes: list[tuple[int, str, int]], tensors: int) -> OpInfo:
    index = table.number(0)
    if index >= len(codes):
        raise DamagedError("an operator has no operator code")
    code, custom_name, version = codes[index]
    custom = code == CUSTOM_CODE
    known = BUILTINS[code] if 0 <= code < len(BUILTINS) else f"BUILTIN_{code}"
    kind = custom_name if custom else known
    inputs, outputs = _indices(table.integers(1), tensors), _indices(table.integers(2), tensors)
    return OpInfo(kind, version, inputs, outputs, custom)


def _indices(indices: tuple[int, ...], tensors: int) -> tuple[int, ...]:
    if any(not -1 <= i < tensors for i in indices):
        raise DamagedError("an operator or the graph names a tensor that is not there")
    return indices


def _tensor(index: int, table: Table, buffers: list[int]) -> TensorInfo:
    buffer = table.number(2)
    if buffer >= len(buffers):
        raise DamagedError(f"tensor {index} points outside the buffers")
    shape = table.integers(7) or table.integers(0)
    if len(shape) > MAX_RANK:
        raise DamagedError(f"tensor {index} has {len(shape)} dimensions")
    dtype = TYPE_NAMES.get(table.number(1, "<b", 0), "unknown")
    scales, scale, zero_point = _quantization(table)
    return TensorInfo(
        index, table.text(3), shape, dtype, buffers[buffer], table.integers(0),
        scales, scale, zero_point,
    )  # fmt: skip


def _quantization(tensor: Table) -> tuple[int, float, int]:
    """Return how many scales a tensor has, the first one and its zero point."""
    table = tensor.table(4)
    if table is None:
        return 0, 0.0, 0
    at, scales = table.vector(2, 4)
    zero_at, zeros = table.vector(3, 8)
    scale = table.real(at) if scales else 0.0
    return scales, scale, table.whole(zero_at) if zeros else 0


def _signature(model: Table, tensors: int) -> tuple[tuple[int, str], ...]:
    """Return the names that the only signature gives to inputs and outputs, by tensor."""
    signatures = model.tables(MODEL_SIGNATURES)
    if len(signatures) != 1:
        return ()
    ends = [*signatures[0].tables(0), *signatures[0].tables(1)]
    found = {end.number(1): end.text(0) for end in ends}
    return tuple((i, name) for i, name in found.items() if i < tensors)
