"""Read an ONNX model into plain nodes: attributes as Python values, constants as arrays.

Everything a converter needs to know about ONNX's file format ends here. The batch dimension
(the symbolic first dimension of the inputs) becomes `graph.BATCH`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from sepdeploy.errors import GRAPH, BadInput
from sepdeploy.exporters.tflite_file.bodies import STANDARD, inlined
from sepdeploy.exporters.tflite_file.format.graph import BATCH, Array, Shape
from sepdeploy.records import DOMAIN

MIN_OPSET = 11
FLOATS = ("float16", "bfloat16", "float64")  # float32 in the file
INPUT_TYPES = ("float32", "int8", "uint8", "int32", "int64", "bool")


@dataclass
class Node:
    """One ONNX node. Absent optional inputs are empty strings, as in the file."""

    op: str
    domain: str
    name: str
    inputs: list[str]
    outputs: list[str]
    attributes: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.op} node '{self.name}'"


class Weights(Mapping[str, Array]):
    """The file's weights by name, each read when asked for: no second copy of all at once."""

    def __init__(self, tensors: Iterable[onnx.TensorProto]) -> None:
        self._tensors = {t.name: t for t in tensors}

    def __getitem__(self, name: str) -> Array:
        return _array(self._tensors[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


@dataclass
class Source:
    """A model's graph, in execution order."""

    nodes: list[Node]
    constants: Weights
    inputs: dict[str, tuple[Shape, np.dtype[Any]]]
    outputs: list[str]
    opset: int


def read_model(model: onnx.ModelProto, known: Collection[str] = ()) -> Source:
    """Return the graph of a model.

    Functions of the file (other than those of ``ai.sepdeploy``, which are only a fallback) are
    inlined, and standard operators outside ``known`` that the standard defines by others.

    Raises:
        BadInput: Too old or broken model, weights missing, or an input with an open dimension
            other than the batch.
    """
    opset = _opset(model)
    model = inlined(model, known)
    graph = model.graph
    constants = Weights(graph.initializer)
    if graph.sparse_initializer:
        raise BadInput(
            f"weight '{graph.sparse_initializer[0].values.name}' is sparse",
            hint="store the weights as dense tensors",
        )
    inputs = {v.name: _input(v) for v in graph.input if v.name not in constants}
    if not inputs:
        raise BadInput("the ONNX graph has no input", hint="export a model that takes an image")
    nodes = [_node(proto, i) for i, proto in enumerate(graph.node)]
    _check_names(nodes, {*constants, *inputs}, [o.name for o in graph.output])
    return Source(nodes, constants, inputs, [o.name for o in graph.output], opset)


def _opset(model: onnx.ModelProto) -> int:
    versions = [o.version for o in model.opset_import if o.domain in STANDARD]
    if not versions or min(versions) < MIN_OPSET:
        raise BadInput(
            f"the ONNX model uses opset {min(versions, default=0)}; at least {MIN_OPSET} is needed",
            hint="export it again with a newer opset (20 is a good choice)",
        )
    return int(max(versions))


def _array(tensor: onnx.TensorProto) -> Array:
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        raise BadInput(
            f"the data of weight '{tensor.name}' is in another file that was not loaded",
            hint="keep the .data file beside the .onnx file",
        )
    try:
        array: Array = numpy_helper.to_array(tensor)
    except (ValueError, TypeError, KeyError) as error:
        raise BadInput(f"weight '{tensor.name}' cannot be read: {error}", hint=GRAPH) from error
    return as_float32(array)


def as_float32(array: Array) -> Array:
    """Return floats of any width as float32 (the only float type written), others unchanged."""
    floating = np.issubdtype(array.dtype, np.floating) or array.dtype.name == "bfloat16"
    return array.astype(np.float32) if floating and array.dtype != np.float32 else array


def _input(info: onnx.ValueInfoProto) -> tuple[Shape, np.dtype[Any]]:
    tensor = info.type.tensor_type
    if not tensor.HasField("shape"):
        raise BadInput(f"input '{info.name}' has no shape", hint="export it with a fixed shape")
    dims: list[int] = []
    for axis, dim in enumerate(tensor.shape.dim):
        if dim.HasField("dim_value") and dim.dim_value > 0:
            dims.append(dim.dim_value)
        elif axis == 0 or dim.dim_param == "batch":
            dims.append(BATCH)
        else:
            label = dim.dim_param or "?"
            raise BadInput(
                f"dimension {axis} ('{label}') of input '{info.name}' is open",
                hint="only the batch may be; export the model with a fixed image size",
            )
    try:
        dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type))
    except KeyError as error:
        raise BadInput(f"input '{info.name}' has no element type", hint=GRAPH) from error
    if dtype.name in FLOATS:
        dtype = np.dtype(np.float32)
    if dtype.name not in INPUT_TYPES:
        known = ", ".join(INPUT_TYPES)
        raise BadInput(f"input '{info.name}' has type {dtype.name}", hint=f"{known} work")
    return tuple(dims), dtype


def _node(proto: onnx.NodeProto, index: int) -> Node:
    attributes: dict[str, Any] = {}
    for attribute in proto.attribute:
        if attribute.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS):
            raise BadInput(
                f"{proto.op_type} node '{proto.name}' has a subgraph, which has no fixed form",
                hint="export the model without data-dependent branches or loops",
            )
        value = onnx.helper.get_attribute_value(attribute)
        if isinstance(value, bytes):
            value = value.decode("utf-8", "replace")
        elif isinstance(value, onnx.TensorProto):
            value = _array(value)
        attributes[attribute.name] = value
    domain = "" if proto.domain in STANDARD else proto.domain
    name = proto.name or f"{proto.op_type}_{index}"
    return Node(proto.op_type, domain, name, list(proto.input), list(proto.output), attributes)


def _check_names(nodes: Iterable[Node], known: set[str], outputs: Iterable[str]) -> None:
    for node in nodes:
        for name in node.inputs:
            if name and name not in known:
                raise BadInput(
                    f"{node} reads '{name}', which nothing before it computes",
                    hint="check the file with onnx.checker.check_model",
                )
        known.update(node.outputs)
    for name in outputs:
        if name not in known:
            raise BadInput(f"graph output '{name}' is not computed by any node", hint=GRAPH)


def layer_name(node: Node, constants: Iterable[str]) -> str:
    """Return the layer a node belongs to, for naming tensors.

    That is the node's own name for the domain's nodes, otherwise the module path in the name of
    the weight it uses (``features.0`` for ``features.0.weight``), otherwise the node's name.
    """
    if node.domain == DOMAIN:
        return node.name
    known = set(constants)
    for name in node.inputs[1:]:
        path, _, leaf = name.rpartition(".")
        if path and name in known and leaf in {"weight", "bias"}:
            return path
    return node.name
