"""Turn a TFLite graph into file bytes, without holding a second copy of the weights.

The flatbuffer itself (tables, names, shapes: a few kB) is built first, with every constant's data
vector pointing at a placeholder. Offsets in a flatbuffer may point forward to anywhere in the
file, so the weights are then laid out behind it, each at a multiple of 64 bytes, and the
placeholders are patched. The bytes depend on the graph alone.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sepdeploy.errors import BadInput
from sepdeploy.exporters.tflite_file.format.graph import (
    Array,
    Graph,
    Tensor,
)
from sepdeploy.exporters.tflite_file.format.schema import ALIGNMENT, MAX_FILE_BYTES
from sepdeploy.exporters.tflite_file.format.tables import TableWriter
from sepdeploy.exporters.tflite_file.format.traps import refuse_traps
from sepdeploy.files import atomic_path


@dataclass(frozen=True)
class Layout:
    """A file about to be written: the patched flatbuffer and where each constant's bytes go."""

    head: bytes
    blocks: tuple[tuple[int, Array | bytes], ...]  # position of the data, data

    @property
    def size(self) -> int:
        """Size of the whole file in bytes."""
        if not self.blocks:
            return len(self.head)
        position, data = self.blocks[-1]
        return position + _length(data)

    def chunks(self) -> Iterator[bytes | memoryview]:
        """Yield the file in order."""
        yield self.head
        at = len(self.head)
        for position, data in self.blocks:
            yield bytes(position - 4 - at) + struct.pack("<I", _length(data))
            yield data if isinstance(data, bytes) else data.data.cast("B")
            at = position + _length(data)


def write_file(
    graph: Graph, path: Path, *, metadata: Mapping[str, bytes], runtime: str = "litert"
) -> None:
    """Write a graph to a file atomically.

    Args:
        graph: The graph.
        path: The file.
        metadata: Named metadata entries of the file.
        runtime: The runtime whose operator versions bound the file's.

    Raises:
        BadInput: The file cannot be written, would exceed 2 GiB, or an operator is too new for
            the runtime.
    """
    layout = lay_out(graph, metadata=metadata, runtime=runtime)
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        for chunk in layout.chunks():
            stream.write(chunk)


def lay_out(graph: Graph, *, metadata: Mapping[str, bytes], runtime: str) -> Layout:
    """Build the flatbuffer and place the constants behind it.

    Raises:
        BadInput: As `write_file`, apart from the writing itself.
    """
    refuse_traps(graph, runtime)
    tensors = graph.tensors()
    constants, buffer_of = _distinct_buffers(tensors)
    blobs: list[Array | bytes] = [*constants, *metadata.values()]
    writer = TableWriter(runtime)
    head, fields = writer.model(
        graph, tensors, buffer_of, len(blobs), _entries(metadata, constants)
    )
    blocks = []
    at = len(head)
    for field_position, data in zip(fields, blobs, strict=True):
        position = -(-(at + 4) // ALIGNMENT) * ALIGNMENT
        if position + _length(data) > MAX_FILE_BYTES:
            raise BadInput(
                "the weights do not fit into a .tflite file, which ends at 2 GiB",
                hint="export to ONNX, or shrink the model with `sepdeploy compress`",
            )
        struct.pack_into("<I", head, field_position, position - 4 - field_position)
        blocks.append((position, data))
        at = position + _length(data)
    return Layout(bytes(head), tuple(blocks))


def _length(data: Array | bytes) -> int:
    return len(data) if isinstance(data, bytes) else data.nbytes


def _entries(metadata: Mapping[str, bytes], constants: Sequence[Array]) -> list[tuple[str, int]]:
    first = 1 + len(constants)  # buffer 0 is the empty one
    return [(name, first + i) for i, name in enumerate(metadata)]


def _same_bytes(array: Array, raw: Array) -> bool:
    return np.array_equal(array.view(np.uint8), raw)


def _distinct_buffers(tensors: Sequence[Tensor]) -> tuple[list[Array], dict[int, int]]:
    """Return the constants to store, equal bytes once, and each tensor's buffer index by id."""
    constants: list[Array] = []
    alike: dict[tuple[int, bytes, bytes], list[int]] = {}
    buffer_of: dict[int, int] = {}
    for tensor in tensors:
        if tensor.data is None:
            continue
        array = np.ascontiguousarray(tensor.data.astype(tensor.dtype, copy=False)).reshape(-1)
        raw = array.view(np.uint8)
        # Comparing all bytes of the few that look alike is cheaper than a digest of every one.
        found = alike.setdefault((raw.size, raw[:64].tobytes(), raw[-64:].tobytes()), [])
        index = next((i for i in found if _same_bytes(constants[i - 1], raw)), 0)
        if not index:
            constants.append(array)
            index = len(constants)
            found.append(index)
        buffer_of[id(tensor)] = index
    return constants, buffer_of
