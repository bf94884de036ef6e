"""Which custom nodes a file has, and whether kernels can run all of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sepdeploy.flatbuffer import MODEL_CODES, MODEL_GRAPHS, DamagedError, Data, Table
from sepdeploy.records import DOMAIN

OPS = ("KronLinear", "LowRankLinear")
FLOAT = 1  # onnx.TensorProto.FLOAT

# Field numbers of the TFLite schema's tables.
CODE_CUSTOM = 1
GRAPH_OPERATORS = 3
OPERATOR_CODE = 0


@dataclass(frozen=True)
class Survey:
    """How many custom nodes of ours a file has, and why kernels cannot run them ("" if they can).

    Files that cannot be read have none: the runtime says what is wrong with them.
    """

    nodes: int = 0
    reason: str = ""


def survey_onnx(path: Path) -> Survey:
    """Look into an ONNX file."""
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load(str(path), load_external_data=False)
    except (DecodeError, ValueError, OSError):
        return Survey()
    nodes = [n for n in model.graph.node if n.domain == DOMAIN]
    return Survey(len(nodes), _refusal(model, nodes))


def _refusal(model: Any, nodes: list[Any]) -> str:
    known = {t.name: t.data_type for t in model.graph.initializer}
    for node in nodes:
        if node.op_type not in OPS:
            return f"there is no kernel for {node.op_type}"
        types = [known.get(name) for name in node.input[1:]]
        if None in types:
            return "their factors are not constants"
        if set(types) != {FLOAT}:
            return "they are not all float32"
    if any(n.domain == DOMAIN for n in _hidden_nodes(model)):
        return "some stand inside functions or branches"
    return ""


def _hidden_nodes(model: Any) -> Iterator[Any]:
    """Yield the nodes of functions and of graphs inside nodes."""
    for function in model.functions:
        yield from _with_inner(function.node)
    for node in model.graph.node:
        yield from _inner(node)


def _with_inner(nodes: Any) -> Iterator[Any]:
    for node in nodes:
        yield node
        yield from _inner(node)


def _inner(node: Any) -> Iterator[Any]:
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            yield from _with_inner(graph.node)


def survey_tflite(data: Data) -> Survey:
    """Look into a TFLite file; whether a node is well formed is seen by the kernels' delegate."""
    try:
        root = Table.root(data)
        names = [code.text(CODE_CUSTOM) for code in root.tables(MODEL_CODES)]
        used = [
            names[operator.number(OPERATOR_CODE)]
            for graph in root.tables(MODEL_GRAPHS)
            for operator in graph.tables(GRAPH_OPERATORS)
        ]
    except (DamagedError, IndexError):
        return Survey()
    foreign = sorted({name for name in used if name and name not in OPS})
    nodes = sum(name in OPS for name in used)
    return Survey(nodes, f"there is no kernel for {foreign[0]}" if nodes and foreign else "")
