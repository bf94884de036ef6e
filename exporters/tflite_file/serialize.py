"""Turn a TFLite graph into file bytes, without holding a second copy of the weights.

The flatbuffer itself (tables, names, shapes: a few kB) is built first, with every constant's data
vector pointing at a placeholder. Offsets in a flatbuffer may point forward to anywhere in the
file, so the weights are then laid out behind it, each at a multiple of 64 bytes, and the
placeholders are patched. The bytes depend on the graph alone.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np

from sepdeploy.errors import BadInput
from sepdeploy.exporters.tflite_file.graph import (
    Array,
    Graph,
    Op,
    Quantization,
    Tensor,
    concrete,
    signature,
)
from sepdeploy.exporters.tflite_file.schema import (
    ACTIVATIONS,
    ALIGNMENT,
    FILE_IDENTIFIER,
    MAX_FILE_BYTES,
    OPS,
    PADDINGS,
    PLACEHOLDER_CODE,
    SCHEMA_VERSION,
    TENSOR_TYPES,
    Field,
    tensor_type,
)
from sepdeploy.exporters.tflite_file.traps import refuse_traps
from sepdeploy.exporters.tflite_file.versions import op_version
from sepdeploy.files import atomic_path

DESCRIPTION = "sepdeploy"
SIGNATURE_KEY = "serving_default"


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
    graph: Graph, path: Path, *, metadata: Mapping[str, bytes], target: str = "litert"
) -> None:
    """Write a graph to a file atomically.

    Args:
        graph: The graph.
        path: The file.
        metadata: Named metadata entries of the file.
        target: The runtime whose operator versions bound the file's.

    Raises:
        BadInput: The file cannot be written, would exceed 2 GiB, or an operator is too new for
            the target.
    """
    layout = lay_out(graph, metadata=metadata, target=target)
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        for chunk in layout.chunks():
            stream.write(chunk)


def to_bytes(graph: Graph, *, metadata: Mapping[str, bytes], target: str = "litert") -> bytes:
    """Return the file's bytes; for small graphs and tests."""
    return b"".join(lay_out(graph, metadata=metadata, target=target).chunks())


def lay_out(graph: Graph, *, metadata: Mapping[str, bytes], target: str) -> Layout:
    """Build the flatbuffer and place the constants behind it.

    Raises:
        BadInput: As `write_file`, apart from the writing itself.
    """
    refuse_traps(graph, target)
    tensors = graph.tensors()
    constants, buffer_of = _distinct_buffers(tensors)
    blobs: list[Array | bytes] = [*constants, *metadata.values()]
    writer = _Writer(target)
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


def _distinct_buffers(tensors: Sequence[Tensor]) -> tuple[list[Array], dict[int, int]]:
    """Return the constants to store, equal bytes once, and each tensor's buffer index by id."""
    constants: list[Array] = []
    index_of: dict[bytes, int] = {}
    buffer_of: dict[int, int] = {}
    for tensor in tensors:
        if tensor.data is None:
            continue
        array = np.ascontiguousarray(tensor.data.astype(tensor.dtype, copy=False)).reshape(-1)
        key = hashlib.sha256(array.data.cast("B") if array.size else b"").digest()
        if key not in index_of:
            constants.append(array)
            index_of[key] = len(constants)
        buffer_of[id(tensor)] = index_of[key]
    return constants, buffer_of


class _Writer:
    """Builds the tables back to front, as flatbuffers require."""

    def __init__(self, target: str) -> None:
        self.target = target
        self.b = flatbuffers.Builder(1 << 14)

    def model(
        self,
        graph: Graph,
        tensors: Sequence[Tensor],
        buffer_of: Mapping[int, int],
        blobs: int,
        entries: Sequence[tuple[str, int]],
    ) -> tuple[bytearray, list[int]]:
        """Return the flatbuffer and the position of each blob's offset field in it."""
        b = self.b
        placeholder = self.numbers([], np.uint8)
        buffers = [self.table(1, [])]
        buffers += [self.table(1, [("offset", 0, placeholder)]) for _ in range(blobs)]
        codes, code_of = self.operator_codes(graph)
        index = {id(t): i for i, t in enumerate(tensors)}
        subgraph = self.subgraph(graph, tensors, buffer_of, index, code_of)
        signature_def = self.signature_def(graph, index)
        named = [
            self.table(2, [("offset", 0, b.CreateString(name)), ("u32", 1, buffer)])
            for name, buffer in entries
        ]
        fields = [
            ("u32", 0, SCHEMA_VERSION),
            ("offset", 1, self.offsets(codes)),
            ("offset", 2, self.offsets([subgraph])),
            ("offset", 3, b.CreateString(DESCRIPTION)),
            ("offset", 4, self.offsets(buffers)),
            ("offset", 6, self.offsets(named)),
            ("offset", 7, self.offsets([signature_def])),
        ]
        b.Finish(self.table(8, fields), FILE_IDENTIFIER)
        out = bytearray(b.Output())
        return out, [_field_position(out, len(out) - offset) for offset in buffers[1:]]

    def table(self, slots: int, fields: Sequence[tuple[str, int, Any]]) -> int:
        b = self.b
        b.StartObject(slots)
        for kind, slot, value in fields:
            match kind:
                case "offset":
                    b.PrependUOffsetTRelativeSlot(slot, value, 0)
                case "u32":
                    b.PrependUint32Slot(slot, value, 0)
                case "u8":
                    b.PrependUint8Slot(slot, value, 0)
                case "i8":
                    b.PrependInt8Slot(slot, value, 0)
                case "i32":
                    b.PrependInt32Slot(slot, value, 0)
                case "f32":
                    b.PrependFloat32Slot(slot, value, 0.0)
                case "bool":
                    b.PrependBoolSlot(slot, value, 0)
        return int(b.EndObject())

    def offsets(self, items: Sequence[int]) -> int:
        self.b.StartVector(4, len(items), 4)
        for item in reversed(items):
            self.b.PrependUOffsetTRelative(item)
        return int(self.b.EndVector())

    def numbers(self, items: Sequence[int] | Sequence[float], dtype: Any = np.int32) -> int:
        return int(self.b.CreateNumpyVector(np.array(items, dtype)))

    def operator_codes(self, graph: Graph) -> tuple[list[int], dict[int, int]]:
        codes: list[int] = []
        known: dict[tuple[str, str, int], int] = {}
        code_of: dict[int, int] = {}
        for op in graph.ops:
            key = (op.kind, op.custom_name, op_version(op, self.target))
            if key not in known:
                known[key] = len(codes)
                codes.append(self._operator_code(*key))
            code_of[id(op)] = known[key]
        return codes, code_of

    def _operator_code(self, kind: str, custom_name: str, version: int) -> int:
        code = OPS[kind].code
        fields: list[tuple[str, int, Any]] = [
            ("i8", 0, min(code, PLACEHOLDER_CODE)),
            ("i32", 3, code),
        ]
        if custom_name:
            fields.append(("offset", 1, self.b.CreateString(custom_name)))
        self.b.StartObject(4)
        # The schema's default version is 1, so it is the one value that is not stored.
        self.b.PrependInt32Slot(2, version, 1)
        for field_kind, slot, value in fields:
            if field_kind == "offset":
                self.b.PrependUOffsetTRelativeSlot(slot, value, 0)
            elif field_kind == "i32":
                self.b.PrependInt32Slot(slot, value, 0)
            else:
                self.b.PrependInt8Slot(slot, value, 0)
        return int(self.b.EndObject())

    def subgraph(
        self,
        graph: Graph,
        tensors: Sequence[Tensor],
        buffer_of: Mapping[int, int],
        index: Mapping[int, int],
        code_of: Mapping[int, int],
    ) -> int:
        tensor_tables = [self.tensor(t, buffer_of.get(id(t), 0)) for t in tensors]
        op_tables = [self.operator(op, code_of[id(op)], index) for op in graph.ops]
        fields = [
            ("offset", 0, self.offsets(tensor_tables)),
            ("offset", 1, self.numbers([index[id(t)] for t in graph.inputs.values()])),
            ("offset", 2, self.numbers([index[id(t)] for t in graph.outputs.values()])),
            ("offset", 3, self.offsets(op_tables)),
            ("offset", 4, self.b.CreateString("main")),
        ]
        return self.table(5, fields)

    def tensor(self, tensor: Tensor, buffer: int) -> int:
        fields = [
            ("offset", 0, self.numbers(concrete(tensor.shape))),
            ("i8", 1, tensor_type(tensor.dtype)),
            ("u32", 2, buffer),
            ("offset", 3, self.b.CreateString(tensor.name)),
        ]
        open_shape = signature(tensor.shape)
        if -1 in open_shape:
            fields.append(("offset", 7, self.numbers(open_shape)))
        if tensor.quantization is not None:
            fields.append(("offset", 4, self.quantization(tensor.quantization)))
        return self.table(9, fields)

    def quantization(self, how: Quantization) -> int:
        fields = [
            ("offset", 2, self.numbers(how.scales, np.float32)),
            ("offset", 3, self.numbers(how.zeros, np.int64)),
            ("i32", 6, how.axis),
        ]
        return self.table(7, fields)

    def operator(self, op: Op, code: int, index: Mapping[int, int]) -> int:
        inputs = self.numbers([index[id(t)] for t in op.inputs])
        outputs = self.numbers([index[id(t)] for t in op.outputs])
        fields: list[tuple[str, int, Any]] = [
            ("u32", 0, code),
            ("offset", 1, inputs),
            ("offset", 2, outputs),
        ]
        schema = OPS[op.kind]
        if schema.options:
            fields += [("u8", 3, schema.options), ("offset", 4, self.options(op))]
        elif op.options:
            raise KeyError(f"{op.kind} has no option {sorted(op.options)}")
        if op.custom_options:
            fields.append(("offset", 5, self.numbers(list(op.custom_options), np.uint8)))
        return self.table(7, fields)

    def options(self, op: Op) -> int:
        schema = dict(OPS[op.kind].fields)
        values = {name: op.options.get(name, spec.default) for name, spec in schema.items()}
        if unknown := op.options.keys() - schema.keys():
            raise KeyError(f"{op.kind} has no option {sorted(unknown)}")
        vectors = {n: self.numbers(values[n]) for n, s in schema.items() if s.kind == "ints"}
        slots = max((spec.slot + 1 for spec in schema.values()), default=0)
        self.b.StartObject(slots)
        for name, spec in schema.items():
            self._option(spec, vectors.get(name, values[name]))
        return int(self.b.EndObject())

    def _option(self, spec: Field, value: Any) -> None:
        b, slot, default = self.b, spec.slot, spec.default
        match spec.kind:
            case "activation":
                b.PrependInt8Slot(slot, ACTIVATIONS[value], ACTIVATIONS[default])
            case "padding":
                b.PrependInt8Slot(slot, PADDINGS[value], PADDINGS[default])
            case "dtype":
                b.PrependInt8Slot(slot, TENSOR_TYPES[value], TENSOR_TYPES[default])
            case "i8":
                b.PrependInt8Slot(slot, value, default)
            case "i32":
                b.PrependInt32Slot(slot, value, default)
            case "f32":
                b.PrependFloat32Slot(slot, value, default)
            case "bool":
                b.PrependBoolSlot(slot, value, default)
            case "ints":
                b.PrependUOffsetTRelativeSlot(slot, value, 0)

    def signature_def(self, graph: Graph, index: Mapping[int, int]) -> int:
        def maps(named: Mapping[str, Tensor]) -> int:
            tables = [
                self.table(2, [("offset", 0, self.b.CreateString(n)), ("u32", 1, index[id(t)])])
                for n, t in named.items()
            ]
            return self.offsets(tables)

        inputs, outputs = maps(graph.inputs), maps(graph.outputs)
        key = self.b.CreateString(SIGNATURE_KEY)
        return self.table(5, [("offset", 0, inputs), ("offset", 1, outputs), ("offset", 2, key)])


def _field_position(buffer: bytearray, table: int) -> int:
    """Return the position of a table's first field, which every blob's Buffer table has."""
    (to_vtable,) = struct.unpack_from("<i", buffer, table)
    (offset,) = struct.unpack_from("<H", buffer, table - to_vtable + 4)
    return table + int(offset)
