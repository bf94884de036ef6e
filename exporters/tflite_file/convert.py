"""ONNX graph to TFLite graph."""

from __future__ import annotations

from collections.abc import Mapping

import onnx

from sepdeploy.errors import BadInput
from sepdeploy.exporters.tflite_file import layout
from sepdeploy.exporters.tflite_file.context import Context, Item
from sepdeploy.exporters.tflite_file.fold import fold
from sepdeploy.exporters.tflite_file.fuse import fuse
from sepdeploy.exporters.tflite_file.graph import Graph, Tensor
from sepdeploy.exporters.tflite_file.layout import Constant
from sepdeploy.exporters.tflite_file.ops import CONVERTERS, NEAREST, Converter
from sepdeploy.exporters.tflite_file.source import Node, Source, layer_name, read_model

NHWC = (0, 2, 3, 1)


def convert(model: onnx.ModelProto, *, choices: Mapping[str, str] | None = None) -> Graph:
    """Convert a canonical (or foreign) ONNX model.

    Args:
        model: The model; images enter as (N, C, H, W), the file takes (N, H, W, C).
        choices: Form per structured layer, by node name; the default form where absent.

    Raises:
        BadInput: An operator, shape or type that has no form here, naming the node.
    """
    source = read_model(model)
    ctx = Context(choices=dict(choices or {}))
    for name, array in source.constants.items():
        ctx.items[name] = Constant(array, array.shape)
    for name, (shape, dtype) in source.inputs.items():
        order = NHWC if len(shape) == 4 else tuple(range(len(shape)))
        tensor = Tensor(name, tuple(shape[a] for a in order), dtype)
        ctx.b.graph.inputs[name] = tensor
        ctx.items[name] = layout.permuted(tensor, shape, order)
    for node in source.nodes:
        _convert_node(ctx, node, source)
    _outputs(ctx, source)
    return fuse(ctx.b.graph)


def _convert_node(ctx: Context, node: Node, source: Source) -> None:
    inputs: list[Item | None] = [ctx.items[n] if n else None for n in node.inputs]
    with ctx.b.layer(layer_name(node, source.constants)):
        results = fold(ctx, node, inputs)
        if results is None:
            results = _converter(node)(ctx, node, inputs)
    for name, item in zip(node.outputs, results, strict=False):
        ctx.items[name] = item
    if missing := [n for n in node.outputs[len(results) :] if n]:
        raise BadInput(f"{node}: its output '{missing[0]}' has no TFLite form")


def _converter(node: Node) -> Converter:
    found = CONVERTERS.get((node.domain, node.op))
    if found is None:
        domain = f"{node.domain}." if node.domain else ""
        raise BadInput(
            f"{domain}{node.op} (node '{node.name}') has no TFLite form",
            hint=NEAREST.get(node.op, "replace it by operators that `sepdeploy export` knows"),
        )
    return found


def _outputs(ctx: Context, source: Source) -> None:
    for name in source.outputs:
        value = ctx.b.row_major(ctx.b.runtime(ctx.items[name], name))
        tensor = value.tensor
        taken = tensor in ctx.b.graph.inputs.values() or tensor in ctx.b.graph.outputs.values()
        if taken or tensor.data is not None:
            with ctx.b.layer(name):
                tensor = ctx.b.copy(tensor)
        tensor.name = name
        ctx.b.graph.outputs[name] = tensor
