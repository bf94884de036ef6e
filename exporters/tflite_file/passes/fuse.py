"""Passes over the finished TFLite graph: fused activations, spared copies, dead operators."""

from __future__ import annotations

from sepdeploy.exporters.tflite_file.format.graph import Graph, Links, Op, Tensor
from sepdeploy.exporters.tflite_file.passes.fold_affine import fold_affine
from sepdeploy.exporters.tflite_file.passes.split_layers import split_layers
from sepdeploy.exporters.tflite_file.values.slices import merge_slices

_ACTIVATIONS = {"RELU", "RELU6"}
_FUSING = {"ADD", "SUB", "MUL", "DIV", "FULLY_CONNECTED", "CONV_2D", "DEPTHWISE_CONV_2D"}
_FUSING |= {"AVERAGE_POOL_2D", "MAX_POOL_2D"}
_MOVING = {"RESHAPE", "TRANSPOSE", "DEPTH_TO_SPACE", "SPACE_TO_DEPTH", "STRIDED_SLICE"}
_REDUCTIONS = {"MEAN", "SUM", "REDUCE_MAX", "REDUCE_MIN", "REDUCE_PROD"}


def fuse(graph: Graph) -> Graph:
    """Apply all passes; the graph computes the same."""
    drop_dead(graph)
    chain_slices(graph)
    fold_affine(graph)
    split_layers(graph)
    fold_affine(graph)
    fuse_activations(graph)
    chain_reshapes(graph)
    squeeze_reductions(graph)
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
    """Let an operator apply the RELU or RELU6 behind it, looking through moves of memory."""
    links = Links(graph)
    fused: set[int] = set()
    for op in graph.ops:
        if op.kind not in _ACTIVATIONS:
            continue
        inner = op.inputs[0]
        source = links.producer.get(id(inner))
        before = source
        value = inner
        while before is not None and before.kind in _MOVING and links.alone(value):
            value = before.inputs[0]
            before = links.producer.get(id(value))
        if before is None or source is None or not links.alone(value) or not links.alone(inner):
            continue
        if before.kind not in _FUSING or "activation" in before.options:
            continue
        before.options["activation"] = op.kind
        source.outputs = op.outputs
        links.producer[id(op.outputs[0])] = source
        fused.add(id(op))
    graph.ops = [op for op in graph.ops if id(op) not in fused]


def chain_reshapes(graph: Graph) -> None:
    """Let a RESHAPE of a RESHAPE read what the first one reads."""
    links = Links(graph)
    replaced: dict[int, Tensor] = {}
    for op in graph.ops:
        op.inputs = [replaced.get(id(t), t) for t in op.inputs]
        if op.kind != "RESHAPE":
            continue
        while (before := links.producer.get(id(op.inputs[0]))) and before.kind == "RESHAPE":
            op.inputs[0] = before.inputs[0]
        if op.inputs[0].shape == op.outputs[0].shape and id(op.outputs[0]) not in links.outputs:
            replaced[id(op.outputs[0])] = op.inputs[0]


def chain_slices(graph: Graph) -> None:
    """Let a slice of a slice read what the first one reads."""
    links = Links(graph)
    for op in graph.ops:
        while op.kind == "STRIDED_SLICE" and links.alone(op.inputs[0]):
            before = links.producer.get(id(op.inputs[0]))
            if before is None or before.kind != "STRIDED_SLICE" or not merge_slices(before, op):
                break


def squeeze_reductions(graph: Graph) -> None:
    """Let a reduction drop its dimensions itself where a RESHAPE right behind it does."""
    links = Links(graph)
    removed: set[int] = set()
    for op in graph.ops:
        before = links.producer.get(id(op.inputs[0])) if op.kind == "RESHAPE" else None
        if before is None or before.kind not in _REDUCTIONS or not links.alone(op.inputs[0]):
            continue
        axes = before.inputs[1].data
        assert axes is not None
        gone = {int(a) for a in axes.reshape(-1)}
        rest = tuple(d for i, d in enumerate(before.outputs[0].shape) if i not in gone)
        if before.options.get("keep_dims") and rest == op.outputs[0].shape:
            before.options = {}
            before.outputs = op.outputs
            removed.add(id(op))
    graph.ops = [op for op in graph.ops if id(op) not in removed]
