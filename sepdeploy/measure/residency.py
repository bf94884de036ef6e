"""The re-densification check: does the runtime keep a layer's factors, or their dense product?

A graph that builds the dense matrix from its factors is a trap: constant folding restores the
matrix in full, the file stays small and the memory and time are those of the dense layer. So the
graph is inspected as the runtime keeps it (DESIGN §5).
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from sepdeploy import runtimes
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


@dataclass(frozen=True)
class ResidencyReport:
    """The check's outcome.

    Attributes:
        layers: One row per structured layer; a last row for all other layers only where they
            hold more than they should.
        resident_bytes: All weights that the runtime keeps.
    """

    layers: tuple[Residency, ...]
    resident_bytes: int

    @property
    def passed(self) -> bool:
        """Whether no layer was made dense."""
        return all(layer.passed for layer in self.layers)

    def measurement(self) -> Measurement:
        """Return ``resident_bytes``."""
        shares = {r.layer: r.resident_bytes for r in self.layers}
        return Measurement(
            "resident_bytes",
            self.resident_bytes,
            "bytes",
            Kind.STATIC,
            details={"layers": shares} if shares else {},
        )


def check_residency(
    path: str | os.PathLike[str],
    layers: Sequence[LayerRecord],
    *,
    weights: Mapping[str, Collection[str]] | None = None,
) -> ResidencyReport:
    """Inspect what the runtime keeps of an artifact.

    A constant belongs to the layer whose weight it is by name, else to the layer that the nodes
    reading it are named after, else to the layer that its surroundings in the graph belong to. A
    structured layer fails when its constants exceed 1.05 × (factors + bias) + 1 KiB, or when they
    are gone and other constants have grown instead.

    Args:
        path: The artifact.
        layers: Every weight-carrying layer of the model.
        weights: Layer name to the names of its weights in the canonical graph, where known.

    Raises:
        BadInput: The file is not usable.
        Missing: The runtime is not installed.
    """
    onnx = runtimes.file_format(path) == "onnx"
    graph = optimized_onnx(path) if onnx else tflite_file(path)
    return judge_residency(graph, layers, weights or {})


def judge_residency(
    graph: ResidentGraph,
    layers: Sequence[LayerRecord],
    weights: Mapping[str, Collection[str]],
) -> ResidencyReport:
    """Apply the rule to a graph; see ``check_residency``."""
    held = attribute(graph, [layer.name for layer in layers], weights)
    structured = [layer for layer in layers if layer.structure != "dense"]
    names = {layer.name for layer in structured}
    rest = sum(size for name, size in held.items() if name not in names)
    rest_expected = sum(layer.params for layer in layers if layer.name not in names) * FLOAT_BYTES
    rest_over = rest > limit(rest_expected)
    rows = []
    for layer in structured:
        expected, found = layer.params * FLOAT_BYTES, held.get(layer.name, 0)
        lost = rest_over and found < LOST_SHARE * expected
        bound = limit(expected)
        rows.append(Residency(layer.name, expected, found, bound, found <= bound and not lost))
    if rest_over and all(row.passed for row in rows):
        rows.append(Residency(REST, rest_expected, rest, limit(rest_expected), False))
    return ResidencyReport(tuple(rows), sum(graph.constants.values()))


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
