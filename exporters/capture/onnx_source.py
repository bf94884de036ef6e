"""Read an ONNX file that anybody may have written: limits first, weights last."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError
from onnx import ModelProto, TensorProto, helper

from sepdeploy.errors import GRAPH, BadInput
from sepdeploy.exporters.formats import PROTOBUF_LIMIT
from sepdeploy.exporters.onnx_graph.graph import Array, to_array
from sepdeploy.exporters.onnx_graph.weights import Weights, detach, is_large, placeholder
from sepdeploy.files import file_beside, read_bytes

MAX_NODES = 100_000
MAX_NESTING = 64  # of messages; a real graph has fewer than 20

DAMAGED = "copy or export it again; onnx.checker.check_model says more"


def read_onnx(path: Path) -> tuple[ModelProto, Weights]:
    """Read an ONNX file and its external data.

    Args:
        path: The file.

    Returns:
        The model with its large constants held (see ``sepdeploy.exporters.onnx_graph.weights``),
        and their numbers; those of external data are memory maps.

    Raises:
        BadInput: Unreadable, damaged or absurdly large; sparse or text weights; external data
            that lies outside the file's folder or does not match its shape.
    """
    model = parse_onnx(path)
    if not model.graph.node or not model.graph.output:
        raise BadInput(f"{path}: the graph is empty", hint=DAMAGED)
    if len(model.graph.node) > MAX_NODES:
        raise BadInput(
            f"{path}: the graph has more than {MAX_NODES} nodes",
            hint="split the network, or export a smaller one",
        )
    if model.graph.sparse_initializer:
        raise BadInput(f"{path}: a weight is sparse", hint="store the weights as dense tensors")
    others = list(_other_tensors(model))  # all text is checked on the way
    weights: Weights = {}
    for item in model.graph.initializer:
        _check_type(item, path)
        if _is_external(item):
            _read_external(item, path, weights)
        else:
            _check_size(item, path)
    for item in others:
        if _is_external(item):
            raise BadInput(
                f"{path}: constant '{item.name}' inside a node keeps its data in another file",
                hint="only weights of the graph may do so",
            )
        if item.data_type != TensorProto.STRING:
            _check_type(item, path)
            _check_size(item, path)
    light, inline = detach(model)
    weights |= {name: to_array(item) for name, item in inline.items()}
    return light, weights


def parse_onnx(path: Path) -> ModelProto:
    """Read the protobuf of an ONNX file; external data stays where it is.

    Raises:
        BadInput: Unreadable, or damaged.
    """
    data = read_bytes(path, limit=PROTOBUF_LIMIT)
    model = ModelProto()
    try:
        model.ParseFromString(data)
    except DecodeError as error:
        raise BadInput(
            f"{path} is not an ONNX file, or not a complete one", hint=DAMAGED
        ) from error
    if not model.HasField("graph") or not model.opset_import:
        raise BadInput(f"{path} is not an ONNX file, or not a complete one", hint=DAMAGED)
    return model


def _is_external(item: TensorProto) -> bool:
    return item.data_location == TensorProto.EXTERNAL or bool(item.external_data)


def _check_type(item: TensorProto, path: Path) -> None:
    known = item.data_type in helper.get_all_tensor_dtypes()
    if not known or item.data_type in (TensorProto.STRING, TensorProto.UNDEFINED):
        raise BadInput(f"{path}: constant '{item.name[:60]}' has no numeric type", hint=GRAPH)
    if any(d < 0 for d in item.dims):
        raise BadInput(
            f"{path}: constant '{item.name[:60]}' has shape {list(item.dims)[:8]}", hint=GRAPH
        )


def _check_size(item: TensorProto, path: Path) -> None:
    """Compare shape and data before anything is allocated by the shape alone."""
    try:
        elements = to_array(item).size
    except (ValueError, TypeError, KeyError) as error:
        raise BadInput(
            f"{path}: constant '{item.name[:60]}' has other data than its shape "
            f"{list(item.dims)[:8]} asks for",
            hint=DAMAGED,
        ) from error
    assert elements == math.prod(item.dims), "numpy reshaped it"


def _read_external(item: TensorProto, path: Path, weights: Weights) -> None:
    """Map a weight's data and let the graph hold it."""
    told = {entry.key: entry.value for entry in item.external_data}
    name = item.name[:60]
    dtype = np.dtype(helper.tensor_dtype_to_np_dtype(item.data_type))
    shape = tuple(item.dims)
    needed = math.prod(shape) * dtype.itemsize
    try:
        offset, length = int(told.get("offset", 0)), int(told.get("length", needed))
    except ValueError as error:
        raise BadInput(
            f"{path}: weight '{name}' has an offset that is no number", hint=GRAPH
        ) from error
    target = file_beside(path, told.get("location", ""))
    if offset < 0 or length != needed or offset + needed > target.stat().st_size:
        raise BadInput(
            f"{path}: weight '{name}' is not where it says in '{target.name}' "
            f"(offset {offset}, {length} bytes, shape {list(shape)[:8]})",
            hint="keep the data file that was written together with the .onnx file",
        )
    array = _mapped(target, dtype, shape, offset) if needed else np.zeros(shape, dtype)
    bare = placeholder(item.name, item.data_type, shape)
    if is_large(bare):
        weights[item.name] = array
        item.CopyFrom(bare)
    else:
        item.ClearField("external_data")
        item.ClearField("data_location")
        item.raw_data = array.tobytes()


def _mapped(path: Path, dtype: np.dtype[Any], shape: tuple[int, ...], offset: int) -> Array:
    if offset % dtype.itemsize:  # numpy maps misaligned data as well, but slowly
        flat = np.fromfile(path, np.uint8, math.prod(shape) * dtype.itemsize, offset=offset)
        return flat.view(dtype).reshape(shape)
    return np.memmap(path, dtype, "r", offset, shape)


def _other_tensors(message: Any, depth: int = 0) -> Iterator[TensorProto]:
    """Every tensor below a message but the weights of the main graph.

    Raises:
        BadInput: The messages nest too deeply, or a text is none.
    """
    if depth > MAX_NESTING:
        raise BadInput("the ONNX file nests its graphs too deeply", hint=DAMAGED)
    for field, value in message.ListFields():
        several = hasattr(value, "__len__") and not isinstance(value, (str, bytes))
        if field.message_type is None:
            if field.type == FieldDescriptor.TYPE_STRING:
                _check_text(value if several else (value,))
            continue
        for child in value if several else (value,):
            if child.DESCRIPTOR.name != "TensorProto":
                yield from _other_tensors(child, depth + 1)
                continue
            entries = [text for e in child.external_data for text in (e.key, e.value)]
            _check_text((child.name, *entries))
            if not (depth == 1 and field.name == "initializer"):
                yield child


def _check_text(texts: Iterable[object]) -> None:
    if not all(isinstance(text, str) for text in texts):
        raise BadInput("the ONNX file has a name that is no text", hint=DAMAGED)
