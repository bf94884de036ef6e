"""ONNX graph to TFLite graph."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import nullcontext

import onnx

from sepdeploy.errors import TFLITE_FORM, BadInput
from sepdeploy.exporters.tflite_file.format.graph import Graph, Tensor
from sepdeploy.exporters.tflite_file.ops import CONVERTERS, NEAREST, RELABELLING, converter_of
from sepdeploy.exporters.tflite_file.passes.absorb import absorb
from sepdeploy.exporters.tflite_file.passes.fold import fold
from sepdeploy.exporters.tflite_file.passes.fuse import fuse
from sepdeploy.exporters.tflite_file.passes.rewrite import rewrite
from sepdeploy.exporters.tflite_file.source import Node, Source, layer_name, read_model
from sepdeploy.exporters.tflite_file.values import affine, layout
from sepdeploy.exporters.tflite_file.values.affine import Converter, Lazy, Scaled
from sepdeploy.exporters.tflite_file.values.context import Context, Inputs
from sepdeploy.exporters.tflite_file.values.layout import Constant, Value

NHWC = (0, 2, 3, 1)
_MALFORMED = (ValueError, IndexError, KeyError, TypeError, ArithmeticError, MemoryError)


def convert(
    model: onnx.ModelProto, *, choices: Mapping[str, str] | None = None, custom: bool = False
) -> Graph:
    """Convert a canonical (or foreign) ONNX model.

    Args:
        model: The model; images enter as (N, C, H, W), the file takes (N, H, W, C).
        choices: Form per structured layer, by node name; the default form where absent.
        custom: Write structured layers as CUSTOM operators instead.

    Raises:
        BadInput: An operator, shape or type that has no form here, naming the node.
    """
    source = read_model(model, CONVERTERS)
    rewrite(source)
    ctx = Context(choices=dict(choices or {}), opset=source.opset, custom=custom)
    items: dict[str, Lazy] = {}
    for name, (shape, dtype) in source.inputs.items():
        order = NHWC if len(shape) == 4 else tuple(range(len(shape)))
        tensor = Tensor(name, tuple(shape[a] for a in order), dtype)
        ctx.b.graph.inputs[name] = tensor
        items[name] = layout.permuted(tensor, shape, order)
    times = Counter(name for node in source.nodes for name in set(node.inputs))
    tied = {n for n, count in times.items() if count > 1 and n in source.constants}
    tied = {name for name in tied if source.constants[name].ndim > 1}
    for node in source.nodes:
        with nullcontext() if tied.isdisjoint(node.inputs) else ctx.b.sharing():
            _convert_node(ctx, node, items, source)
    _outputs(ctx, items, source)
    return fuse(ctx.b.graph)


def _convert_node(ctx: Context, node: Node, items: dict[str, Lazy], source: Source) -> None:
    inputs = [_item(items, source, n) if n else None for n in node.inputs]
    with ctx.b.layer(layer_name(node, source.constants)):
        try:
            results = _results(ctx, node, inputs)
        except _MALFORMED as error:
            # Attributes and weights come from a file; what contradicts itself there surfaces in
            # numpy or in an index, long after it could have been foreseen.
            raise BadInput(
                f"{node} cannot be converted: {' '.join(str(error).split())}",
                hint="check the file with onnx.checker.check_model(model, full_check=True)",
            ) from error
    items.update(zip(node.outputs, results, strict=False))
    if missing := [n for n in node.outputs[len(results) :] if n]:
        raise BadInput(f"{node}: its output '{missing[0]}' has no TFLite form", hint=TFLITE_FORM)


def _item(items: Mapping[str, Lazy], source: Source, name: str) -> Lazy:
    if name in items:
        return items[name]
    array = source.constants[name]
    return Constant(array, array.shape)


def _results(ctx: Context, node: Node, inputs: Sequence[Lazy | None]) -> Sequence[Lazy]:
    held = next((i for i in inputs if isinstance(i, Scaled)), None)
    if held is None:
        folded = fold(ctx, node, [i for i in inputs if not isinstance(i, Scaled)])
        if folded is not None:
            return folded
    combined = affine.combine(ctx.b, node, inputs)
    if combined is not None:
        return [combined]
    converter = _converter(node)
    if held is not None and inputs[0] is held:
        rest = [affine.settle(ctx.b, i) for i in inputs[1:]]
        if (node.domain, node.op) in RELABELLING:
            moved = _relabelled(ctx, node, held, rest)
            if moved is not None:
                return [moved]
        absorbed = absorb(ctx, node, held, rest)
        if absorbed is not None:
            return converter(ctx, node, absorbed)
    return converter(ctx, node, [affine.settle(ctx.b, i) for i in inputs])


def _relabelled(ctx: Context, node: Node, held: Scaled, rest: Inputs) -> Scaled | None:
    """Let a reshape or transpose pass under what is held back."""
    (moved,) = _converter(node)(ctx, node, [held.value, *rest])
    assert isinstance(moved, Value), "reshaping a computed value gives one"
    axes = None
    if node.op == "Transpose":
        axes = ctx.ints(node, "perm", list(reversed(range(len(held.shape)))))
    return affine.follow(held, moved, axes)


def _converter(node: Node) -> Converter:
    found = converter_of(node.domain, node.op)
    if found is None:
        domain = f"{node.domain}." if node.domain else ""
        raise BadInput(
            f"{domain}{node.op} (node '{node.name}') has no TFLite form",
            hint=NEAREST.get(node.op, "replace it by operators that `sepdeploy export` knows"),
        )
    return found


def _outputs(ctx: Context, items: Mapping[str, Lazy], source: Source) -> None:
    for name in source.outputs:
        item = affine.settle(ctx.b, _item(items, source, name))
        assert item is not None, "outputs are computed"
        if 0 in item.shape:
            raise BadInput(f"output '{name}' is empty", hint="keep the others: --output")
        tensor = ctx.b.row_major(ctx.b.runtime(item, name)).tensor
        taken = [*ctx.b.graph.inputs.values(), *ctx.b.graph.outputs.values()]
        if tensor in taken or tensor.data is not None:
            with ctx.b.layer(name):
                tensor = ctx.b.copy(tensor)
        tensor.name = name
        ctx.b.graph.outputs[name] = tensor
