"""The entry embedded in every artifact: to inspect a lone file and rebuild its dense form.

JSON of schema ``sepdeploy.artifact/1``: the input spec, the layer table and the canonical graph
without its weights (zlib, base64). In .onnx it is the metadata property "sepdeploy", in .tflite
the metadata buffer of that name. A reader trusts nothing: sizes are bounded before anything is
allocated, and every failure is one line.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError
from onnx import ModelProto, TensorProto, helper

from sepdeploy.codec import parse, to_json
from sepdeploy.errors import EXPORT_AGAIN, BadInput
from sepdeploy.exporters.containers import find_entry, look_for_entry
from sepdeploy.exporters.onnx_graph.graph import serialize
from sepdeploy.exporters.onnx_graph.weights import detach
from sepdeploy.records import ARTIFACT_SCHEMA, MAX_FEATURES, InputSpec, LayerRecord

KEPT_VALUES = 64  # constants up to this many values are structure (shapes, axes, mean), not weights
MAX_GRAPH_BYTES = 16 << 20  # of the weight-free graph; a ViT's is about 200 kB
MAX_WEIGHT_VALUES = 1 << 31


@dataclass(frozen=True)
class Entry:
    """What an artifact says about itself.

    ``graph`` is the canonical graph; its larger constants have type and shape but no data.
    """

    input: InputSpec
    layers: tuple[LayerRecord, ...]
    graph: ModelProto


def make_entry(canonical: ModelProto, input: InputSpec, layers: tuple[LayerRecord, ...]) -> str:
    """The entry's text for a canonical graph, its input and its layer table."""
    packed = zlib.compress(serialize(without_weights(canonical)), level=9)
    content = _Content(input, layers, base64.b64encode(packed).decode("ascii"))
    return json.dumps(to_json(content), separators=(",", ":"), allow_nan=False)


def without_weights(canonical: ModelProto) -> ModelProto:
    """The graph with the numbers of its larger constants left out; types and shapes stay."""
    model, _ = detach(canonical)  # no copy of the large ones, however short its life
    for tensor in model.graph.initializer:
        if math.prod(tensor.dims) > KEPT_VALUES:
            bare = TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
            tensor.CopyFrom(bare)
    del model.graph.value_info[:]
    return model


def has_data(tensor: TensorProto) -> bool:
    """Whether a constant of a weight-free graph kept its numbers."""
    return bool(math.prod(tensor.dims) <= KEPT_VALUES)


def read_entry(path: Path) -> Entry:
    """Read the entry of an .onnx or .tflite file; the content decides which it is.

    Raises:
        BadInput: Unreadable, no entry, or an entry that makes no sense.
    """
    return parse_entry(find_entry(path), where=str(path))


def has_entry(path: Path) -> bool:
    """Whether a file carries an entry, readable or not: others' files have none.

    Raises:
        BadInput: Unreadable, or damaged.
    """
    return look_for_entry(path) is not None


def parse_entry(text: bytes, *, where: str) -> Entry:
    """Parse an entry's text.

    Raises:
        BadInput: It makes no sense; the message starts with ``where``.
    """
    try:
        found = parse(_Content, text, where=f"{where}: embedded entry")
    except BadInput as error:
        raise BadInput(error.message, hint="export the model again") from error
    return Entry(found.input, found.layers, _unpack(found.graph, where))


@dataclass(frozen=True)
class _Content:
    input: InputSpec
    layers: tuple[LayerRecord, ...]
    graph: str
    schema: str = ARTIFACT_SCHEMA


def _unpack(text: str, where: str) -> ModelProto:
    try:
        packed = base64.b64decode(text, validate=True)
        machine = zlib.decompressobj()
        raw = machine.decompress(packed, MAX_GRAPH_BYTES)
    except (binascii.Error, ValueError, zlib.error) as error:
        raise BadInput(
            f"{where}: the graph in the embedded entry is damaged", hint=EXPORT_AGAIN
        ) from error
    if not machine.eof:
        problem = "larger than 16 MiB" if machine.unconsumed_tail else "cut short"
        raise BadInput(f"{where}: the graph in the embedded entry is {problem}", hint=EXPORT_AGAIN)
    model = ModelProto()
    try:
        model.ParseFromString(raw)
    except DecodeError as error:
        raise BadInput(
            f"{where}: the graph in the embedded entry is not ONNX", hint=EXPORT_AGAIN
        ) from error
    _check_tensors(model, where)
    return model


def _check_tensors(model: ModelProto, where: str) -> None:
    total = 0
    for tensor in model.graph.initializer:
        size = math.prod(tensor.dims) if all(d >= 0 for d in tensor.dims) else -1
        total += max(size, 0)
        known: Any = tensor.data_type in helper.get_all_tensor_dtypes()
        external = tensor.data_location == TensorProto.EXTERNAL or tensor.external_data
        if size < 0 or total > MAX_WEIGHT_VALUES or not known or external:
            raise BadInput(
                f"{where}: constant '{tensor.name[:60]}' of the embedded graph makes no sense "
                f"(shape {list(tensor.dims)[:8]})",
                hint=EXPORT_AGAIN,
            )
    if not model.graph.node or len(model.graph.input) != 1 or not model.graph.output:
        raise BadInput(
            f"{where}: the embedded graph needs nodes, one input and an output", hint=EXPORT_AGAIN
        )


assert MAX_WEIGHT_VALUES > MAX_FEATURES
