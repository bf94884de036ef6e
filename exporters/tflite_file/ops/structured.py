"""The ops of ``ai.sepdeploy``: structured layers, in a form of their family or as one operator."""

from __future__ import annotations

from sepdeploy.errors import GRAPH, BadInput, unknown_name
from sepdeploy.exporters.domain import known_op, read_structure
from sepdeploy.exporters.plan import FUSED
from sepdeploy.exporters.tflite_file.custom import custom_layer
from sepdeploy.exporters.tflite_file.source import Node
from sepdeploy.exporters.tflite_file.values.context import Context, Inputs, Item


def structured_linear(ctx: Context, node: Node, inputs: Inputs) -> list[Item]:
    """Emit y = x Wᵀ + bias for rows x of (M, n_in)."""
    family = known_op(node.op, node.name)
    x = ctx.value(node, inputs, 0)
    arrays = [ctx.array(node, inputs, i) for i in range(1, len(inputs))]
    spec = read_structure(family, node.name, node.attributes, [a.shape for a in arrays])
    if x.shape[-1] != spec.in_features:
        raise BadInput(
            f"{node}: input has {x.shape[-1]} features, the layer {spec.in_features}", hint=GRAPH
        )
    *factors, bias = arrays
    form = ctx.choices.get(node.name)
    if ctx.custom and form in (None, FUSED):
        named = dict(zip(family.roles(spec), factors, strict=True)) | {"bias": bias}
        attributes = family.attributes(spec)
        return [custom_layer(ctx.b, node.op, x, named, attributes, spec.out_features)]
    forms = {f.name: f for f in family.tflite}
    if form and form not in forms:
        raise unknown_name(f"TFLite form of {node.op} for layer '{node.name}'", form, forms)
    chosen = forms[form] if form else family.tflite[0]
    return [chosen.build(ctx, spec, x, factors, bias)]
