"""Clean-up of a freshly exported graph, independent of the exporter's version.

Every pass keeps the numbers. What is gone afterwards: constant subgraphs, reshapes of reshapes,
reshapes to the shape a value has already, Identity and Dropout, additions of 0 and divisions
by 1. Constants are only folded where that does not make the file larger: a product of factors
that someone wrote out in the graph stays written out.
"""

from __future__ import annotations

import math

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper
from onnx.reference import ReferenceEvaluator

from sepdeploy.exporters.domain import DOMAIN, IR_VERSION, OPSET
from sepdeploy.exporters.graph import (
    Array,
    Dims,
    initializers,
    producers,
    prune,
    replace_reads,
    set_nodes,
    sort_nodes,
    tensor,
    tensor_bytes,
    to_array,
    use_counts,
    value_dims,
)

SMALL_BYTES = 4096  # shape arithmetic and scalars are always folded
NEUTRAL = {"Add": 0.0, "Sub": 0.0, "Mul": 1.0, "Div": 1.0}
# Ops of one input that treat every element alike.
ELEMENTWISE = {"Relu", "LeakyRelu", "Sigmoid", "Tanh", "Gelu", "Elu", "Selu", "HardSwish"}
ELEMENTWISE |= {"HardSigmoid", "Softplus", "Softsign", "Mish", "Abs", "Neg", "Exp", "Sqrt", "Erf"}
NEVER_FOLDED = {
    "RandomNormal",
    "RandomUniform",
    "RandomNormalLike",
    "RandomUniformLike",
    "Multinomial",
}


def clean(model: ModelProto) -> None:
    """Bring a graph into its canonical form, in place."""
    graph = model.graph
    for _ in range(64):  # each round removes something; real graphs need two or three
        before = len(graph.node)
        lift_constants(graph)
        fold_constants(graph)
        fix_reshapes(graph)
        lift_activations(graph)
        drop_neutral(graph)
        prune(graph)
        if len(graph.node) == before:
            break
    sort_nodes(graph)


def lift_constants(graph: GraphProto) -> None:
    """Turn Constant nodes into initializers."""
    kept = []
    for node in graph.node:
        value = _constant_value(node) if node.op_type == "Constant" else None
        if value is None:
            kept.append(node)
        else:
            graph.initializer.append(tensor(node.output[0], value))
    set_nodes(graph, kept)


def _constant_value(node: NodeProto) -> Array | None:
    kinds: dict[str, type[np.generic]] = {
        "value_int": np.int64,
        "value_ints": np.int64,
        "value_float": np.float32,
        "value_floats": np.float32,
    }
    for attribute in node.attribute:
        if attribute.name == "value":
            return to_array(attribute.t)
        if attribute.name in kinds:
            return np.array(helper.get_attribute_value(attribute), dtype=kinds[attribute.name])
    return None


def fold_constants(graph: GraphProto) -> None:
    """Evaluate nodes whose inputs are all constants, unless the result is larger than they are."""
    known = initializers(graph)
    outputs = {o.name for o in graph.output}
    kept = []
    for node in graph.node:
        names = [n for n in node.input if n]
        foldable = (
            node.domain in ("", "ai.onnx")
            and node.op_type not in NEVER_FOLDED
            and names
            and all(n in known for n in names)
            and not outputs.intersection(node.output)
            and not any(a.HasField("g") or a.graphs for a in node.attribute)
        )
        results = _within_limit(node, known, names) if foldable else None
        if results is None:
            kept.append(node)
            continue
        for name, result in zip(node.output, results, strict=True):
            known[name] = tensor(name, result)
            graph.initializer.append(known[name])
    set_nodes(graph, kept)


def _within_limit(
    node: NodeProto, known: dict[str, TensorProto], names: list[str]
) -> list[Array] | None:
    limit = max(SMALL_BYTES, sum(tensor_bytes(known[n]) for n in names))
    results = _evaluate(node, [to_array(known[n]) for n in names], names)
    return results if results and sum(r.nbytes for r in results) <= limit else None


def _evaluate(node: NodeProto, arrays: list[Array], names: list[str]) -> list[Array] | None:
    # A bound on the work, too: Expand or Tile of a scalar could ask for any amount of memory.
    if node.op_type in ("Expand", "Tile", "ConstantOfShape", "Range"):
        size = float(np.prod(arrays[-1].astype(np.float64))) if arrays[-1].dtype.kind == "i" else 0
        if node.op_type == "Range" or size > SMALL_BYTES:
            return None
    infos = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
        for n, a in dict(zip(names, arrays, strict=True)).items()
    ]
    outs = [helper.make_empty_tensor_value_info(n) for n in node.output]
    graph = helper.make_graph([node], "fold", infos, outs)
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION
    )
    try:
        found = ReferenceEvaluator(model).run(None, dict(zip(names, arrays, strict=True)))
    except (NotImplementedError, RuntimeError, ValueError, TypeError, IndexError):
        return None  # an op the reference lacks simply stays in the graph
    return [np.asarray(f) for f in found]


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


def lift_activations(graph: GraphProto) -> None:
    """Apply an elementwise op before a reshape where another reshape follows anyway."""
    by_output = producers(graph)
    uses = use_counts(graph)
    readers: dict[str, list[NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
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
        if node.op_type in ("Identity", "Dropout"):
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
