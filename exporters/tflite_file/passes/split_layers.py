"""A layer of which only slices of the channels are read becomes one layer per slice.

Attention computes query, key and value by one product and cuts it apart; with the weights cut
instead, nothing is copied at run time and each part can absorb its own scale.
"""

from __future__ import annotations

import itertools

import numpy as np

from sepdeploy.exporters.tflite_file.format.graph import Array, Graph, Op, Tensor
from sepdeploy.exporters.tflite_file.values.slices import first_of

_LAYERS = {"FULLY_CONNECTED", "CONV_2D"}


def split_layers(graph: Graph) -> None:
    """Split FULLY_CONNECTED and ungrouped CONV_2D whose every reader slices the channels."""
    uses = graph.consumers()
    outputs = {id(t) for t in graph.outputs.values()}
    new: list[Op] = []
    gone: set[int] = set()
    for op in graph.ops:
        if id(op) in gone:
            continue
        readers = uses.get(id(op.outputs[0]), []) if op.kind in _LAYERS else []
        parts = [_channels(reader, op.outputs[0]) for reader in readers]
        ranges = [p for p in parts if p is not None]
        whole = len(ranges) == len(parts) > 1 and id(op.outputs[0]) not in outputs
        if not whole or _overlap(ranges) or _grouped(op):
            new.append(op)
            continue
        for reader, (start, stop) in zip(readers, ranges, strict=True):
            new.append(_part(op, reader, start, stop))
            gone.add(id(reader))
    graph.ops = new


def _grouped(op: Op) -> bool:
    return op.kind == "CONV_2D" and op.inputs[1].shape[3] != op.inputs[0].shape[3]


def _channels(reader: Op, value: Tensor) -> tuple[int, int] | None:
    """Return the channels that a slice takes, if it takes all of every other dimension."""
    first = first_of(reader)
    if first is None or reader.outputs[0].shape[:-1] != value.shape[:-1]:
        return None
    return first[-1], first[-1] + reader.outputs[0].shape[-1]


def _overlap(ranges: list[tuple[int, int]]) -> bool:
    ordered = sorted(ranges)
    return any(a[1] > b[0] for a, b in itertools.pairwise(ordered))


def _part(op: Op, reader: Op, start: int, stop: int) -> Op:
    source, weight, bias = op.inputs
    inputs = [source, _cut(weight, start, stop), _cut(bias, start, stop)]
    return Op(op.kind, inputs, reader.outputs, dict(op.options))


def _cut(tensor: Tensor, start: int, stop: int) -> Tensor:
    assert tensor.data is not None
    data: Array = np.ascontiguousarray(tensor.data[start:stop])
    return Tensor(f"{tensor.name}[{start}:{stop}]", data.shape, data.dtype, data)
