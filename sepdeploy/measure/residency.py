"""The re-densification check: does the runtime keep a layer's factors, or their dense product?

A graph that builds the dense matrix from its factors is a trap: constant folding restores the
matrix in full, the file stays small and the memory and time are those of the dense layer. So the
graph is inspected as the runtime keeps it (DESIGN §5).
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from sepdeploy import runtimes
from sepdeploy.errors import BadInput
from sepdeploy.exporters.domain import structured_nodes
from sepdeploy.exporters.entry import read_entry
from sepdeploy.measure.resident_graph import (
    GraphNode,
    ResidentGraph,
    optimized_onnx,
    tflite_file,
)
from sepdeploy.records import Kind, LayerRecord, Measurement, Residency

FACTOR = 1.05
SLACK_BYTES = 1024
FLOAT_BYTES = 4
REST = "(other layers)"  # everything that is not a structured layer
LOST_SHARE = 0.5  # a layer of whose weights less than this is found has been rewritten


def check_residency(
    path: str | os.PathLike[str], layers: Sequence[LayerRecord]
) -> tuple[Residency, ...]:
    """Inspect what the runtime keeps of an artifact.

    A constant belongs to the layer whose weight it is by name, else to the layer that the nodes
    reading it are named after, else to the layer that its surroundings in the graph belong to. A
    structured layer fails when its constants exceed 1.05 × (factors + bias) + 1 KiB.

    Args:
        path: The artifact.
        layers: Every weight-carrying layer of the model.

    Returns:
        One row per structured layer; a last row, for all other layers, only where they hold more
        than they should and no structured layer explains it.

    Raises:
        BadInput: The file is not usable.
        Missing: The runtime is not installed.
    """
    return judge_residency(resident_graph(path), layers, weight_names(path))


def measure_resident(path: str | os.PathLike[str], runtime: str) -> Measurement:
    """Measure ``resident_bytes``: the weights in the graph as the runtime keeps it.

    Raises:
        BadInput: The file is not usable, or the runtime takes another format.
        Missing: The runtime is not installed.
    """
    runtimes.choose(path, runtime)
    total = sum(resident_graph(path).constants.values())
    return Measurement("resident_bytes", total, "bytes", Kind.STATIC)


def resident_graph(path: str | os.PathLike[str]) -> ResidentGraph:
    """Return the graph of an artifact as its runtime keeps it.

    Raises:
        BadInput: The file is not usable.
        Missing: The runtime is not installed.
    """
    return optimized_onnx(path) if runtimes.file_format(path) == "onnx" else tflite_file(path)


def weight_names(path: str | os.PathLike[str]) -> dict[str, tuple[str, ...]]:
    """Return the names of each structured layer's weights, from the embedded entry where one is."""
    try:
        graph = read_entry(Path(path)).graph
    except BadInput:
        return {}
    return {node.name: tuple(node.input[1:]) for node in structured_nodes(graph)}


def judge_residency(
    graph: ResidentGraph,
    layers: Sequence[LayerRecord],
    weights: Mapping[str, Collection[str]],
) -> tuple[Residency, ...]:
    """Apply the rule of ``check_residency`` to a graph.

    Constants of no layer, beyond what the other layers hold, are charged to the structured layers
    that lack most of theirs: names can be lost on the way, weights cannot.
    """
    held = attribute(graph, [layer.name for layer in layers], weights)
    expected = {x.name: x.params * FLOAT_BYTES for x in layers if x.structure != "dense"}
    rest = sum(size for name, size in held.items() if name not in expected)
    rest_expected = sum(x.params for x in layers if x.name not in expected) * FLOAT_BYTES
    excess = rest - rest_expected if rest > limit(rest_expected) else 0
    lost = [name for name in expected if held.get(name, 0) < LOST_SHARE * expected[name]]
    weight = sum(expected[name] for name in lost)
    rows = []
    for name, own in expected.items():
        found, bound = held.get(name, 0), limit(own)
        if name in lost and weight:
            found += excess * own // weight
        rows.append(Residency(name, own, found, bound, found <= bound))
    if excess and not lost:
        rows.append(Residency(REST, rest_expected, rest, limit(rest_expected), False))
    return tuple(rows)


def limit(expected: int) -> int:
    """Return the bytes of constants that a layer with ``expected`` bytes of weights may hold."""
    return int(FACTOR * expected) + SLACK_BYTES


def attribute(
    graph: ResidentGraph, layers: Sequence[str], weights: Mapping[str, Collection[str]]
) -> dict[str, int]:
    """Return the bytes of constants per layer; "" collects those of no layer.

    A constant that several layers read counts in each.
    """
    owner = {weight: layer for layer, group in weights.items() for weight in group}
    ordered = sorted(layers, key=len, reverse=True)
    labels = [_label(node, ordered) for node in graph.nodes]
    readers: dict[str, list[int]] = {}
    for i, node in enumerate(graph.nodes):
        for name in node.inputs:
            readers.setdefault(name, []).append(i)
    around = _Surroundings(graph.nodes, labels, graph.constants)
    held: dict[str, int] = {}
    for name, size in graph.constants.items():
        own = owner.get(name) or layer_of(name, ordered)
        found = {own} if own else {labels[i] for i in readers.get(name, ())} - {""}
        if not found:
            found = around.labels(readers.get(name, ()))
        for layer in found or {""}:
            held[layer] = held.get(layer, 0) + size
    return held


def layer_of(name: str, layers: Iterable[str]) -> str:
    """Return the layer that a node or value is named after ("<layer>/..."), or ""."""
    return next((layer for layer in layers if name == layer or name.startswith(f"{layer}/")), "")


def _label(node: GraphNode, layers: Sequence[str]) -> str:
    names = (node.name, *node.outputs)
    return next((found for name in names if (found := layer_of(name, layers))), "")


class _Surroundings:
    """Finds the layer that nodes without a name of their own lie in."""

    def __init__(
        self, nodes: Sequence[GraphNode], labels: Sequence[str], constants: Mapping[str, int]
    ) -> None:
        self._labels = labels
        self._neighbours: list[set[int]] = [set() for _ in nodes]
        source = {output: i for i, node in enumerate(nodes) for output in node.outputs}
        for i, node in enumerate(nodes):
            for name in node.inputs:
                j = source.get(name)
                if j is not None and name not in constants:
                    self._neighbours[i].add(j)
                    self._neighbours[j].add(i)

    def labels(self, start: Iterable[int]) -> set[str]:
        """Return the one layer that all named nodes around belong to, else nothing."""
        seen, queue, found = set(start), deque(start), set()
        while queue:
            i = queue.popleft()
            if self._labels[i]:
                found.add(self._labels[i])
                continue
            fresh = self._neighbours[i] - seen
            seen |= fresh
            queue.extend(fresh)
        return found if len(found) == 1 else set()
