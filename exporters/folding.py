"""Constant folding that never makes a file larger."""

from __future__ import annotations

import numpy as np
from onnx import GraphProto, NodeProto, TensorProto, helper
from onnx.reference import ReferenceEvaluator

from sepdeploy.exporters.domain import IR_VERSION, OPSET
from sepdeploy.exporters.graph import (
    Array,
    initializers,
    set_nodes,
    tensor,
    tensor_bytes,
    to_array,
)
from sepdeploy.exporters.weights import HELD_BYTES, Weights, hold, is_held

SMALL_BYTES = 4096  # shape arithmetic and scalars are always folded
NEVER_FOLDED = {
    "RandomNormal",
    "RandomUniform",
    "RandomNormalLike",
    "RandomUniformLike",
    "Multinomial",
}


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


def fold_constants(graph: GraphProto, weights: Weights | None = None) -> None:
    """Evaluate nodes whose inputs are all constants, unless the result is larger than they are.

    Args:
        graph: The graph, changed in place.
        weights: Numbers of held constants; without them nothing that reads one is folded.
    """
    known = initializers(graph)
    outputs = {o.name for o in graph.output}
    kept = []
    for node in graph.node:
        names = [n for n in node.input if n]
        foldable = (
            node.domain in ("", "ai.onnx")
            and node.op_type not in NEVER_FOLDED
            and names
            and all(n in known and (weights is not None or not is_held(known[n])) for n in names)
            and not outputs.intersection(node.output)
            and not any(a.HasField("g") or a.graphs for a in node.attribute)
        )
        results = _within_limit(node, known, names, weights or {}) if foldable else None
        if results is None:
            kept.append(node)
            continue
        for name, result in zip(node.output, results, strict=True):
            if weights is not None and result.nbytes > HELD_BYTES:
                known[name] = hold(name, result, weights)
            else:
                known[name] = tensor(name, result)
            graph.initializer.append(known[name])
    set_nodes(graph, kept)


def _within_limit(
    node: NodeProto, known: dict[str, TensorProto], names: list[str], weights: Weights
) -> list[Array] | None:
    limit = max(SMALL_BYTES, sum(tensor_bytes(known[n]) for n in names))
    arrays = [weights[n] if is_held(known[n]) else to_array(known[n]) for n in names]
    results = _evaluate(node, arrays, names)
    return results if results and sum(r.nbytes for r in results) <= limit else None


def _evaluate(node: NodeProto, arrays: list[Array], names: list[str]) -> list[Array] | None:
    # A bound on the work, too: Expand or Tile of a scalar could ask for any amount of memory.
    if node.op_type == "Range" and not 0 <= _steps(*arrays) <= SMALL_BYTES:
        return None
    if node.op_type in ("Expand", "Tile", "ConstantOfShape"):
        size = float(np.prod(arrays[-1].astype(np.float64))) if arrays[-1].dtype.kind == "i" else 0
        if size > SMALL_BYTES:
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


def _steps(start: Array, limit: Array, delta: Array) -> float:
    """Number of values of a Range, -1 for one that makes no sense."""
    step = float(delta.item())
    return (float(limit.item()) - float(start.item())) / step if step else -1.0
