"""A small toolkit for ONNX graphs as plain protobufs: look-ups, clean-up, deterministic bytes."""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import (
    AttributeProto,
    GraphProto,
    ModelProto,
    NodeProto,
    TensorProto,
    helper,
    numpy_helper,
)

Array = NDArray[Any]
Dims = tuple[int | None, ...]


def attributes(node: NodeProto) -> dict[str, Any]:
    """The attributes of a node as Python values."""
    return {a.name: helper.get_attribute_value(a) for a in node.attribute}


def subgraphs(node: NodeProto) -> Iterator[GraphProto]:
    """The graphs in a node's attributes (bodies of If, Loop, Scan)."""
    for attribute in node.attribute:
        if attribute.type == AttributeProto.GRAPH:
            yield attribute.g
        yield from attribute.graphs


def read_names(node: NodeProto) -> Iterator[str]:
    """Every value a node reads, the ones captured by its subgraphs included."""
    yield from (name for name in node.input if name)
    for graph in subgraphs(node):
        for inner in graph.node:
            yield from read_names(inner)
        yield from (o.name for o in graph.output)


def initializers(graph: GraphProto) -> dict[str, TensorProto]:
    """The constants of a graph by name."""
    return {t.name: t for t in graph.initializer}


def producers(graph: GraphProto) -> dict[str, NodeProto]:
    """The node that writes each value."""
    return {name: node for node in graph.node for name in node.output if name}


def use_counts(graph: GraphProto) -> Counter[str]:
    """How often each value is read; a graph output counts as one read."""
    counts = Counter(name for node in graph.node for name in read_names(node))
    counts.update(o.name for o in graph.output)
    return counts


def value_dims(graph: GraphProto) -> dict[str, Dims]:
    """The recorded shape of each value; None stands for a dimension that is not a number."""
    found: dict[str, Dims] = {}
    for info in (*graph.input, *graph.value_info, *graph.output):
        tensor = info.type.tensor_type
        if info.type.HasField("tensor_type") and tensor.HasField("shape"):
            dims = tensor.shape.dim
            found[info.name] = tuple(d.dim_value if d.HasField("dim_value") else None for d in dims)
    return found | {t.name: tuple(t.dims) for t in graph.initializer}


def readers_of(graph: GraphProto) -> defaultdict[str, list[NodeProto]]:
    """The nodes that read each value; one that reads it twice stands there twice."""
    readers: defaultdict[str, list[NodeProto]] = defaultdict(list)
    for node in graph.node:
        for name in read_names(node):
            readers[name].append(node)
    return readers


def rename_values(graph: GraphProto, names: Mapping[str, str]) -> None:
    """Rename values wherever they are written, read or described, subgraphs included."""
    for node in graph.node:
        for field in (node.input, node.output):
            for i, name in enumerate(field):
                field[i] = names.get(name, name)
        for inner in subgraphs(node):
            rename_values(inner, names)
    for item in (*graph.initializer, *graph.input, *graph.output, *graph.value_info):
        item.name = names.get(item.name, item.name)


def replace_reads(graph: GraphProto, names: Mapping[str, str]) -> None:
    """Let every reader of a value read another one instead; graph outputs stay as they are."""
    for node in graph.node:
        for i, name in enumerate(node.input):
            node.input[i] = names.get(name, name)
        for inner in subgraphs(node):
            replace_reads(inner, names)


def set_nodes(graph: GraphProto, nodes: Iterable[NodeProto]) -> None:
    """Replace all nodes of a graph."""
    kept = list(nodes)
    del graph.node[:]
    graph.node.extend(kept)


def set_initializers(graph: GraphProto, tensors: Iterable[TensorProto]) -> None:
    """Replace all constants of a graph."""
    kept = list(tensors)
    del graph.initializer[:]
    graph.initializer.extend(kept)


def prune(graph: GraphProto) -> None:
    """Remove what no output depends on: nodes, constants, recorded shapes."""
    needed = {o.name for o in graph.output}
    kept: list[NodeProto] = []
    for node in reversed(graph.node):
        if any(name in needed for name in node.output):
            kept.append(node)
            needed.update(read_names(node))
    set_nodes(graph, reversed(kept))
    set_initializers(graph, [t for t in graph.initializer if t.name in needed])
    apart = {t.name for t in graph.initializer} | {i.name for i in (*graph.input, *graph.output)}
    described = [v for v in graph.value_info if v.name in needed - apart]
    del graph.value_info[:]
    graph.value_info.extend(described)


def sort_nodes(graph: GraphProto) -> None:
    """Order nodes so that each comes after what it reads; the given order decides ties.

    Raises:
        ValueError: The graph has a cycle.
    """
    nodes = list(graph.node)
    writers = {name: i for i, node in enumerate(nodes) for name in node.output if name}
    sources = [{writers[n] for n in read_names(node) if n in writers} for node in nodes]
    readers: defaultdict[int, list[int]] = defaultdict(list)
    for i, found in enumerate(sources):
        for source in found:
            readers[source].append(i)
    waits = [len(found) for found in sources]
    ready = deque(i for i, count in enumerate(waits) if not count)
    # How often one would go through the list before a node's turn comes.
    rounds = [0] * len(nodes)
    done = 0
    while ready:
        i = ready.popleft()
        done += 1
        for reader in readers[i]:
            rounds[reader] = max(rounds[reader], rounds[i] + (i > reader))
            waits[reader] -= 1
            if not waits[reader]:
                ready.append(reader)
    if done < len(nodes):
        stuck = next(i for i, count in enumerate(waits) if count)
        message = f"the graph has a cycle through or before node '{nodes[stuck].name}'"
        raise ValueError(message)
    set_nodes(graph, [nodes[i] for i in sorted(range(len(nodes)), key=lambda i: (rounds[i], i))])


def strip_metadata(model: ModelProto) -> None:
    """Remove exporter notes: they carry absolute source paths and differ between checkouts."""
    model.ClearField("metadata_props")
    for name in ("producer_name", "producer_version", "domain", "model_version", "doc_string"):
        model.ClearField(name)
    for function in model.functions:
        function.ClearField("metadata_props")
        function.ClearField("doc_string")
        _strip_nodes(function.node)
        _strip_values(function.value_info)
    _strip_graph(model.graph)


def _strip_graph(graph: GraphProto) -> None:
    graph.ClearField("metadata_props")
    graph.ClearField("doc_string")
    _strip_nodes(graph.node)
    _strip_values((*graph.input, *graph.output, *graph.value_info, *graph.initializer))


def _strip_nodes(nodes: Iterable[NodeProto]) -> None:
    for node in nodes:
        node.ClearField("metadata_props")
        node.ClearField("doc_string")
        for attribute in node.attribute:
            attribute.ClearField("doc_string")
        for inner in subgraphs(node):
            _strip_graph(inner)


def _strip_values(values: Iterable[Any]) -> None:
    for value in values:
        value.ClearField("metadata_props")
        value.ClearField("doc_string")


def to_array(tensor: TensorProto) -> Array:
    """The numbers of a constant."""
    return np.asarray(numpy_helper.to_array(tensor))


def tensor(name: str, array: Array) -> TensorProto:
    """A constant with raw little-endian data; a scalar keeps its rank of 0."""
    return numpy_helper.from_array(np.asarray(array, order="C"), name)


def tensor_bytes(item: TensorProto) -> int:
    """Bytes of a constant's numbers, whether or not they are present."""
    size = helper.tensor_dtype_to_np_dtype(item.data_type).itemsize
    return int(np.prod(item.dims, dtype=np.int64)) * size


def float_bytes(graph: GraphProto) -> int:
    """Bytes of all floating-point constants."""
    kinds = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16)
    return sum(tensor_bytes(t) for t in graph.initializer if t.data_type in kinds)


def serialize(message: ModelProto | GraphProto | TensorProto) -> bytes:
    """The same message gives the same bytes, in every process."""
    return bytes(message.SerializeToString(deterministic=True))


def copy_model(model: ModelProto) -> ModelProto:
    """An independent copy."""
    duplicate = onnx.ModelProto()
    duplicate.CopyFrom(model)
    return duplicate


def bypass(graph: GraphProto, same: dict[str, str]) -> None:
    """Let readers of a key read its value; an output of the graph keeps its name."""
    if not same:
        return
    roots = {}
    for name in same:
        root = name
        while root in same:
            root = same[root]
        roots[name] = root
    replace_reads(graph, roots)
    outputs = {o.name for o in graph.output}
    fixed = {i.name for i in graph.input} | set(initializers(graph))
    kept = []
    for node in graph.node:
        if len(node.output) and node.output[0] in same:
            name = node.output[0]
            if name not in outputs:
                continue
            root = roots[name]
            if root in fixed or root in outputs:  # nothing writes it under another name
                kept.append(helper.make_node("Identity", [root], [name], name=node.name))
                continue
            _take_over(graph, root, name)
            continue
        kept.append(node)
    set_nodes(graph, kept)


def _take_over(graph: GraphProto, root: str, name: str) -> None:
    """The producer of ``root`` writes the graph output ``name`` directly."""
    for node in graph.node:
        for i, out in enumerate(node.output):
            if out == root:
                node.output[i] = name
    replace_reads(graph, {root: name})
