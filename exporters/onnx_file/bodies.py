"""The custom flavour: structured nodes kept, each with a function body in the same file.

``overload`` tells variants of a body apart, but ONNX Runtime 1.20 and ``onnx.reference`` look a
function up by its name alone. So every body of an op in a file computes the right result for
every node of that op in the file; the variants differ in speed only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from onnx import ModelProto, NodeProto

from sepdeploy.errors import BadInput
from sepdeploy.exporters.domain import (
    DOMAIN,
    constant_shapes,
    ensure_domain,
    function_body,
    known_op,
    node_spec,
    structured_nodes,
)
from sepdeploy.exporters.families.dense import DENSE
from sepdeploy.exporters.families.family import OnnxBuilder
from sepdeploy.exporters.onnx_graph.graph import copy_model
from sepdeploy.exporters.plan import choose
from sepdeploy.records import LoweringChoice
from sepdeploy.structures import Spec


def with_bodies(canonical: ModelProto, choices: Sequence[LoweringChoice]) -> ModelProto:
    """The graph with its structured nodes kept and their function bodies attached.

    A body cannot multiply factors out: a layer that was to be dense gets its best other form.

    Raises:
        BadInput: A node without a choice; it could not run anywhere.
    """
    model = copy_model(canonical)
    chosen = {choice.layer: choice.form for choice in choices}
    nodes = list(structured_nodes(model))
    by_family: dict[str, list[NodeProto]] = {}
    for node in nodes:
        by_family.setdefault(node.op_type, []).append(node)
    for op_type, own in by_family.items():
        known_op(op_type, own[0].name).align(model, own)
    shapes = constant_shapes(model)
    specs = {op: {n.name: node_spec(n, shapes) for n in own} for op, own in by_family.items()}
    known: set[tuple[str, str]] = set()
    for node in nodes:
        if node.name not in chosen:
            raise BadInput(
                f"node '{node.name}' ({DOMAIN}.{node.op_type}) has no function body",
                hint="plan the same graph that is written",
            )
        body = _body_for(node, specs[node.op_type], chosen[node.name])
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
    spec: Spec


def _body_for(node: NodeProto, specs: Mapping[str, Spec], form: str) -> _Body:
    """The variant for a node; it also serves the file's other nodes of its op.

    Args:
        node: The node.
        specs: Structures of all nodes of its op, by name.
        form: The form that was planned.
    """
    family = known_op(node.op_type, node.name)
    spec = family.shared(specs[node.name], list(specs.values()))
    found = next((f for f in family.onnx if f.name == form), None)
    if found is None or form == DENSE or found.refuse(spec):
        best = choose(node.name, spec, family.onnx, keeps_factors=True).form
        found = next(f for f in family.onnx if f.name == best)
    return _Body(family.variant(found.name, spec), found.name, found.build, spec)
