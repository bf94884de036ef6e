"""Constant folding that never makes a file larger."""

from __future__ import annotations

import math

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper
from onnx.reference import ReferenceEvaluator

from sepdeploy.exporters.domain import IR_VERSION, OPSET
from sepdeploy.exporters.onnx_graph.graph import (
    Array,
    initializers,
    set_nodes,
    tensor,
    tensor_bytes,
    to_array,
)
from sepdeploy.exporters.onnx_graph.shapes import value_dims_of
from sepdeploy.exporters.onnx_graph.weights import HELD_BYTES, Weights, hold, is_held

SMALL_BYTES = 4096  # shape arithmetic and scalars are always folded
NEVER_FOLDED = {
    "RandomNormal",
    "RandomUniform",
    "RandomNormalLike",
    "RandomUniformLike",
    "Multinomial",
    "Bernoulli",
}
# Of unknown size, but no larger than eight bytes per dimension and element of what they read.
_BOUNDED = {"NonZero", "Unique", "Compress"}
# A few bytes of attributes (pads, dilations, samples per bin) make these fill the memory.
_HUNGRY = {"Conv", "ConvInteger", "ConvTranspose", "DeformConv", "QLinearConv", "Col2Im"}
_HUNGRY |= {"AveragePool", "LpPool", "MaxPool", "MaxUnpool", "MaxRoiPool", "RoiAlign", "STFT"}
_MOST_WORK = 1 << 24  # multiplications of an Einsum
_FAILURES = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    MemoryError,
    NotImplementedError,
    RuntimeError,
    TypeError,
    ValueError,
)


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
        for name, result in zip(filter(None, node.output), results, strict=True):
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
    arrays = {n: weights[n] if is_held(known[n]) else to_array(known[n]) for n in names}
    return compute(node, arrays, limit)


def compute(node: NodeProto, arrays: dict[str, Array], limit: int) -> list[Array] | None:
    """What a node gives, None where that is unknown or larger than ``limit`` bytes."""
    # Before anything is computed: two small constants may broadcast to more than all memory.
    if not promised_bytes(node, arrays) <= limit:
        return None
    try:
        with np.errstate(all="ignore"):
            results = ReferenceEvaluator(alone(node, arrays)).run(None, arrays)
    except _FAILURES:
        return None  # an op the reference lacks simply stays in the graph
    found = [np.asarray(r) for r in results]
    return found if found and sum(r.nbytes for r in found) <= limit else None


def promised_bytes(node: NodeProto, arrays: dict[str, Array], opset: int = OPSET) -> float:
    """Bytes of a node's results by the shapes it reads; infinite where they say nothing.

    Infinite as well for operators that need more memory, or time, than what comes out tells.
    """
    if node.op_type in _BOUNDED:
        return 0
    work = math.prod(a.size for a in arrays.values()) if node.op_type == "Einsum" else 0
    if node.op_type in _HUNGRY or work > _MOST_WORK:
        return math.inf
    light = alone(node, arrays, told=True, opset=opset)
    try:
        inferred = onnx.shape_inference.infer_shapes(light).graph
    except (onnx.shape_inference.InferenceError, ValueError, RuntimeError):
        return math.inf
    total = 0
    for info in inferred.output:
        dims = value_dims_of(info)
        kind = info.type.tensor_type.elem_type
        if dims is None or kind not in helper.get_all_tensor_dtypes():
            return math.inf
        sizes = [d for d in dims if d is not None]
        if len(sizes) < len(dims) or kind == TensorProto.STRING:
            return math.inf
        total += math.prod(sizes) * helper.tensor_dtype_to_np_dtype(kind).itemsize
    return total


def alone(
    node: NodeProto, arrays: dict[str, Array], *, told: bool = False, opset: int = OPSET
) -> ModelProto:
    """Return a model of one node; ``told`` small inputs are constants."""
    infos = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
        for n, a in arrays.items()
    ]
    outs = [helper.make_empty_tensor_value_info(n) for n in node.output if n]
    small = [tensor(n, a) for n, a in arrays.items() if told and a.nbytes <= SMALL_BYTES]
    graph = helper.make_graph([node], "fold", infos, outs, small)
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=IR_VERSION
    )
