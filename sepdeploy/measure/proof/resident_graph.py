"""What a runtime holds of a model: its nodes and constants, the same view for both formats."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, helper

from sepdeploy.exporters.tflite_file.format.reader import TensorInfo, TfliteFile, read_tflite
from sepdeploy.files import scratch
from sepdeploy.jobs import Job
from sepdeploy.measure.child import run_job

UNKNOWN_SIZE = 1 << 62  # of a constant computed at run time whose shape is not recorded
ONNX_INDEX_TYPES = (TensorProto.INT32, TensorProto.INT64, TensorProto.BOOL, TensorProto.STRING)
# Bytes per element of the TFLite types that hold weights; the others hold indices.
WIDTHS = {
    "float32": 4.0,
    "float16": 2.0,
    "bfloat16": 2.0,
    "float64": 8.0,
    "int16": 2.0,
    "int8": 1.0,
    "uint8": 1.0,
    "int4": 0.5,
}


@dataclass(frozen=True)
class GraphNode:
    """A node: its name ("" in TFLite) and the names of the values it reads and writes."""

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class ResidentGraph:
    """Nodes in execution order, and the bytes of every constant that holds weights.

    A value computed from constants alone is a constant too, whether or not the runtime has
    computed it ahead of time.
    """

    nodes: tuple[GraphNode, ...]
    constants: dict[str, int]


def optimized_onnx(path: str | os.PathLike[str]) -> ResidentGraph:
    """Return an ONNX file's graph as ONNX Runtime keeps it after its own optimisation.

    Raises:
        BadInput: The file is not usable.
        Missing: onnxruntime is not installed.
    """
    with scratch() as folder:
        target = folder / "optimized.onnx"
        run_job(Job("optimize", "onnxruntime", {"artifact": Path(path)}, output=target))
        model = onnx.load(str(target), load_external_data=False)
    return from_onnx(model)


def from_onnx(model: ModelProto) -> ResidentGraph:
    """Return the view of an ONNX graph; the numbers of its constants are not needed."""
    nodes: list[GraphNode] = []
    constants: dict[str, int] = {}
    _collect(model.graph, nodes, constants)
    computed = _computed(nodes, set(constants) | _index_constants(model.graph))
    if computed:
        dims = _dims(model)
        constants |= {name: dims.get(name, UNKNOWN_SIZE) for name in computed}
    return ResidentGraph(tuple(nodes), constants)


def tflite_file(path: str | os.PathLike[str]) -> ResidentGraph:
    """Return the view of a TFLite file, which its runtimes keep as it is.

    Raises:
        BadInput: Not a TFLite file, or a damaged one.
    """
    return _from_tflite(read_tflite(path))


def _collect(graph: GraphProto, nodes: list[GraphNode], constants: dict[str, int]) -> None:
    """Gather nodes and weights of a graph and of the bodies inside its nodes."""
    for tensor in graph.initializer:
        if tensor.data_type not in ONNX_INDEX_TYPES:
            constants[_text(tensor.name)] = _tensor_bytes(tensor)
    for node in graph.node:
        reads = tuple(_text(name) for name in node.input if name)
        nodes.append(GraphNode(_text(node.name), reads, tuple(_text(o) for o in node.output)))
        for attribute in node.attribute:
            for inner in _bodies(attribute):
                _collect(inner, nodes, constants)
            holds_weights = attribute.t.data_type not in (0, *ONNX_INDEX_TYPES)
            if node.op_type == "Constant" and holds_weights:
                constants[_text(node.output[0])] = _tensor_bytes(attribute.t)


def _text(name: str | bytes) -> str:
    """Return a name as text; protobuf gives the bytes of one that is not UTF-8."""
    return name if isinstance(name, str) else name.decode("utf-8", "replace")


def _bodies(attribute: AttributeProto) -> Iterator[GraphProto]:
    if attribute.type == AttributeProto.GRAPH:
        yield attribute.g
    yield from attribute.graphs


def _index_constants(graph: GraphProto) -> set[str]:
    tensors = {_text(t.name) for t in graph.initializer if t.data_type in ONNX_INDEX_TYPES}
    return tensors | {_text(n.output[0]) for n in graph.node if _is_constant(n)}


def _is_constant(node: NodeProto) -> bool:
    return node.op_type == "Constant" and not node.input


def _tensor_bytes(tensor: TensorProto) -> int:
    width: int = helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    return int(math.prod(tensor.dims)) * width


def _computed(nodes: list[GraphNode], known: set[str]) -> list[str]:
    """Return the values that depend on constants alone."""
    fixed, found = set(known), list[str]()
    for node in nodes:
        if node.inputs and fixed.issuperset(node.inputs):
            fixed.update(node.outputs)
            found.extend(o for o in node.outputs if o)
    return found


def _dims(model: ModelProto) -> dict[str, int]:
    """Return the bytes of every value whose shape is known; those of index type count nothing."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    sizes = {}
    for info in graph.value_info:
        kind = info.type.tensor_type
        dims = [d.dim_value for d in kind.shape.dim]
        if kind.elem_type in ONNX_INDEX_TYPES:
            sizes[info.name] = 0
        elif kind.HasField("shape") and all(d > 0 for d in dims):
            width = helper.tensor_dtype_to_np_dtype(kind.elem_type).itemsize
            sizes[info.name] = math.prod(dims) * width
    return sizes


def _from_tflite(file: TfliteFile) -> ResidentGraph:
    tensors = file.tensors
    names = _unique(t.name or f"tensor {t.index}" for t in tensors)
    fixed = {t.index for t in tensors if t.constant_bytes}
    constants = {
        names[i]: tensors[i].constant_bytes for i in sorted(fixed) if tensors[i].dtype in WIDTHS
    }
    nodes = []
    for op in file.ops:
        reads = tuple(i for i in op.inputs if i >= 0)
        nodes.append(
            GraphNode("", tuple(names[i] for i in reads), tuple(names[i] for i in op.outputs))
        )
        if reads and fixed.issuperset(reads):
            fixed.update(op.outputs)
            constants |= {names[i]: _tflite_bytes(tensors[i]) for i in op.outputs}
    return ResidentGraph(tuple(nodes), constants)


def _unique(names: Iterator[str]) -> list[str]:
    """Return the names, those that occur again with their position added."""
    seen: set[str] = set()
    result = []
    for i, name in enumerate(names):
        result.append(f"{name}#{i}" if name in seen else name)
        seen.add(result[-1])
    return result


def _tflite_bytes(tensor: TensorInfo) -> int:
    if any(n < 0 for n in tensor.shape):
        return UNKNOWN_SIZE
    return math.ceil(math.prod(tensor.shape) * WIDTHS.get(tensor.dtype, 0.0))
