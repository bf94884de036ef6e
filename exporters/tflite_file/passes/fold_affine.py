"""Move constant products and sums behind a layer into its weights: batch norm, biases, scales.

Looks through operators that only move memory, as long as the channel stays the last dimension.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sepdeploy.exporters.tflite_file.format.graph import Array, Graph, Links, Op, Tensor

_MOVING = {"RESHAPE", "STRIDED_SLICE", "TRANSPOSE"}
_LAYERS = {"FULLY_CONNECTED", "CONV_2D", "DEPTHWISE_CONV_2D"}


@dataclass(frozen=True)
class _Found:
    layer: Op
    repeats: int  # times the channels occur in the layer's units (phases of a DEPTH_TO_SPACE)


def fold_affine(graph: Graph) -> None:
    """Fold MUL, ADD and SUB with per-channel constants into the layer before them."""
    links = Links(graph)
    folded: set[int] = set()
    for op in graph.ops:
        operands = _operands(op)
        if operands is None:
            continue
        value, constant = operands
        vector = _per_channel(constant, value)
        uniform = constant.size == 1
        found = None if vector is None else _layer(value, links, uniform=uniform)
        if vector is None or found is None or "activation" in found.layer.options:
            continue
        if uniform:
            vector, found = vector[:1], _Found(found.layer, found.layer.inputs[2].shape[0])
        _apply(op.kind, found, vector)
        before = links.producer[id(value)]
        before.outputs = [op.outputs[0] if t is value else t for t in before.outputs]
        links.producer[id(op.outputs[0])] = before
        folded.add(id(op))
    graph.ops = [op for op in graph.ops if id(op) not in folded]


def _operands(op: Op) -> tuple[Tensor, Array] | None:
    """Return the computed and the constant operand."""
    if op.kind not in ("ADD", "SUB", "MUL") or len(op.inputs) != 2:
        return None
    first, second = op.inputs
    if first.data is None and second.data is not None:
        return first, second.data
    if second.data is None and first.data is not None and op.kind != "SUB":
        return second, first.data
    return None


def _per_channel(constant: Array, value: Tensor) -> Array | None:
    """Return a constant that varies along the last dimension only as a vector of its size."""
    if constant.ndim > len(value.shape) or constant.size not in (1, value.shape[-1]):
        return None
    if constant.size != 1 and constant.shape[-1] != constant.size:
        return None
    return np.broadcast_to(constant.reshape(-1), (value.shape[-1],)).astype(np.float32)


def _layer(value: Tensor, links: Links, *, uniform: bool) -> _Found | None:
    """Return the layer that computes a value's channels, if nobody else reads on the way.

    ``uniform``: the constant is one number, so that channels may move.
    """
    repeats = 1
    while links.alone(value):
        op = links.producer.get(id(value))
        if op is None:
            return None
        if op.kind in _LAYERS:
            return _Found(op, repeats)
        if op.kind == "DEPTH_TO_SPACE":
            repeats *= op.options["block_size"] ** 2
        elif not _keeps_channels(op) and not (uniform and op.kind in _MOVING):
            return None
        value = op.inputs[0]
    return None


def _keeps_channels(op: Op) -> bool:
    """Whether an operator only moves memory and leaves the last dimension as it is."""
    same = op.inputs[0].shape[-1:] == op.outputs[0].shape[-1:]
    return op.kind in ("RESHAPE", "STRIDED_SLICE") and same


def _apply(kind: str, found: _Found, vector: Array) -> None:
    _, weight, bias = found.layer.inputs
    assert weight.data is not None
    assert bias.data is not None
    tiled = np.tile(vector, found.repeats)
    if kind == "MUL":
        last = found.layer.kind == "DEPTHWISE_CONV_2D"
        by_unit = tiled if last else tiled.reshape(-1, *(1,) * (weight.data.ndim - 1))
        found.layer.inputs[1] = _replaced(weight, weight.data * by_unit)
        found.layer.inputs[2] = _replaced(bias, bias.data * tiled)
    else:
        found.layer.inputs[2] = _replaced(bias, bias.data + (tiled if kind == "ADD" else -tiled))


def _replaced(tensor: Tensor, data: Array) -> Tensor:
    return Tensor(tensor.name, tensor.shape, tensor.dtype, np.ascontiguousarray(data, np.float32))
