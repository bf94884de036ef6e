"""Functions written out: those of the file, and standard operators that the standard defines.

What has no TFLite form of its own is taken as its definition by simpler operators, from the onnx
package: Attention, RotaryEmbedding, the losses, window functions and whatever is added.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import onnx
from onnx import FunctionProto, ModelProto, NodeProto, TypeProto, inliner

from sepdeploy.errors import BadInput
from sepdeploy.records import DOMAIN

STANDARD = ("", "ai.onnx")
BODIES = "ai.sepdeploy.bodies"  # domain of definitions while they are put in their places
FOLDED = ("Range", "SequenceMap")  # a body with a loop is no form; what is known is computed
MAX_NESTED = 4  # definitions in definitions


def inlined(model: ModelProto, known: Collection[str]) -> ModelProto:
    """Return a model without functions but those of our own domain, which are only a fallback.

    Args:
        model: The model.
        known: Standard operators that stay.

    Raises:
        BadInput: A function cannot be inlined.
    """
    own = {(f.domain, f.name) for f in model.functions if f.domain == DOMAIN}
    try:
        if len(own) < len(model.functions):
            model = inliner.inline_selected_functions(model, sorted(own), exclude=True)
        for _ in range(MAX_NESTED):
            defined = _defined(model, known)
            if defined is None:
                break
            model = inliner.inline_selected_functions(defined, sorted(own), exclude=True)
    except (ValueError, RuntimeError) as error:
        raise BadInput(
            f"the functions of the ONNX model cannot be inlined: {error}",
            hint="check the file with onnx.checker.check_model",
        ) from error
    return model


def _defined(model: ModelProto, known: Collection[str]) -> ModelProto | None:
    """Return a model that calls a function of its own for each node to write out, None for none."""
    asked = [i for i, node in enumerate(model.graph.node) if _asks(node, known)]
    if not asked:
        return None
    opset = max(o.version for o in model.opset_import if o.domain in STANDARD)
    changed = onnx.shape_inference.infer_shapes(model)
    graph = changed.graph
    types = {i.name: i.type for i in (*graph.input, *graph.value_info, *graph.output)}
    for item in graph.initializer:
        types[item.name] = onnx.helper.make_tensor_type_proto(item.data_type, item.dims)
    found = False
    for i in asked:
        node = graph.node[i]
        body = _body(node, opset, types)
        if body is None:
            continue
        body.domain, body.name = BODIES, f"{node.op_type}_{i}"
        changed.functions.append(body)
        node.domain, node.op_type, found = BODIES, body.name, True
    if found:
        changed.opset_import.append(onnx.helper.make_opsetid(BODIES, 1))
    return changed if found else None


def _asks(node: NodeProto, known: Collection[str]) -> bool:
    return node.domain in STANDARD and node.op_type not in known and node.op_type not in FOLDED


def _body(node: NodeProto, opset: int, types: dict[str, TypeProto]) -> FunctionProto | None:
    try:
        schema: Any = onnx.defs.get_schema(node.op_type, opset, "")
    except onnx.defs.SchemaError:
        return None
    named = {a.name for a in node.attribute}
    for name, attribute in schema.attributes.items():
        if name not in named and attribute.default_value.type:
            node.attribute.append(attribute.default_value)
    body = FunctionProto()
    if schema.has_context_dependent_function:
        given = [types.get(n, TypeProto()).SerializeToString() for n in node.input]
        versions = [v for v in schema.context_dependent_function_opset_versions if v <= opset]
        if not versions or any(n and n not in types for n in node.input):
            return None
        text = schema.get_context_dependent_function_with_opset_version(
            max(versions), node.SerializeToString(), given
        )
        body.ParseFromString(text)
    elif schema.has_function:
        body.CopyFrom(schema.function_body)
    for entry in body.opset_import:  # a definition stands until it is replaced
        entry.version = opset if entry.domain in STANDARD else entry.version
    return body if body.node else None
