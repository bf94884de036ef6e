"""The custom flavour: structured nodes kept, each with a function body in the same file.

``overload`` tells variants of a body apart, but ONNX Runtime 1.20 and ``onnx.reference`` look a
function up by its name alone. So every body of an op in a file computes the right result for
every node of that op in the file; the variants differ in speed only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from onnx import ModelProto, NodeProto, helper

from sepdeploy.errors import BadInput
from sepdeploy.exporters.domain import (
    DOMAIN,
    OPS,
    StructuredSpec,
    constant_shapes,
    ensure_domain,
    function_body,
    node_spec,
    structured_nodes,
)
from sepdeploy.exporters.lowerings import ONNX_FORMS
from sepdeploy.exporters.lowerings.onnx_cost import arrangement
from sepdeploy.exporters.lowerings.onnx_forms import OnnxBuilder
from sepdeploy.exporters.onnx_graph.graph import attributes, copy_model, initializers, tensor
from sepdeploy.exporters.plan import DENSE, choose
from sepdeploy.records import LoweringChoice
from sepdeploy.structures import KronSpec


def with_bodies(canonical: ModelProto, choices: Sequence[LoweringChoice]) -> ModelProto:
    """The graph with its structured nodes kept and their function bodies attached.

    A body cannot multiply factors out: a layer that was to be dense gets its best other form.

    Raises:
        BadInput: A node without a choice; it could not run anywhere.
    """
    model = copy_model(canonical)
    chosen = {choice.layer: choice.form for choice in choices}
    nodes = list(structured_nodes(model))
    _pad_modes(model, [n for n in nodes if n.op_type == "KronLinear"])
    shapes = constant_shapes(model)
    specs = {node.name: node_spec(node, shapes) for node in nodes}
    terms = max((s.terms for s in specs.values() if isinstance(s, KronSpec)), default=1)
    known: set[tuple[str, str]] = set()
    for node in nodes:
        if node.name not in chosen:
            raise BadInput(
                f"node '{node.name}' ({DOMAIN}.{node.op_type}) has no function body",
                hint="plan the same graph that is written",
            )
        body = _body_for(node, specs[node.name], chosen[node.name], terms)
        node.overload = body.overload
        if (key := (node.op_type, body.overload)) not in known:
            known.add(key)
            function = function_body(node, body.spec, body.form, body.build, body.overload)
            model.functions.append(function)
    ensure_domain(model)
    return model


@dataclass(frozen=True)
class _Body:
    overload: str
    form: str
    build: OnnxBuilder
    spec: StructuredSpec


def _body_for(node: NodeProto, spec: StructuredSpec, form: str, terms: int) -> _Body:
    """The variant for a node; it also serves sums of ``terms`` products."""
    if isinstance(spec, KronSpec):
        spec = replace(spec, terms=terms)
    forms = ONNX_FORMS[OPS[node.op_type].structure]
    found = next((f for f in forms if f.name == form), None)
    if found is None or form == DENSE or found.refuse(spec):
        best = choose(node.name, spec, forms, keeps_factors=True).form
        found = next(f for f in forms if f.name == best)
    return _Body(overload(spec, found.name), found.name, found.build, spec)


def overload(spec: StructuredSpec, form: str) -> str:
    """Name of a variant: bodies of one name are equal, whatever the sizes.

    For example "gemm2d-0-1:1.0": form gemm2d, nothing merged, mode 1 contracted before mode 0.
    """
    if not isinstance(spec, KronSpec) or (found := arrangement(form, spec)) is None:
        return form
    return f"{form}-{found.key}" + ("-sum" if spec.terms > 1 else "")


def _pad_modes(model: ModelProto, nodes: Sequence[NodeProto]) -> None:
    """Give all Kronecker nodes the same number of factors: W = 1 ⊗ W."""
    depth = max((len(attributes(n)["in_shape"]) for n in nodes), default=0)
    known = initializers(model.graph)
    for node in nodes:
        found = attributes(node)
        missing = depth - len(found["in_shape"])
        kind = helper.tensor_dtype_to_np_dtype(known[node.input[1]].data_type)
        for i in range(missing):
            name = f"{node.name}.ones{i}"
            ones = np.zeros((found["terms"], 1, 1), kind) + 1
            model.graph.initializer.append(tensor(name, ones.astype(kind)))
            node.input.insert(1, name)
        for attribute in node.attribute:
            if missing and attribute.name in ("in_shape", "out_shape"):
                shape = [1] * missing + list(attribute.ints)
                attribute.CopyFrom(helper.make_attribute(attribute.name, shape))
