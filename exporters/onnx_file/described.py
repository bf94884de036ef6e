"""What an ONNX file says about itself."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from onnx import GraphProto, ModelProto, NodeProto, TensorProto, TypeProto, helper, inliner

from sepdeploy.exporters.capture.onnx_source import parse_onnx
from sepdeploy.exporters.facts import (
    Affine,
    Described,
    FileFacts,
    FileLayer,
    Port,
    Shapes,
    Size,
    one_sample,
    with_sizes,
)
from sepdeploy.exporters.onnx_graph.graph import subgraphs, tensor_bytes, to_array
from sepdeploy.exporters.onnx_graph.shapes import infer, open_sizes
from sepdeploy.exporters.onnx_graph.weights import as_inputs, detach
from sepdeploy.exporters.operations import COUNTED, operator_macs

UNNAMED = "?"
# What stands between a stored weight and the operator that uses it.
PASSED = {"DequantizeLinear", "Cast", "CastLike", "Identity", "Transpose", "Reshape", "Squeeze"}
PASSED |= {"Unsqueeze", "Flatten"}
FLOATS = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16}
SMALL = {TensorProto.INT8, TensorProto.UINT8, TensorProto.INT4, TensorProto.UINT4}
# Inputs that are scales and zero points of others.
SCALES = {
    "QuantizeLinear": (1, 2), "DequantizeLinear": (1, 2), "QLinearConv": (1, 2, 4, 5, 6, 7),
    "QLinearMatMul": (1, 2, 4, 5, 6, 7), "QGemm": (1, 2, 4, 5, 7, 8), "MatMulInteger": (2, 3),
    "ConvInteger": (2, 3), "Resize": (1, 2), "Upsample": (1,), "Clip": (1, 2), "Pad": (2,),
}  # fmt: skip


def describe_onnx(path: Path, shapes: Shapes) -> Described:
    """Describe an ONNX file; weights in other files are not read.

    Raises:
        BadInput: It is not one, or has no input of a name in ``shapes``.
    """
    model = parse_onnx(path)
    notes: list[str] = []
    model = _inlined(model, notes)
    graph = model.graph
    open_sizes(graph)
    made_by = _made_by(model)
    constants = {t.name for t in graph.initializer} | {
        s.values.name for s in graph.sparse_initializer
    }
    given = [i for i in graph.input if i.name not in constants]
    with_sizes(path, tuple(_port(i.name, i.type) for i in given), shapes)
    _fix_sizes(graph, shapes)
    inputs = tuple(_port(i.name, i.type) for i in given)
    infos = _inferred(model, notes)
    outputs = tuple(  # the batch stays open there
        _port(o.name, o.type if _sizes(o.type) is not None else infos.get(o.name, o.type))
        for o in graph.output
    )
    weights = _Weights(graph)
    sizes = {name: _sizes(kind) for name, kind in infos.items()}
    layers = tuple(_layers(graph, weights, sizes))
    inner = sum(len(list(_every(g))) for node in graph.node for g in subgraphs(node))
    if inner:
        notes.append(f"{inner} operators in branches and loops: not counted in the MACs")
    counted = [n for n in graph.node if n.op_type in COUNTED]
    work = [_macs(node, weights, sizes) for node in counted]
    known = [n for n in work if n is not None]
    held = list(weights.params.values())
    facts = FileFacts(
        made_by,
        inputs,
        outputs,
        dict(Counter(map(_called, _every(graph))).most_common()),
        tuple(notes),
    )
    return Described(
        facts,
        layers,
        sum(math.prod(t.dims) for t in held),
        sum(map(_bytes, held)),
        sum(known) if len(known) == len(work) else None,
        one_sample(inputs, (0, 1, 2)),
    )


def _inlined(model: ModelProto, notes: list[str]) -> ModelProto:
    if not model.functions:
        return model
    try:
        return inliner.inline_local_functions(model)
    except Exception as error:  # of the library's own kinds, by version
        notes.append(f"functions could not be opened: {type(error).__name__}")
        return model


def _made_by(model: ModelProto) -> dict[str, str]:
    writer = " ".join(x for x in (model.producer_name, model.producer_version) if x)
    opsets = ", ".join(
        f"{o.domain} {o.version}" if o.domain else str(o.version) for o in model.opset_import
    )
    return {"producer": writer, "opset": opsets, "ir_version": str(model.ir_version)}


def _fix_sizes(graph: GraphProto, shapes: Shapes) -> None:
    """Put chosen sizes into the inputs, wherever a size of their name stands."""
    dims = {i.name: i.type.tensor_type.shape.dim for i in graph.input}
    known = {
        dim.dim_param: n
        for name, wanted in shapes.items()
        for dim, n in zip(dims[name], wanted, strict=True)
        if dim.dim_param
    }
    for name, own in dims.items():
        for axis, dim in enumerate(own):
            if name in shapes:
                dim.dim_value = shapes[name][axis]
            elif dim.dim_param in known:
                dim.dim_value = known[dim.dim_param]


def _inferred(model: ModelProto, notes: list[str]) -> dict[str, TypeProto]:
    """Return types of values at batch 1, as far as they can be told."""
    light, _ = detach(model)
    graph = light.graph
    first = [i.type.tensor_type.shape.dim[:1] for i in graph.input]
    batch = {d.dim_param for dims in first for d in dims if d.dim_param}
    for info in (*graph.input, *graph.output, *graph.value_info):
        for axis, dim in enumerate(info.type.tensor_type.shape.dim):
            unnamed = axis == 0 and info in graph.input and not dim.HasField("dim_value")
            if dim.dim_param in batch or unnamed:
                dim.dim_value = 1
    try:
        graph = infer(as_inputs(light)).graph
    except Exception as error:  # a runtime may run what the library cannot follow
        notes.append(f"shapes inside could not be inferred: {_line(error)}")
    return {i.name: i.type for i in (*graph.input, *graph.value_info, *graph.output)}


class _Weights:
    """Parameters of a graph and who uses them."""

    def __init__(self, graph: GraphProto) -> None:
        tensors = {t.name: t for t in graph.initializer}
        for node in graph.node:
            for noted in node.attribute:
                if node.op_type == "Constant" and noted.HasField("t"):
                    tensors[node.output[0]] = noted.t
        self.tensors: Mapping[str, TensorProto] = tensors
        aside = {
            node.input[i]
            for node in graph.node
            for i in SCALES.get(node.op_type, ())
            if i < len(node.input)
        }
        self.params = {n: t for n, t in tensors.items() if n not in aside and _is_weight(t)}
        self._source = {
            node.output[0]: node for node in graph.node if node.op_type in PASSED and node.input
        }
        self.passing = {
            name for name, node in self._source.items() if self.stored(node.input[0]) is not None
        }

    def stored(self, name: str) -> str | None:
        """Return the parameter that a value is, but for its type or the order of its axes."""
        for _ in range(8):
            if name in self.params:
                return name
            node = self._source.get(name)
            if node is None:
                return None
            name = node.input[0]
        return None

    def affine(self, name: str) -> Affine | None:
        """Return how the value of a parameter is quantised."""
        for _ in range(8):
            node = self._source.get(name)
            if node is None:
                return None
            if node.op_type == "DequantizeLinear":
                return self._scales(node)
            name = node.input[0]
        return None

    def _scales(self, node: NodeProto) -> Affine | None:
        scale = self.tensors.get(node.input[1])
        zero = self.tensors.get(node.input[2]) if len(node.input) > 2 else None
        if scale is None or scale.data_location == TensorProto.EXTERNAL:
            return None
        scales = to_array(scale).astype(float).ravel()
        zeros = [0] if zero is None else to_array(zero).astype(int).ravel()
        return Affine(float(scales[0]), int(zeros[0]), len(scales)) if len(scales) else None


def _is_weight(tensor: TensorProto) -> bool:
    many = math.prod(tensor.dims) > 1
    return many and (
        tensor.data_type in FLOATS or (tensor.data_type in SMALL and bool(tensor.dims))
    )


def _layers(
    graph: GraphProto, weights: _Weights, sizes: Mapping[str, tuple[Size, ...] | None]
) -> Iterator[FileLayer]:
    taken: set[str] = set()
    for node in graph.node:
        if node.output and node.output[0] in weights.passing:
            continue
        held = {n: s for n in node.input if (s := weights.stored(n)) is not None}
        own = [weights.params[s] for s in dict.fromkeys(held.values())]
        if not own:
            continue
        new = [t for t in own if t.name not in taken]  # a shared weight is counted once
        taken |= {t.name for t in own}
        main = max(held, key=lambda n: math.prod(weights.params[held[n]].dims))
        macs = _macs(node, weights, sizes) if node.op_type in COUNTED else 0
        params = sum(math.prod(t.dims) for t in new)
        yield FileLayer(
            node.name or (node.output[0] if node.output else node.op_type),
            "dense" if node.op_type in COUNTED else "",
            tuple(tuple(t.dims) for t in own),
            params,
            params,
            macs,
            macs,
            _called(node),
            _dtype(weights.params[held[main]].data_type),
            sizes.get(node.output[0]) if node.output else None,
            weights.affine(main),
        )


def _macs(
    node: NodeProto, weights: _Weights, sizes: Mapping[str, tuple[Size, ...] | None]
) -> int | None:
    """Return a node's multiply-accumulates, None where a shape that decides them is open."""

    def shape(name: str) -> tuple[int, ...] | None:
        if name in weights.tensors:
            return tuple(weights.tensors[name].dims)
        own = sizes.get(name)
        if own is None:
            return None
        known = tuple(n for n in own if isinstance(n, int))
        return known if len(known) == len(own) else None

    read = [n for n in (*node.input[:2], *node.output[:1]) if n]
    if any(shape(name) is None for name in read):
        return None
    return operator_macs(node, shape)


def _every(graph: GraphProto) -> Iterator[NodeProto]:
    for node in graph.node:
        yield node
        for inner in subgraphs(node):
            yield from _every(inner)


def _called(node: NodeProto) -> str:
    return f"{node.domain}.{node.op_type}" if node.domain not in ("", "ai.onnx") else node.op_type


def _port(name: str, kind: TypeProto) -> Port:
    return Port(name, _dtype(kind.tensor_type.elem_type), _sizes(kind))


def _sizes(kind: TypeProto) -> tuple[Size, ...] | None:
    if not kind.HasField("tensor_type") or not kind.tensor_type.HasField("shape"):
        return None
    dims = kind.tensor_type.shape.dim
    return tuple(d.dim_value if d.HasField("dim_value") else d.dim_param or UNNAMED for d in dims)


def _dtype(number: int) -> str:
    if number == TensorProto.STRING:
        return "string"
    try:
        return str(helper.tensor_dtype_to_np_dtype(number).name) if number else ""
    except KeyError:
        return ""


def _bytes(tensor: TensorProto) -> int:
    if tensor.data_type in (TensorProto.INT4, TensorProto.UINT4):
        return int(math.prod(tensor.dims) + 1) // 2
    return tensor_bytes(tensor)


def _line(error: BaseException) -> str:
    return next((x.strip() for x in str(error).splitlines() if x.strip()), type(error).__name__)[
        :160
    ]
