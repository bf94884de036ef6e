"""Clean-up of a freshly exported graph, independent of the exporter's version.

Every pass keeps the numbers. What is gone afterwards: constant subgraphs, reshapes of reshapes,
reshapes to the shape a value has already, Identity and Dropout, additions of 0 and divisions
by 1. Constants are only folded where that does not make the file larger: a product of factors
that someone wrote out in the graph stays written out.
"""

from __future__ import annotations

import math

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, helper

from sepdeploy.exporters.domain import DOMAIN
from sepdeploy.exporters.folding import SMALL_BYTES, fold_constants, lift_constants
from sepdeploy.exporters.graph import (
    Dims,
    attributes,
    initializers,
    producers,
    prune,
    readers_of,
    replace_reads,
    set_nodes,
    sort_nodes,
    tensor,
    to_array,
    use_counts,
    value_dims,
)
from sepdeploy.exporters.shapes import record_shapes
from sepdeploy.exporters.weights import Weights, is_large

NEUTRAL = {"Add": 0.0, "Sub": 0.0, "Mul": 1.0, "Div": 1.0}
# Ops of one input that treat every element alike.
ELEMENTWISE = {"Relu", "LeakyRelu", "Sigmoid", "Tanh", "Gelu", "Elu", "Selu", "HardSwish"}
ELEMENTWISE |= {"HardSigmoid", "Softplus", "Softsign", "Mish", "Abs", "Neg", "Exp", "Sqrt", "Erf"}
MOVING = {"Reshape", "Transpose", "Squeeze", "Unsqueeze", "Cast", "Shape"}  # of one output
BROADCASTING = {"Add", "Sub", "Mul", "Div", "Pow", "Max", "Min"}


def clean(model: ModelProto, weights: Weights | None = None) -> None:
    """Bring a graph into its canonical form, in place.

    Args:
        model: The graph; large constants may be held (``sepdeploy.exporters.weights``).
        weights: The held numbers, which are folded as well; without them held constants stay.
    """
    graph = model.graph
    for _ in range(64):  # each round removes something; real graphs need two or three
        before = len(graph.node)
        lift_constants(graph)
        fold_constants(graph, weights)
        record_shapes(model)
        fold_known_sizes(graph)
        fix_reshapes(graph)
        fix_expands(graph)
        lift_activations(graph)
        drop_neutral(graph)
        merge_twins(graph)
        prune(graph)
        if len(graph.node) == before and not any(n.op_type == "Constant" for n in graph.node):
            break
    sort_nodes(graph)


def fold_known_sizes(graph: GraphProto) -> None:
    """Turn questions for a size that is known into constants: Shape, and Gather from a Shape."""
    dims = value_dims(graph)
    known = initializers(graph)
    by_output = producers(graph)
    for node in graph.node:
        sizes: Dims | None = None
        scalar = False
        if node.op_type == "Shape":
            sizes = _asked(node, dims)
        elif node.op_type == "Gather" and node.input[1] in known:
            source = by_output.get(node.input[0])
            whole = _asked(source, dims) if source and source.op_type == "Shape" else None
            index = to_array(known[node.input[1]])
            if whole is not None and index.size == 1 and abs(int(index.item()) + 0.5) < len(whole):
                sizes, scalar = (whole[int(index.item())],), index.ndim == 0
        if node.domain or sizes is None or None in sizes:
            continue
        array = np.array(sizes[0] if scalar else sizes, np.int64)
        node.CopyFrom(helper.make_node("Constant", [], list(node.output), name=node.name))
        node.attribute.append(helper.make_attribute("value", tensor("", array)))


def _asked(node: NodeProto, dims: dict[str, Dims]) -> Dims | None:
    """The sizes that a Shape node gives."""
    found = attributes(node)
    shape = dims.get(node.input[0])
    return None if shape is None else shape[found.get("start", 0) : found.get("end")]


def fix_reshapes(graph: GraphProto) -> None:
    """Give reshapes constant targets, join chains, drop those that change nothing."""
    dims = value_dims(graph)
    _fix_targets(graph, dims)
    by_output = {n.output[0]: n for n in graph.node if n.op_type == "Reshape"}
    constants = initializers(graph)
    for node in graph.node:
        if node.op_type != "Reshape" or node.input[1] not in constants:
            continue
        zero_copies = (to_array(constants[node.input[1]]) == 0).any()
        while not zero_copies and node.input[0] in by_output:
            node.input[0] = by_output[node.input[0]].input[0]
    same = {
        n.output[0]: n.input[0]
        for n in graph.node
        if n.op_type == "Reshape" and _same_shape(dims, n.input[0], n.output[0])
    }
    _bypass(graph, same)


def fix_expands(graph: GraphProto) -> None:
    """Give expansions constant targets where the batch is not what they add; drop idle ones."""
    dims = value_dims(graph)
    known = initializers(graph)
    readers = readers_of(graph)
    outputs = {o.name for o in graph.output}
    same = {}
    for node in graph.node:
        if node.op_type != "Expand" or node.domain:
            continue
        before, after = dims.get(node.input[0]), dims.get(node.output[0])
        if before is None or after is None:
            continue
        told = (1,) * (len(after) - len(before)) + before
        carried = all(a is not None or b is None for a, b in zip(after, told, strict=True))
        one_open = sum(d is None for d in after) <= 1
        idle = told == after == before and one_open
        if idle or (
            node.output[0] not in outputs
            and all(_broadcasts(n, node.output[0], after, dims) for n in readers[node.output[0]])
        ):
            same[node.output[0]] = node.input[0]
        elif carried and one_open and node.input[1] not in known:
            name = f"{node.output[0]}/shape"
            target = np.array([1 if d is None else d for d in after], np.int64)
            known[name] = tensor(name, target)
            graph.initializer.append(known[name])
            node.input[1] = name
    _bypass(graph, same)


def _broadcasts(node: NodeProto, name: str, dims: Dims, known: dict[str, Dims]) -> bool:
    """Whether a reader's other operand has the expanded shape already."""
    if node.op_type not in BROADCASTING or node.domain:
        return False
    others = [known.get(n) for n in node.input if n != name]
    return (
        len(others) == len(node.input) - 1 and dims in others and sum(d is None for d in dims) < 2
    )


def lift_activations(graph: GraphProto) -> None:
    """Apply an elementwise op before a reshape where another reshape follows anyway."""
    by_output = producers(graph)
    uses = use_counts(graph)
    readers = readers_of(graph)
    described = {v.name: v for v in graph.value_info}
    for node in graph.node:
        if node.op_type not in ELEMENTWISE or len(node.input) != 1 or node.domain:
            continue
        before = by_output.get(node.input[0])
        after = readers.get(node.output[0], [])
        follows = bool(after) and all(
            n.op_type == "Reshape" and n.input[0] == node.output[0] and uses[node.output[0]] == 1
            for n in after
        )
        if (
            before is None
            or before.op_type != "Reshape"
            or not follows
            or not _absolute(graph, after)
        ):
            continue
        node.input[0] = before.input[0]
        if node.output[0] in described:
            info = described[node.output[0]]
            source = described.get(before.input[0])
            if source is None:
                graph.value_info.remove(info)
            else:
                info.type.CopyFrom(source.type)


def _absolute(graph: GraphProto, reshapes: list[NodeProto]) -> bool:
    """Whether the targets are constants that copy no dimension from the input."""
    known = initializers(graph)
    return all(n.input[1] in known and (to_array(known[n.input[1]]) != 0).all() for n in reshapes)


def _fix_targets(graph: GraphProto, dims: dict[str, Dims]) -> None:
    """A reshape whose result has one unknown dimension (the batch) can say -1 for it."""
    constants = initializers(graph)
    made: set[str] = set(constants)
    for node in graph.node:
        shape = dims.get(node.output[0])
        if node.op_type != "Reshape" or node.input[1] in constants or shape is None:
            continue
        if sum(d is None for d in shape) <= 1 and 0 not in shape:
            name = f"{node.output[0]}/shape"
            if name not in made:
                target = [-1 if d is None else d for d in shape]
                graph.initializer.append(tensor(name, np.array(target, dtype=np.int64)))
                made.add(name)
            node.input[1] = name
            for a in [a for a in node.attribute if a.name == "allowzero"]:
                node.attribute.remove(a)


def _same_shape(dims: dict[str, Dims], a: str, b: str) -> bool:
    left, right = dims.get(a), dims.get(b)
    return left is not None and left == right and sum(d is None for d in left) <= 1


def drop_neutral(graph: GraphProto) -> None:
    """Remove Identity, Dropout and arithmetic with a neutral constant."""
    dims = value_dims(graph)
    constants = initializers(graph)
    same: dict[str, str] = {}
    for node in graph.node:
        if node.domain not in ("", "ai.onnx"):
            continue
        if node.op_type in ("Identity", "Dropout") or _pools_nothing(node):
            same[node.output[0]] = node.input[0]
        elif node.op_type in NEUTRAL and len(node.input) == 2:
            value, other = node.input
            if node.op_type in ("Add", "Mul") and value in constants:
                value, other = other, value
            scale = constants.get(other)
            if (
                scale is not None
                and value not in constants
                and _same_shape(dims, value, node.output[0])
                and math.prod(scale.dims) <= SMALL_BYTES
                and (to_array(scale) == NEUTRAL[node.op_type]).all()
            ):
                same[node.output[0]] = value
    _bypass(graph, same)


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
    _bypass(graph, same)


def _pools_nothing(node: NodeProto) -> bool:
    """Whether a pool has windows of one place, one beside the other."""
    if node.op_type not in ("AveragePool", "MaxPool") or any(node.output[1:]):
        return False
    found = attributes(node)
    ones = (*found.get("kernel_shape", (0,)), *found.get("strides", (1,)))
    return all(n == 1 for n in ones) and not any(found.get("pads", ()))


def _bypass(graph: GraphProto, same: dict[str, str]) -> None:
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


def unknown_domains(model: ModelProto) -> list[NodeProto]:
    """Nodes that are neither standard ONNX nor of our domain."""
    return [n for n in model.graph.node if n.domain not in ("", "ai.onnx", DOMAIN)]
