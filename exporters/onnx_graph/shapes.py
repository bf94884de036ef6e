"""Shapes of the values of a graph, without touching its weights."""

from __future__ import annotations

import onnx
from onnx import GraphProto, ModelProto

from sepdeploy.exporters.onnx_graph.graph import value_dims
from sepdeploy.exporters.onnx_graph.weights import as_inputs, detach

LONGEST_VECTOR = 1 << 20  # of values whose numbers are followed


def record_shapes(model: ModelProto) -> None:
    """Add the shapes that can be inferred to a graph's ``value_info`` and outputs, in place.

    What the graph says already stays, unless inference knows more of it.
    """
    graph = model.graph
    computed = {name for node in graph.node for name in node.output if name}
    for info in [info for info in graph.value_info if info.name not in computed]:
        graph.value_info.remove(info)  # of a value that was folded into a constant, say
    light, _ = detach(model)
    try:
        inferred = infer(as_inputs(light)).graph
    except onnx.shape_inference.InferenceError:
        return  # what it contradicts may be a wrong note; whoever checks the graph will tell
    told = value_dims(graph)
    better = [
        info
        for info in inferred.value_info
        if info.name in computed and _open(value_dims_of(info)) < _open(told.get(info.name))
    ]
    replaced = {info.name for info in better}
    kept = [info for info in graph.value_info if info.name not in replaced]
    del graph.value_info[:]
    graph.value_info.extend([*kept, *better])
    for own, info in zip(graph.output, inferred.output, strict=True):
        if _open(value_dims_of(info)) < _open(value_dims_of(own)):
            own.type.CopyFrom(info.type)


def infer(model: ModelProto) -> ModelProto:
    """A model with the shapes that can be inferred, from the numbers in shapes where these are few.

    Following numbers writes every vector out, symbol by symbol: a range of 2³¹ fills the memory.

    Raises:
        onnx.shape_inference.InferenceError: The graph contradicts itself.
    """
    plain = onnx.shape_inference.infer_shapes(model)
    graph = plain.graph
    dims = [value_dims_of(i) for i in (*graph.input, *graph.value_info, *graph.output)]
    if any(d is not None and len(d) == 1 and (d[0] or 0) > LONGEST_VECTOR for d in dims):
        return plain
    return onnx.shape_inference.infer_shapes(model, data_prop=True)


def value_dims_of(info: onnx.ValueInfoProto) -> tuple[int | None, ...] | None:
    """The shape of one described value; None stands for an open dimension, or for no shape."""
    tensor = info.type.tensor_type
    if not info.type.HasField("tensor_type") or not tensor.HasField("shape"):
        return None
    return tuple(d.dim_value if d.HasField("dim_value") else None for d in tensor.shape.dim)


def _open(dims: tuple[int | None, ...] | None) -> float:
    return float("inf") if dims is None else sum(d is None for d in dims)


def open_sizes(graph: GraphProto) -> None:
    """Make a size below 1 of an input or output, as some write an open one, an open one."""
    for info in (*graph.input, *graph.output):
        for dim in info.type.tensor_type.shape.dim:
            if dim.HasField("dim_value") and dim.dim_value < 1:
                dim.ClearField("dim_value")
