"""The tables of the flatbuffer: model, subgraph, tensors, operators, signature, metadata."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any

import flatbuffers
import numpy as np

from sepdeploy.exporters.tflite_file.format.graph import (
    Graph,
    Op,
    Quantization,
    Tensor,
    concrete,
    signature,
)
from sepdeploy.exporters.tflite_file.format.schema import (
    ACTIVATIONS,
    OPS,
    PADDINGS,
    PLACEHOLDER_CODE,
    SCHEMA_VERSION,
    TENSOR_TYPES,
    Field,
    tensor_type,
)
from sepdeploy.exporters.tflite_file.format.versions import op_version
from sepdeploy.flatbuffer import IDENTIFIER

DESCRIPTION = "sepdeploy"
SIGNATURE_KEY = "serving_default"

# What writes a field of each type, and the numbers behind names.
_SLOTS = dict.fromkeys(("offset", "ints"), "PrependUOffsetTRelativeSlot")
_SLOTS |= {"u32": "PrependUint32Slot", "u8": "PrependUint8Slot", "i8": "PrependInt8Slot"}
_SLOTS |= {"i32": "PrependInt32Slot", "f32": "PrependFloat32Slot", "bool": "PrependBoolSlot"}
_NAMED = {"activation": ACTIVATIONS, "padding": PADDINGS, "dtype": TENSOR_TYPES}


class TableWriter:
    """Builds the tables back to front, as flatbuffers require."""

    def __init__(self, runtime: str) -> None:
        self.runtime = runtime
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
        b.Finish(self.table(8, fields), IDENTIFIER)
        out = bytearray(b.Output())
        return out, [_field_position(out, len(out) - offset) for offset in buffers[1:]]

    def table(self, slots: int, fields: Sequence[tuple[str, int, Any]]) -> int:
        """Write a table; a field with the value 0 is left out, as the schema's default."""
        b = self.b
        b.StartObject(slots)
        for kind, slot, value in fields:
            getattr(b, _SLOTS[kind])(slot, value, 0)
        return int(b.EndObject())

    def offsets(self, items: Sequence[int]) -> int:
        """Write a vector of tables."""
        self.b.StartVector(4, len(items), 4)
        for item in reversed(items):
            self.b.PrependUOffsetTRelative(item)
        return int(self.b.EndVector())

    def numbers(self, items: Sequence[int] | Sequence[float], dtype: Any = np.int32) -> int:
        """Write a vector of numbers."""
        return int(self.b.CreateNumpyVector(np.array(items, dtype)))

    def operator_codes(self, graph: Graph) -> tuple[list[int], dict[int, int]]:
        """Write each operator and version once; return also each operator's place by id."""
        codes: list[int] = []
        known: dict[tuple[str, str, int], int] = {}
        code_of: dict[int, int] = {}
        for op in graph.ops:
            key = (op.kind, op.custom_name, op_version(op, self.runtime))
            if key not in known:
                known[key] = len(codes)
                codes.append(self._operator_code(*key))
            code_of[id(op)] = known[key]
        return codes, code_of

    def _operator_code(self, kind: str, custom_name: str, version: int) -> int:
        code = OPS[kind].code
        name = self.b.CreateString(custom_name) if custom_name else 0
        self.b.StartObject(4)
        # The schema's default version is 1, so it is the one value that is not stored.
        self.b.PrependInt32Slot(2, version, 1)
        self.b.PrependInt8Slot(0, min(code, PLACEHOLDER_CODE), 0)
        self.b.PrependInt32Slot(3, code, 0)
        self.b.PrependUOffsetTRelativeSlot(1, name, 0)
        return int(self.b.EndObject())

    def subgraph(
        self,
        graph: Graph,
        tensors: Sequence[Tensor],
        buffer_of: Mapping[int, int],
        index: Mapping[int, int],
        code_of: Mapping[int, int],
    ) -> int:
        """Write the only subgraph."""
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
        """Write a tensor; open dimensions stand as -1 in its second shape."""
        fields = [
            ("offset", 0, self.numbers(concrete(tensor.shape))),
            ("i8", 1, tensor_type(tensor.dtype, tensor.name)),
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
        """Write how integers stand for numbers."""
        fields = [
            ("offset", 2, self.numbers(how.scales, np.float32)),
            ("offset", 3, self.numbers(how.zeros, np.int64)),
            ("i32", 6, how.axis),
        ]
        return self.table(7, fields)

    def operator(self, op: Op, code: int, index: Mapping[int, int]) -> int:
        """Write an operator."""
        inputs = self.numbers([index[id(t)] for t in op.inputs])
        outputs = self.numbers([index[id(t)] for t in op.outputs])
        fields: list[tuple[str, int, Any]] = [("u32", 0, code)]
        fields += [("offset", 1, inputs), ("offset", 2, outputs)]
        schema = OPS[op.kind]
        if schema.options:
            fields += [("u8", 3, schema.options), ("offset", 4, self.options(op))]
        elif op.options:
            raise KeyError(f"{op.kind} has no option {sorted(op.options)}")
        if op.custom_options:
            fields.append(("offset", 5, self.numbers(list(op.custom_options), np.uint8)))
        return self.table(7, fields)

    def options(self, op: Op) -> int:
        """Write an operator's option table."""
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
        named = _NAMED.get(spec.kind)
        if named:
            self.b.PrependInt8Slot(spec.slot, named[value], named[spec.default])
        else:
            default = 0 if spec.kind == "ints" else spec.default
            getattr(self.b, _SLOTS[spec.kind])(spec.slot, value, default)

    def signature_def(self, graph: Graph, index: Mapping[int, int]) -> int:
        """Write the names under which inputs and outputs are known."""

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
