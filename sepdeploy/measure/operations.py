"""An artifact as a list of operations, as the cost model of ``devices.estimate`` takes it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from pathlib import Path

import onnx
import onnx.inliner
from onnx import GraphProto, ModelProto, NodeProto

from sepdeploy.devices.estimate import Op
from sepdeploy.errors import NEW_FILE, BadInput
from sepdeploy.exporters.formats import ONNX, TFLITE, format_of
from sepdeploy.exporters.operations import (
    CONVOLUTIONS,
    PRODUCTS,
    TFLITE_COUNTED,
    operator_macs,
    tflite_macs,
)
from sepdeploy.exporters.tflite_file import OpInfo, TensorInfo, TfliteFile, read_tflite

Shape = tuple[int, ...]

FUSED_ONNX = frozenset({"Relu", "Clip", "LeakyRelu", "Sigmoid", "Tanh", "HardSigmoid"})
FREE = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Constant", "Shape"})
MOVES = frozenset({"Transpose", "Concat", "Slice", "Split", "Pad", "Gather", "Expand", "Tile"})
QUANTIZERS = frozenset({"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"})
FREE_TFLITE = frozenset({"RESHAPE", "SQUEEZE", "EXPAND_DIMS"})
MOVES_TFLITE = frozenset(
    {"TRANSPOSE", "CONCATENATION", "SLICE", "STRIDED_SLICE", "SPLIT", "PAD", "PADV2", "GATHER"}
)
ITEM_BYTES = {"float32": 4, "float16": 2, "int8": 1, "uint8": 1, "int32": 4, "int64": 8}
ONNX_ITEM_BYTES = {1: 4, 2: 1, 3: 1, 6: 4, 7: 8, 9: 1, 10: 2, 11: 8}


def artifact_operations(path: Path) -> tuple[Op, ...]:
    """Return the operations of one inference at batch 1, in the file's order.

    Raises:
        BadInput: The file cannot be read, or a shape in it cannot be known.
    """
    return tuple(OPERATIONS[format_of(path).name](path))


def _of_onnx(path: Path) -> Iterable[Op]:
    try:
        model = onnx.load(path, load_external_data=False)
        if model.functions:
            model = onnx.inliner.inline_local_functions(model)
        model = onnx.shape_inference.infer_shapes(_at_batch_one(model), data_prop=True)
    except Exception as error:  # the parser, inliner and inference have no common base class
        raise BadInput(f"{path}: its operations cannot be read: {error}", hint=NEW_FILE) from error
    return _onnx_operations(model.graph)


OPERATIONS: dict[str, Callable[[Path], Iterable[Op]]] = {
    ONNX.name: _of_onnx,
    TFLITE.name: lambda path: _tflite_operations(read_tflite(path)),
}


def _at_batch_one(model: ModelProto) -> ModelProto:
    for value in (*model.graph.input, *model.graph.output):
        first = value.type.tensor_type.shape.dim
        if first and not first[0].dim_value:
            first[0].dim_value = 1
    del model.graph.value_info[:]
    return model


def _onnx_operations(graph: GraphProto) -> Iterable[Op]:
    shapes = {v.name: v for v in (*graph.input, *graph.output, *graph.value_info)}
    constants = {t.name: t for t in graph.initializer}
    int8 = any(n.op_type in QUANTIZERS for n in graph.node)
    producer: dict[str, str] = {}

    def shape(name: str) -> Shape:
        if name in constants:
            return tuple(constants[name].dims)
        if name not in shapes:
            return ()
        return tuple(d.dim_value or 1 for d in shapes[name].type.tensor_type.shape.dim)

    def size(name: str) -> int:
        kind = (
            constants[name].data_type
            if name in constants
            else shapes[name].type.tensor_type.elem_type
            if name in shapes
            else 1
        )
        return math.prod(shape(name)) * ONNX_ITEM_BYTES.get(kind, 4)

    for node in graph.node:
        for output in node.output:
            producer[output] = node.op_type
        if node.op_type in FREE or node.op_type in QUANTIZERS:
            continue
        kind, macs = _onnx_kind(node, shape)
        before = producer.get(node.input[0], "") if node.input else ""
        fused = node.op_type in FUSED_ONNX and before in ("Conv", "Gemm", "MatMul")
        moving = [i for i in node.input if i and i not in constants]
        yield Op(
            name=node.name or node.output[0],
            kind=kind,
            macs=macs,
            weight_bytes=sum(size(i) for i in node.input if i in constants),
            activation_bytes=sum(size(i) for i in (*moving, *node.output) if i),
            dtype="int8" if int8 and macs else "fp32",
            layer=_layer(node.name or node.output[0]),
            fused=fused,
        )


def _onnx_kind(node: NodeProto, shape: Callable[[str], Shape]) -> tuple[str, int]:
    """Return the kind of an ONNX node and its multiply-accumulates."""
    macs = operator_macs(node, shape)
    if node.op_type in CONVOLUTIONS or node.op_type == "ConvTranspose":
        weight = shape(node.input[CONVOLUTIONS.get(node.op_type, 1)])
        return _convolution_kind(weight[1], weight[2:]), macs
    if node.op_type in PRODUCTS:
        return "matmul", macs
    if node.op_type in MOVES:
        return "move", 0
    return "elementwise", 0


def _convolution_kind(channels: int, kernel: Shape) -> str:
    """Return the kind of a convolution with that many input channels per output value."""
    if channels == 1 and math.prod(kernel) > 1:
        return "depthwise"
    names = {1: "conv1x1", 3: "conv3x3"}
    square = len(set(kernel)) == 1
    return names.get(kernel[0], "conv") if kernel and square else "conv"


def _tflite_operations(file: TfliteFile) -> Iterable[Op]:
    for op in file.ops:
        if op.kind in FREE_TFLITE:
            continue
        inputs = [file.tensors[i] for i in op.inputs if i >= 0]
        outputs = [file.tensors[i] for i in op.outputs if i >= 0]
        kind, macs = _tflite_kind(op, inputs, outputs)
        yield Op(
            name=outputs[0].name if outputs else op.kind,
            kind=kind,
            macs=macs,
            weight_bytes=sum(t.constant_bytes for t in inputs),
            activation_bytes=sum(_bytes(t) for t in (*inputs, *outputs) if not t.constant_bytes),
            dtype="int8" if inputs and inputs[0].dtype == "int8" else "fp32",
            layer=_layer(outputs[0].name if outputs else op.kind),
        )


def _tflite_kind(
    op: OpInfo, inputs: list[TensorInfo], outputs: list[TensorInfo]
) -> tuple[str, int]:
    macs = tflite_macs(op.kind, [*map(_known, inputs)], _known(outputs[0])) if outputs else 0
    if op.kind in ("FULLY_CONNECTED", "BATCH_MATMUL"):
        return "matmul", macs
    if op.kind == "CONV_2D":
        weight = _known(inputs[1])  # out, height, width, in
        return _convolution_kind(weight[3], weight[1:3]), macs
    if op.kind in TFLITE_COUNTED:
        return ("depthwise" if op.kind == "DEPTHWISE_CONV_2D" else "conv"), macs
    return ("move" if op.kind in MOVES_TFLITE else "elementwise"), 0


def _known(tensor: TensorInfo) -> Shape:
    return tuple(1 if n < 0 else n for n in tensor.shape)


def _bytes(tensor: TensorInfo) -> int:
    return math.prod(_known(tensor)) * ITEM_BYTES.get(tensor.dtype, 4)


def _layer(name: str) -> str:
    """Return the layer of a node "<layer>/<form>/...", "" where it is not named so."""
    return name.split("/", 1)[0] if "/" in name else ""
