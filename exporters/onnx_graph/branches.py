"""Branches whose condition is known: an If becomes the nodes of the branch that is taken."""

from __future__ import annotations

from onnx import GraphProto, NodeProto, TensorProto, helper

from sepdeploy.exporters.onnx_graph.graph import (
    attributes,
    initializers,
    rename_values,
    set_nodes,
    to_array,
)
from sepdeploy.exporters.onnx_graph.weights import is_held


def take_branches(graph: GraphProto) -> bool:
    """Put the nodes of known branches in the place of their If, in place; whether there was one.

    Names inside a branch may stand in its sibling too, so they are made the If's own.
    """
    known = initializers(graph)
    nodes: list[NodeProto] = []
    found = False
    for node in graph.node:
        condition = known.get(node.input[0]) if node.op_type == "If" and node.input else None
        if node.domain not in ("", "ai.onnx") or condition is None or is_held(condition):
            nodes.append(node)
            continue
        nodes += _taken(graph, node, condition)
        found = True
    set_nodes(graph, nodes)
    return found


def _taken(graph: GraphProto, node: NodeProto, condition: TensorProto) -> list[NodeProto]:
    taken = bool(to_array(condition).reshape(-1)[:1].any())
    branch = GraphProto()
    branch.CopyFrom(attributes(node)["then_branch" if taken else "else_branch"])
    own = {name for inner in branch.node for name in inner.output if name}
    own |= {item.name for item in branch.initializer}
    rename_values(branch, {name: f"{node.output[0]}/{name}" for name in own})
    for inner in branch.node:
        inner.name = f"{node.name}/{inner.name}" if node.name and inner.name else inner.name
    graph.initializer.extend(branch.initializer)
    ends = [
        helper.make_node("Identity", [given.name], [name])
        for given, name in zip(branch.output, node.output, strict=True)
        if name
    ]
    return [*branch.node, *ends]
