"""Passes over the finished TFLite graph: fused activations, spared reshapes, dead operators."""

from __future__ import annotations

from sepdeploy.exporters.tflite_file.fold_affine import fold_affine
from sepdeploy.exporters.tflite_file.graph import Graph, Op, Tensor

_ACTIVATIONS = {"RELU": "RELU", "RELU6": "RELU6"}
_FUSING = {
    "ADD",
    "SUB",
    "MUL",
    "DIV",
    "FULLY_CONNECTED",
    "CONV_2D",
    "DEPTHWISE_CONV_2D",
    "AVERAGE_POOL_2D",
    "MAX_POOL_2D",
}


def fuse(graph: Graph) -> Graph:
    """Apply all passes; the graph computes the same."""
    drop_dead(graph)
    fold_affine(graph)
    fuse_activations(graph)
    chain_reshapes(graph)
    drop_dead(graph)
    return graph


def drop_dead(graph: Graph) -> None:
    """Remove operators whose outputs nobody reads."""
    needed = {id(t) for t in graph.outputs.values()}
    kept: list[Op] = []
    for op in reversed(graph.ops):
        if any(id(t) in needed for t in op.outputs):
            needed.update(id(t) for t in op.inputs)
            kept.append(op)
    graph.ops = kept[::-1]


def fuse_activations(graph: Graph) -> None:
    """Let the operator before a RELU or RELU6 apply it, where nobody else reads its output."""
    uses = graph.consumers()
    outputs = {id(t) for t in graph.outputs.values()}
    producer = {id(t): op for op in graph.ops for t in op.outputs}
    fused: set[int] = set()
    for op in graph.ops:
        source = producer.get(id(op.inputs[0])) if op.kind in _ACTIVATIONS else None
        if source is None or source.kind not in _FUSING or "activation" in source.options:
            continue
        inner = op.inputs[0]
        if len(uses[id(inner)]) > 1 or id(inner) in outputs:
            continue
        source.options["activation"] = _ACTIVATIONS[op.kind]
        source.outputs = op.outputs
        producer[id(op.outputs[0])] = source
        fused.add(id(op))
    graph.ops = [op for op in graph.ops if id(op) not in fused]


def chain_reshapes(graph: Graph) -> None:
    """Let a RESHAPE of a RESHAPE read what the first one reads."""
    producer = {id(t): op for op in graph.ops for t in op.outputs}
    replaced: dict[int, Tensor] = {}
    outputs = {id(t) for t in graph.outputs.values()}
    for op in graph.ops:
        op.inputs = [replaced.get(id(t), t) for t in op.inputs]
        if op.kind != "RESHAPE":
            continue
        while (source := producer.get(id(op.inputs[0]))) and source.kind == "RESHAPE":
            op.inputs[0] = source.inputs[0]
        if op.inputs[0].shape == op.outputs[0].shape and id(op.outputs[0]) not in outputs:
            replaced[id(op.outputs[0])] = op.inputs[0]
