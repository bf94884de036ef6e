"""What other opsets and types say, in the operators of ours and in float32."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper, shape_inference

from sepdeploy.exporters.onnx_graph.graph import to_array
from sepdeploy.exporters.onnx_graph.weights import Weights, as_inputs, is_held

PER_CHANNEL = 21  # from which opset on GroupNormalization scales channels, no longer groups
BY_AXIS = 13  # from which opset on Softmax and its kin take one axis
HALVES = (TensorProto.FLOAT16, TensorProto.BFLOAT16)
Kinds = dict[str, tuple[int, tuple[int, ...]]]  # element type and shape of values


def renew(model: ModelProto, opset: int) -> None:
    """Write what the version converter cannot bring to our opset as other operators, in place."""
    wanted = any(n.op_type in RENEWED for n in model.graph.node)
    kinds = _kinds(model) if wanted else {}
    nodes: list[NodeProto] = []
    for node in model.graph.node:
        make = RENEWED.get(node.op_type)
        nodes += (make(node, opset, kinds) if make else []) or [node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def computes_in_half(model: ModelProto) -> bool:
    """Whether some of the values are of 16 bits."""
    graph = model.graph
    types = [i.type.tensor_type.elem_type for i in graph.input] + [
        t.data_type for t in graph.initializer
    ]
    for node in graph.node:
        types += [a.t.data_type if a.HasField("t") else a.i for a in node.attribute if _typed(a)]
    return any(kind in HALVES for kind in types)


def widen(model: ModelProto, weights: Weights) -> None:
    """Compute in float32 what a graph computes in 16 bits, in place."""
    for item in (*model.graph.initializer, *_constants(model)):
        if item.data_type not in HALVES:
            continue
        if is_held(item):
            weights[item.name] = weights[item.name].astype(np.float32)
            item.data_type = TensorProto.FLOAT
        else:
            item.CopyFrom(numpy_helper.from_array(to_array(item).astype(np.float32), item.name))
    for node in model.graph.node:
        for noted in node.attribute:
            if _typed(noted) and not noted.HasField("t") and noted.i in HALVES:
                noted.i = TensorProto.FLOAT
    for info in (*model.graph.input, *model.graph.output):
        if info.type.tensor_type.elem_type in HALVES:
            info.type.tensor_type.elem_type = TensorProto.FLOAT


def _constants(model: ModelProto) -> list[TensorProto]:
    return [a.t for n in model.graph.node for a in n.attribute if a.HasField("t")]


def _typed(noted: object) -> bool:
    return getattr(noted, "name", "") in ("to", "dtype", "value")


def _group_norm(node: NodeProto, opset: int, kinds: Kinds) -> list[NodeProto]:
    """Groups as channels of an InstanceNormalization."""
    x, scale, bias = node.input
    noted = {a.name: a for a in node.attribute}
    groups = noted["num_groups"].i
    epsilon = noted["epsilon"].f if "epsilon" in noted else 1e-5
    name = f"{node.output[0]}_by_group"
    made: list[NodeProto] = []

    def constant(end: str, value: object, kind: type = np.int64) -> str:
        tensor = numpy_helper.from_array(np.asarray(value, kind), f"{name}_{end}")
        made.append(helper.make_node("Constant", [], [tensor.name], value=tensor))
        return tensor.name

    def emit(op: str, *inputs: str, end: str = "", **how: Any) -> str:
        made.append(helper.make_node(op, inputs, [name + end], name=name + end, **how))
        return name + end

    own = [scale, bias]
    by_channel = opset >= PER_CHANNEL
    if by_channel:
        kind, shape = kinds.get(scale, (0, ()))
        if kind != TensorProto.FLOAT or len(shape) != 1 or not shape[0]:
            return []
        own = [
            constant(end, np.full(groups, v), np.float32) for end, v in (("one", 1), ("none", 0))
        ]
    y = emit("Reshape", x, constant("split", [0, groups, -1]), end="_in")
    y = emit("InstanceNormalization", y, *own, end="_even", epsilon=epsilon)
    if by_channel:
        y = emit("Reshape", y, constant("channels", [0, shape[0], -1]), end="_apart")
        column = constant("column", [-1, 1])
        y = emit("Mul", y, emit("Reshape", scale, column, end="_scale"), end="_scaled")
        y = emit("Add", y, emit("Reshape", bias, column, end="_bias"), end="_shifted")
    whole = emit("Shape", x, end="_shape")
    return [*made, helper.make_node("Reshape", [y, whole], list(node.output), name=node.name)]


def _cast_like(node: NodeProto, _: int, kinds: Kinds) -> list[NodeProto]:
    to, _shape = kinds.get(node.input[1], (TensorProto.UNDEFINED, ()))
    if to == TensorProto.UNDEFINED:
        return []
    return [helper.make_node("Cast", node.input[:1], list(node.output), name=node.name, to=to)]


def _hardmax(node: NodeProto, opset: int, _: Kinds) -> list[NodeProto]:
    """Until opset 12 over all dimensions from the axis on."""
    if opset >= BY_AXIS:
        return []
    (x,), name = node.input, f"{node.output[0]}_flat"
    axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
    return [
        helper.make_node("Flatten", [x], [name], axis=axis),
        helper.make_node("Hardmax", [name], [f"{name}_max"], name=node.name, axis=1),
        helper.make_node("Shape", [x], [f"{name}_shape"]),
        helper.make_node("Reshape", [f"{name}_max", f"{name}_shape"], list(node.output)),
    ]


RENEWED: dict[str, Callable[[NodeProto, int, Kinds], list[NodeProto]]] = {
    "GroupNormalization": _group_norm,
    "CastLike": _cast_like,
    "Hardmax": _hardmax,
}


def _kinds(model: ModelProto) -> Kinds:
    """What is known of the values of a graph."""
    try:
        graph = shape_inference.infer_shapes(as_inputs(model)).graph
    except shape_inference.InferenceError:
        graph = model.graph
    found = {}
    for info in (*graph.input, *graph.value_info, *graph.output):
        tensor = info.type.tensor_type
        found[info.name] = tensor.elem_type, tuple(d.dim_value for d in tensor.shape.dim)
    return found | {t.name: (t.data_type, tuple(t.dims)) for t in model.graph.initializer}
