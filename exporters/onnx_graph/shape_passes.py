"""Passes over what only changes shapes: constant targets, chains joined, idle ones dropped."""

from __future__ import annotations

import numpy as np
from onnx import GraphProto, NodeProto, helper

from sepdeploy.exporters.onnx_graph.graph import (
    Dims,
    attributes,
    bypass,
    initializers,
    producers,
    readers_of,
    tensor,
    to_array,
    use_counts,
    value_dims,
)

# Ops of one input that treat every element alike.
ELEMENTWISE = {"Relu", "LeakyRelu", "Sigmoid", "Tanh", "Gelu", "Elu", "Selu", "HardSwish"}
ELEMENTWISE |= {"HardSigmoid", "Softplus", "Softsign", "Mish", "Abs", "Neg", "Exp", "Sqrt", "Erf"}
BROADCASTING = {"Add", "Sub", "Mul", "Div", "Pow", "Max", "Min"}


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
        if n.op_type == "Reshape" and same_shape(dims, n.input[0], n.output[0])
    }
    bypass(graph, same)


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


def fix_expands(graph: GraphProto) -> None:
    """Give expansions constant targets where the batch is not what they add; drop idle ones."""
    dims = value_dims(graph)
    known = initializers(graph)
    readers = readers_of(graph)
    outputs = {o.name for o in graph.output}
    same: dict[str, str] = {}
    for node in graph.node:
        if node.op_type != "Expand" or node.domain:
            continue
        before, after = dims.get(node.input[0]), dims.get(node.output[0])
        if before is None or after is None or len(before) > len(after):
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
            if not idle:  # from here on nobody may count on the shape it had
                dims.pop(node.output[0])
        elif carried and one_open and node.input[1] not in known:
            name = f"{node.output[0]}/shape"
            target = np.array([1 if d is None else d for d in after], np.int64)
            known[name] = tensor(name, target)
            graph.initializer.append(known[name])
            node.input[1] = name
    bypass(graph, same)


def _broadcasts(node: NodeProto, name: str, dims: Dims, known: dict[str, Dims]) -> bool:
    """Whether a reader's other operand has the expanded shape already."""
    if node.op_type not in BROADCASTING or node.domain:
        return False
    others = [known.get(n) for n in node.input if n != name]
    alone = len(others) == len(node.input) - 1
    return alone and dims in others and sum(d is None for d in dims) < 2


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


def same_shape(dims: dict[str, Dims], a: str, b: str) -> bool:
    """Whether two values have one shape, at most one size of it unknown."""
    left, right = dims.get(a), dims.get(b)
    return left is not None and left == right and sum(d is None for d in left) <= 1
