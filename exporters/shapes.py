"""Shapes of the values of a graph, without touching its weights."""

from __future__ import annotations

import onnx
from onnx import ModelProto

from sepdeploy.exporters.graph import value_dims
from sepdeploy.exporters.weights import as_inputs, detach


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
        inferred = onnx.shape_inference.infer_shapes(as_inputs(light), data_prop=True).graph
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


def value_dims_of(info: onnx.ValueInfoProto) -> tuple[int | None, ...] | None:
    """The shape of one described value; None stands for an open dimension, or for no shape."""
    tensor = info.type.tensor_type
    if not info.type.HasField("tensor_type") or not tensor.HasField("shape"):
        return None
    return tuple(d.dim_value if d.HasField("dim_value") else None for d in tensor.shape.dim)


def _open(dims: tuple[int | None, ...] | None) -> float:
    return float("inf") if dims is None else sum(d is None for d in dims)
