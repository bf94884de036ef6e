"""Whether the samples of a batch stay apart: nothing reduces over them or reckons with how many.

What a network gives for one sample would else depend on the others, and no exported file, which
is proven at several batch sizes, could agree with it.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto

from sepdeploy.errors import BadInput
from sepdeploy.exporters.onnx_graph.folding import SMALL_BYTES, compute
from sepdeploy.exporters.onnx_graph.graph import (
    Array,
    attributes,
    initializers,
    read_names,
    tensor_bytes,
    to_array,
)
from sepdeploy.exporters.onnx_graph.shapes import infer
from sepdeploy.exporters.onnx_graph.weights import as_inputs, detach

# The largest value of all samples is often taken out for exactness alone, and cancels.
REDUCTIONS = {"ReduceMean", "ReduceSum", "ReduceProd", "ReduceL1", "ReduceL2", "ReduceSumSquare"}
REDUCTIONS |= {"ReduceLogSum", "ReduceLogSumExp"}
ALONG_AXIS = {"Softmax": -1, "LogSoftmax": -1, "Hardmax": -1, "LpNormalization": -1}
ARITHMETIC = {"Add", "Sub", "Mul", "Div", "Pow", "Mod", "Max", "Min", "Sum", "Mean", "Where"}
ARITHMETIC |= {"Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual", "MatMul", "Gemm"}
TRIED = (10_007, 10_009)  # two batch sizes; what is as long as the batch is not computed

Symbols = Mapping[str, tuple[int | str, ...]]
Pair = tuple[Array, Array]


def check_samples_apart(model: ModelProto) -> None:
    """Refuse a graph whose samples depend on each other or on how many they are.

    A batch of fixed size is one input like any other.

    Raises:
        BadInput: They do; the node is named.
    """
    graph = model.graph
    firsts = [d for i in graph.input for d in i.type.tensor_type.shape.dim[:1]]
    batch = next((d.dim_param for d in firsts if d.dim_param), "")
    if not batch:
        return
    shapes = _symbols(model)
    constants = initializers(graph)
    sizes: dict[str, Pair] = {}
    data = {i.name for i in graph.input}  # what depends on the samples themselves
    for node in graph.node:
        reads = set(read_names(node))
        if node.domain in ("", "ai.onnx"):
            _refuse_reduction(node, shapes, constants, batch)
            if node.op_type in ARITHMETIC and not reads.isdisjoint(data):
                _refuse_number(node, sizes)
            sizes.update(_sizes(node, shapes, constants, sizes, batch))
        if node.op_type not in ("Shape", "Size") and not reads.isdisjoint(data):
            data.update(node.output)
    for output in graph.output:
        if output.name in sizes and _differ(sizes[output.name]):
            raise BadInput(
                f"output '{output.name}' is the batch size, or computed from it alone",
                hint="return tensors whose first dimension is the batch",
            )


def _symbols(model: ModelProto) -> Symbols:
    """The shape of each value: a number, a name or "" per dimension."""
    light, _ = detach(model)
    graph: GraphProto = light.graph
    with contextlib.suppress(onnx.shape_inference.InferenceError):  # the graph's own notes will do
        graph = infer(as_inputs(light)).graph
    found: dict[str, tuple[int | str, ...]] = {}
    for info in (*graph.input, *graph.value_info, *graph.output):
        if info.type.tensor_type.HasField("shape"):
            dims = info.type.tensor_type.shape.dim
            found[info.name] = tuple(
                d.dim_value if d.HasField("dim_value") else d.dim_param for d in dims
            )
    return found


def _refuse_reduction(
    node: NodeProto, shapes: Symbols, constants: Mapping[str, TensorProto], batch: str
) -> None:
    shape = shapes.get(node.input[0] if node.input else "", ())
    axes = [a for a in _axes(node, constants, len(shape)) if -len(shape) <= a < len(shape)]
    if any(shape[a] == batch for a in axes):
        raise BadInput(
            f"{node.op_type} node '{node.name}' reduces over the batch, so samples would depend on "
            "each other",
            hint="reduce over the other dimensions only",
        )


def _axes(node: NodeProto, constants: Mapping[str, TensorProto], rank: int) -> Iterator[int]:
    """The axes that a node reduces over, as far as they are known."""
    found = attributes(node)
    if node.op_type in ALONG_AXIS:
        yield found.get("axis", ALONG_AXIS[node.op_type])
    elif node.op_type in REDUCTIONS:
        name = node.input[1] if len(node.input) > 1 else ""
        if name and _constant(constants.get(name)) is None:
            return
        told = to_array(constants[name]).reshape(-1) if name else found.get("axes", ())
        idle = found.get("noop_with_empty_axes", 0)
        yield from map(int, told) if len(told) else range(0 if idle else rank)


def _refuse_number(node: NodeProto, sizes: Mapping[str, Pair]) -> None:
    if any(name in sizes and _differ(sizes[name]) for name in node.input):
        raise BadInput(
            f"{node.op_type} node '{node.name}' computes with the batch size as a number, so "
            "samples would depend on how many there are",
            hint="use the sizes of one sample only",
        )


def _sizes(
    node: NodeProto,
    shapes: Symbols,
    constants: Mapping[str, TensorProto],
    sizes: Mapping[str, Pair],
    batch: str,
) -> dict[str, Pair]:
    """What a node gives at two batch sizes, if it depends on nothing else."""
    if node.op_type in ("Shape", "Size"):
        shape = shapes.get(node.input[0])
        if shape is None or not all(isinstance(d, int) or d == batch for d in shape):
            return {}
        both = [[n if d == batch else int(d) for d in shape] for n in TRIED]
        cut = slice(attributes(node).get("start", 0), attributes(node).get("end"))
        low, high = (math.prod(s) if node.op_type == "Size" else s[cut] for s in both)
        if math.prod(both[1]) > np.iinfo(np.int64).max:
            return {}  # no memory holds it
        return {node.output[0]: (np.array(low, np.int64), np.array(high, np.int64))}
    reads = [name for name in node.input if name]
    if not any(name in sizes for name in reads):
        return {}
    pairs = {n: sizes[n] if n in sizes else _constant(constants.get(n)) for n in reads}
    known = {n: p for n, p in pairs.items() if p is not None}
    if len(known) < len(pairs):
        return {}
    one, other = (compute(node, {n: p[i] for n, p in known.items()}, SMALL_BYTES) for i in (0, 1))
    if one is None or other is None:
        return {}
    outputs = [name for name in node.output if name]
    return {name: (a, b) for name, a, b in zip(outputs, one, other, strict=True)}


def _constant(item: TensorProto | None) -> Pair | None:
    if item is None or tensor_bytes(item) > SMALL_BYTES:
        return None
    array = to_array(item)
    return array, array


def _differ(pair: Pair) -> bool:
    low, high = pair
    floating = low.dtype.kind == high.dtype.kind == "f"
    return low.shape != high.shape or not np.array_equal(low, high, equal_nan=floating)
