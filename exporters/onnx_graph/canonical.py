"""Clean-up of a freshly exported graph, independent of the exporter's version.

Every pass keeps the numbers. What is gone afterwards: constant subgraphs, reshapes of reshapes,
reshapes to the shape a value has already, Identity and Dropout, additions of 0 and divisions
by 1. Constants are only folded where that does not make the file larger: a product of factors
that someone wrote out in the graph stays written out.
"""

from __future__ import annotations

import math

from onnx import GraphProto, ModelProto, NodeProto

from sepdeploy.exporters.domain import DOMAIN
from sepdeploy.exporters.onnx_graph.branches import take_branches
from sepdeploy.exporters.onnx_graph.folding import SMALL_BYTES, fold_constants, lift_constants
from sepdeploy.exporters.onnx_graph.graph import (
    attributes,
    bypass,
    initializers,
    prune,
    sort_nodes,
    to_array,
    value_dims,
)
from sepdeploy.exporters.onnx_graph.shape_passes import (
    fix_expands,
    fix_reshapes,
    fold_known_sizes,
    lift_activations,
    same_shape,
)
from sepdeploy.exporters.onnx_graph.shapes import record_shapes
from sepdeploy.exporters.onnx_graph.weights import Weights, is_large

NEUTRAL = {"Add": 0.0, "Sub": 0.0, "Mul": 1.0, "Div": 1.0}
MOVING = {"Reshape", "Transpose", "Squeeze", "Unsqueeze", "Cast", "Shape"}  # of one output


def clean(model: ModelProto, weights: Weights | None = None) -> None:
    """Bring a graph into its canonical form, in place.

    Args:
        model: The graph; large constants may be held (``sepdeploy.exporters.onnx_graph.weights``).
        weights: The held numbers, which are folded as well; without them held constants stay.
    """
    graph = model.graph
    for _ in range(64):  # each round removes something; real graphs need two or three
        before = len(graph.node)
        lift_constants(graph)
        fold_constants(graph, weights)
        opened = take_branches(graph)
        record_shapes(model)
        fold_known_sizes(graph)
        fix_reshapes(graph)
        fix_expands(graph)
        lift_activations(graph)
        drop_neutral(graph)
        merge_twins(graph)
        prune(graph)
        left = opened or any(n.op_type == "Constant" for n in graph.node)
        if len(graph.node) == before and not left:
            break
    sort_nodes(graph)


def drop_neutral(graph: GraphProto) -> None:
    """Remove Identity, Dropout whose mask nobody reads, arithmetic with a neutral constant."""
    dims = value_dims(graph)
    read = {o.name for o in graph.output}.union(*(node.input for node in graph.node)) - {""}
    constants = initializers(graph)
    same: dict[str, str] = {}
    for node in graph.node:
        if node.domain not in ("", "ai.onnx"):
            continue
        passes = node.op_type == "Identity" or (
            node.op_type == "Dropout" and read.isdisjoint(node.output[1:])
        )
        if passes or _pools_nothing(node):
            same[node.output[0]] = node.input[0]
        elif node.op_type in NEUTRAL and len(node.input) == 2:
            value, other = node.input
            if node.op_type in ("Add", "Mul") and value in constants:
                value, other = other, value
            scale = constants.get(other)
            if (
                scale is not None
                and value not in constants
                and same_shape(dims, value, node.output[0])
                and math.prod(scale.dims) <= SMALL_BYTES
                and (to_array(scale) == NEUTRAL[node.op_type]).all()
            ):
                same[node.output[0]] = value
    bypass(graph, same)


def merge_twins(graph: GraphProto) -> None:
    """Keep one of several nodes that move the same value in the same way."""
    known = initializers(graph)
    outputs = {o.name for o in graph.output}
    first: dict[tuple[object, ...], str] = {}
    same: dict[str, str] = {}
    for node in graph.node:
        if node.op_type not in MOVING or node.domain or node.output[0] in outputs:
            continue
        reads = [
            to_array(known[n]).tobytes() if n in known and not is_large(known[n]) else n
            for n in (same.get(n, n) for n in node.input)
        ]
        notes = sorted(a.SerializeToString(deterministic=True) for a in node.attribute)
        key = (node.op_type, *reads, *notes)
        found = first.setdefault(key, node.output[0])
        if found != node.output[0]:
            same[node.output[0]] = found
    bypass(graph, same)


def _pools_nothing(node: NodeProto) -> bool:
    """Whether a pool has windows of one place, one beside the other."""
    if node.op_type not in ("AveragePool", "MaxPool") or any(node.output[1:]):
        return False
    found = attributes(node)
    ones = (*found.get("kernel_shape", (0,)), *found.get("strides", (1,)))
    return all(n == 1 for n in ones) and not any(found.get("pads", ()))


def unknown_domains(model: ModelProto) -> list[NodeProto]:
    """Nodes that are neither standard ONNX nor of our domain."""
    return [n for n in model.graph.node if n.domain not in ("", "ai.onnx", DOMAIN)]
