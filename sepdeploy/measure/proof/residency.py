"""The re-densification check: does the runtime keep a layer's factors, or their dense product?

A graph that builds the dense matrix from its factors is a trap: constant folding restores the
matrix in full, the file stays small and the memory and time are those of the dense layer. So the
graph is inspected as the runtime keeps it.
"""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from onnx import TensorProto

from sepdeploy import runtimes
from sepdeploy.errors import BadInput
from sepdeploy.exporters.domain import structured_nodes
from sepdeploy.exporters.entry import read_entry
from sepdeploy.exporters.plan import planned_weights
from sepdeploy.measure.proof.looks import look
from sepdeploy.measure.proof.resident_graph import GraphNode, ResidentGraph
from sepdeploy.metrics import measured
from sepdeploy.records import Kind, LayerPrecision, LayerRecord, Measurement, Residency
from sepdeploy.structures import Spec, spec_from_json

FACTOR = 1.05
SLACK_BYTES = 1024
FLOAT_BYTES = 4
REST = "(other layers)"  # everything that is not a structured layer
CHANNEL_BLOCK = 16  # of blocked convolution weights, at most
LOST_SHARE = 0.5  # a layer of whose weights less than this is found has been rewritten


@dataclass(frozen=True)
class Blueprint:
    """What the canonical graph says about an artifact.

    Attributes:
        nodes: The canonical nodes in order, each with its structured layer ("" for none); only
            activations stand among their inputs.
        owners: Constant name to the structured layer whose weight it is, "" for none.
        unowned_bytes: Float constants of no structured layer, at float32.
    """

    nodes: tuple[tuple[str, GraphNode], ...] = ()
    owners: Mapping[str, str] = field(default_factory=dict)
    unowned_bytes: int = 0


def check_residency(
    path: str | os.PathLike[str],
    layers: Sequence[LayerRecord],
    precisions: Sequence[LayerPrecision] = (),
) -> tuple[Residency, ...]:
    """Inspect what the runtime keeps of an artifact.

    A constant belongs to the layer whose weight it is by name; else to the layer that it or a node
    reading it is named after; else to the layer in whose place of the graph it is read. A
    structured layer fails when its constants exceed 1.05 × (factors + bias) + 1 KiB, where the
    factors are those of the form that the planner gives it (small ones may be merged), at the
    precision in which the file stores them.

    Args:
        path: The artifact.
        layers: Every weight-carrying layer of the model.
        precisions: Of the layers of a quantised file; float32 where absent.

    Returns:
        One row per structured layer; a last row, for all other layers, only where they hold more
        than they should and no structured layer explains it.

    Raises:
        BadInput: The file is not usable.
        Missing: The runtime is not installed.
    """
    planned = as_planned(layers, runtimes.file_format(path))
    widths = {p.layer: p.weight_bytes for p in precisions}
    return judge_residency(resident_graph(path), planned, blueprint(path), widths)


def as_planned(layers: Sequence[LayerRecord], format_name: str) -> tuple[LayerRecord, ...]:
    """Return the layers with the weights that the planner's form of each one holds.

    Files have a bias per output, also where the model makes it of fewer numbers.
    """
    return tuple(
        replace(x, params=planned_weights(spec, format_name) + _written_bias(x.params, spec))
        if x.spec and (spec := spec_from_json(x.spec, where=x.name)).structure != "dense"
        else x
        for x in layers
    )


def _written_bias(params: int, spec: Spec) -> int:
    """Return how many numbers a file has for the bias of a layer with so many parameters."""
    own = params - spec.weight_params
    return spec.out_features if own and own == spec.bias_params else own


def measure_resident(
    path: str | os.PathLike[str],
    runtime: str,
    threads: int = 1,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
) -> tuple[Measurement, ...]:
    """Measure ``resident_bytes``: the weights in the graph as the runtime keeps it.

    They are the same on any threads and for any sizes of inputs.

    Raises:
        BadInput: The file is not usable, or the runtime takes another format.
        Missing: The runtime is not installed.
    """
    runtimes.choose(path, runtime)
    total = sum(resident_graph(path).constants.values())
    return (measured("resident_bytes", total, Kind.STATIC),)


def resident_graph(path: str | os.PathLike[str]) -> ResidentGraph:
    """Return the graph of an artifact as its runtime keeps it.

    Raises:
        BadInput: The file is not usable.
        Missing: The runtime is not installed.
    """
    return look(path).resident(Path(path))


def blueprint(path: str | os.PathLike[str]) -> Blueprint:
    """Return what an artifact's embedded entry tells; nothing where there is no usable entry."""
    try:
        model = read_entry(Path(path)).graph
    except BadInput:
        return Blueprint()
    constants = {tensor.name for tensor in model.graph.initializer}
    layers = {node.name: node for node in structured_nodes(model)}
    owners = dict.fromkeys(constants, "")
    owners |= {weight: name for name, node in layers.items() for weight in node.input[1:]}
    nodes = []
    for node in model.graph.node:
        reads = tuple(name for name in node.input if name and name not in constants)
        layer = node.name if node.name in layers else ""
        nodes.append((layer, GraphNode(node.name, reads, tuple(node.output))))
    unowned = sum(
        FLOAT_BYTES * math.prod(tensor.dims)
        for tensor in model.graph.initializer
        if tensor.data_type == TensorProto.FLOAT and not owners[tensor.name]
    )
    return Blueprint(tuple(nodes), owners, unowned)


def judge_residency(
    graph: ResidentGraph,
    layers: Sequence[LayerRecord],
    plan: Blueprint | None = None,
    widths: Mapping[str, float] | None = None,
) -> tuple[Residency, ...]:
    """Apply the rule of ``check_residency`` to a graph.

    ``widths`` are the bytes per weight of the layers that are not float32.

    Constants of no layer, beyond what the other layers hold, are charged to the structured layers
    that lack most of theirs: names can be lost on the way, weights cannot.
    """
    whole = {layer.part_of.layer: None for layer in layers if layer.part_of}
    held = attribute(graph, [*(layer.name for layer in layers), *whole], plan or Blueprint())
    sizes = {x.name: _layer_bytes(x, widths or {}) for x in layers}
    expected = {x.name: sizes[x.name] for x in layers if x.structure != "dense"}
    rest = sum(size for name, size in held.items() if name not in expected)
    others = [x for x in layers if x.name not in expected]
    rest_expected = sum(sizes[x.name] for x in others)
    if plan is not None:  # what is in no layer: embeddings, the scales and shifts of norms
        rest_expected += max(0, plan.unowned_bytes - FLOAT_BYTES * sum(x.params for x in others))
    bound = limit(rest_expected + sum(_blocked_padding(x) for x in others))
    excess = rest - rest_expected if rest > bound else 0
    lost = [name for name in expected if held.get(name, 0) < LOST_SHARE * expected[name]]
    weight = sum(expected[name] for name in lost)
    rows = []
    for name, own in expected.items():
        found = held.get(name, 0)
        if name in lost and weight:
            found += excess * own // weight
        rows.append(Residency(name, own, found, limit(own), found <= limit(own)))
    if excess and not lost:
        rows.append(Residency(REST, rest_expected, rest, bound, False))
    return tuple(rows)


def _blocked_padding(layer: LayerRecord) -> int:
    """Return the bytes that a convolution gains where its channels are filled up to whole blocks.

    ONNX Runtime keeps such weights in blocks of 8 or 16 channels, as its vector units want them;
    for the few channels of a factored convolution that can be several times the weights. Where
    such a convolution has no bias a file may hold one of zeros.
    """
    if len(layer.factors) != 1 or len(layer.factors[0]) != 4:
        return 0
    outputs, inputs, height, width = layer.factors[0]
    wide, deep = (-(-n // CHANNEL_BLOCK) * CHANNEL_BLOCK for n in (outputs, inputs))
    bias = layer.params - math.prod(layer.factors[0])
    filled = (wide * deep - outputs * inputs) * height * width + wide - bias
    return FLOAT_BYTES * filled


def _layer_bytes(layer: LayerRecord, widths: Mapping[str, float]) -> int:
    """Return the bytes of a layer's weights and bias; a bias is stored in four bytes each."""
    width = widths.get(layer.name, float(FLOAT_BYTES))
    if width == FLOAT_BYTES:
        return layer.params * FLOAT_BYTES
    bias = _bias_values(layer)
    return math.ceil((layer.params - bias) * width) + bias * FLOAT_BYTES


def _bias_values(layer: LayerRecord) -> int:
    """Return how many of a layer's parameters are bias: what its factors do not account for."""
    rest = max(0, layer.params - sum(math.prod(shape) for shape in layer.factors))
    if layer.structure == "dense" or not layer.spec:
        return rest
    return min(rest, spec_from_json(layer.spec, where=layer.name).out_features)


def limit(expected: int) -> int:
    """Return the bytes of constants that a layer with ``expected`` bytes of weights may hold."""
    return int(FACTOR * expected) + SLACK_BYTES


def attribute(graph: ResidentGraph, layers: Sequence[str], plan: Blueprint) -> dict[str, int]:
    """Return the bytes of constants per layer; "" collects those of no structured layer.

    A constant that several layers read counts in each.
    """
    ordered = sorted(layers, key=len, reverse=True)
    places = layer_places(graph, plan)
    readers: dict[str, set[str]] = {}
    for node, place in zip(graph.nodes, places, strict=True):
        label = _label(node, ordered) or place
        for name in node.inputs:
            readers.setdefault(name, set()).add(label)
    held: dict[str, int] = {}
    for name, size in graph.constants.items():
        if name in plan.owners:
            found = {plan.owners[name]}
        else:
            own = layer_of(name, ordered)
            found = {own} if own else readers.get(name, set()) - {""}
        for layer in found or {""}:
            held[layer] = held.get(layer, 0) + size
    return held


def layer_of(name: str, layers: Iterable[str]) -> str:
    """Return the layer that a node or value is named after ("<layer>/...", "<layer>."), or ""."""
    name = name.removeprefix("fused ")  # ONNX Runtime's mark on a node that took in an activation
    return next((x for x in layers if name == x or name.startswith((f"{x}/", f"{x}."))), "")


def _label(node: GraphNode, layers: Sequence[str]) -> str:
    names = (node.name, *node.outputs)
    return next((found for name in names if (found := layer_of(name, layers))), "")


def layer_places(graph: ResidentGraph, plan: Blueprint) -> list[str]:
    """Return, per node of a runtime's graph, the structured layer in whose place it stands, or "".

    Runtimes rename nodes and weights, but most activations of the canonical graph keep their
    names. The nodes between two activations that both graphs know do the work of the canonical
    nodes between the same two.
    """
    shared = {o for _, node in plan.nodes for o in node.outputs}
    shared &= {o for node in graph.nodes for o in node.outputs}
    canonical = [node for _, node in plan.nodes]
    places = [""] * len(graph.nodes)
    for value in shared:
        between = _between(canonical, value, shared)
        layers = {plan.nodes[i][0] for i in between} - {""}
        if len(layers) == 1:
            for i in _between(graph.nodes, value, shared):
                places[i] = next(iter(layers))
    return places


def _between(nodes: Sequence[GraphNode], value: str, stops: Collection[str]) -> set[int]:
    """Return the nodes that compute a value from other values of ``stops``."""
    source = {output: i for i, node in enumerate(nodes) for output in node.outputs}
    queue, found = [source[value]], set()
    while queue:
        i = queue.pop()
        if i not in found:
            found.add(i)
            queue += [
                source[name] for name in nodes[i].inputs if name not in stops and name in source
            ]
    return found
