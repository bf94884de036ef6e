"""ONNX models to disk, each weight copied once and no message of the whole file in memory.

Up to 2 GB everything is one protobuf, byte for byte what serializing the complete message gives.
Beyond that the large constants lie in a second file beside it ("external data").
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

from onnx import GraphProto, ModelProto, TensorProto

from sepdeploy.errors import BadInput
from sepdeploy.exporters.formats import ONNX, PROTOBUF_LIMIT, named_format
from sepdeploy.exporters.onnx_graph.graph import serialize, tensor_bytes, to_array
from sepdeploy.exporters.onnx_graph.weights import is_held, total_bytes
from sepdeploy.files import atomic_path

ALIGNMENT = 64  # bytes; runtimes map external data and compute on it in place
MAX_LIGHT_BYTES = 64 << 20  # of a graph without its weights
_SLACK = 1 << 20  # of a size estimate
# Field numbers of onnx.proto.
_MODEL_GRAPH, _GRAPH_INITIALIZER, _TENSOR_RAW_DATA = 7, 5, 9


def data_path(path: Path) -> Path:
    """Where the external data of an .onnx file lies."""
    return path.with_name(f"{path.name}.data")


def external_data(path: Path) -> Path | None:
    """The external data that an .onnx file of this program has beside it, if any."""
    data = data_path(path)
    if (
        named_format(path) is not ONNX
        or not data.is_file()
        or path.stat().st_size > MAX_LIGHT_BYTES
    ):
        return None
    return data if data.name.encode() in path.read_bytes() else None


def file_bytes(path: Path) -> int:
    """Size of an artifact on disk, its external data included."""
    data = external_data(path)
    return path.stat().st_size + (data.stat().st_size if data else 0)


def write_model(
    model: ModelProto,
    weights: Mapping[str, TensorProto],
    path: Path,
    *,
    limit: int = PROTOBUF_LIMIT,
) -> None:
    """Write a model whose large constants are held, atomically.

    Args:
        model: The light model (``weights.detach``).
        weights: Its held constants by name.
        path: The file; external data goes to ``data_path(path)``.
        limit: Bytes above which the large constants go to a second file.

    Raises:
        BadInput: The graph alone exceeds what a protobuf can hold, or the folder cannot be
            written.
    """
    if total_bytes(model) + _SLACK <= limit:
        with atomic_path(path) as temporary, temporary.open("wb") as stream:
            for chunk in chunks(model, weights):
                stream.write(chunk)
        return
    apart = ModelProto()
    apart.CopyFrom(model)
    with contextlib.ExitStack() as stack:  # the data is in its place before the graph names it
        graph_file = stack.enter_context(atomic_path(path))
        data_file = stack.enter_context(atomic_path(data_path(path)))
        with data_file.open("wb") as stream:
            _write_apart(apart.graph, weights, stream, data_path(path).name)
        if apart.ByteSize() > PROTOBUF_LIMIT:
            raise BadInput(
                f"{path.name} would hold {apart.ByteSize() / 1e9:.1f} GB besides its weights",
                hint="one ONNX graph holds at most 2 GB; split the model",
            )
        graph_file.write_bytes(serialize(apart))


def chunks(model: ModelProto, weights: Mapping[str, TensorProto]) -> Iterator[bytes]:
    """The bytes of a complete model in order, no more than one weight at a time."""
    before, after = _split(model, _MODEL_GRAPH)
    graph_before, graph_after = _split(model.graph, _GRAPH_INITIALIZER)
    sizes = [_tensor_size(item) for item in model.graph.initializer]
    length = len(graph_before) + len(graph_after) + sum(1 + len(_varint(n)) + n for n in sizes)
    yield before + _tag(_MODEL_GRAPH) + _varint(length) + graph_before
    for item, size in zip(model.graph.initializer, sizes, strict=True):
        yield _tag(_GRAPH_INITIALIZER) + _varint(size)
        if is_held(item):
            yield _bare(item) + _tag(_TENSOR_RAW_DATA) + _varint(tensor_bytes(item))
            yield raw_bytes(weights[item.name])
        else:
            yield serialize(item)
    yield graph_after + after


def raw_bytes(item: TensorProto) -> bytes:
    """A constant's numbers as little-endian bytes, however they are stored."""
    return bytes(item.raw_data) if item.HasField("raw_data") else to_array(item).tobytes()


def _write_apart(
    graph: GraphProto, weights: Mapping[str, TensorProto], stream: BinaryIO, name: str
) -> None:
    """Write the held constants and let the graph point at them."""
    position = 0
    for item in graph.initializer:
        if not is_held(item):
            continue
        padding = -position % ALIGNMENT
        data = raw_bytes(weights[item.name])
        stream.write(bytes(padding))
        stream.write(data)
        item.ClearField("external_data")
        place = {"location": name, "offset": str(position + padding), "length": str(len(data))}
        for key, value in place.items():
            item.external_data.add(key=key, value=value)
        position += padding + len(data)


def _split(message: ModelProto | GraphProto, number: int) -> tuple[bytes, bytes]:
    """What a serialized message has before and behind one of its fields."""
    before, after = type(message)(), type(message)()
    for field, value in message.ListFields():
        part = before if field.number < number else after
        if isinstance(value, (int, str)):
            setattr(part, field.name, value)
        elif field.number != number:
            getattr(part, field.name).extend(value)
    return serialize(before), serialize(after)


def _bare(item: TensorProto) -> bytes:
    return serialize(TensorProto(name=item.name, data_type=item.data_type, dims=item.dims))


def _tensor_size(item: TensorProto) -> int:
    if not is_held(item):
        return int(item.ByteSize())
    data = tensor_bytes(item)
    return len(_bare(item)) + 1 + len(_varint(data)) + data


def _tag(number: int) -> bytes:
    return bytes([number << 3 | 2])


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
