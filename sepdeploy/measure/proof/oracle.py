"""The canonical graph as an oracle: every structured layer as one dense matrix, every value open.

No lowering, no planner and no function body has a part in it, so an error in one of those cannot
hide by occurring on both sides.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx
from onnx import ModelProto, helper
from onnx.reference import ReferenceEvaluator

from sepdeploy import runtimes
from sepdeploy.exporters.domain import constant_shapes, ensure_domain, node_spec, structured_nodes
from sepdeploy.exporters.onnx_file.bodies import with_bodies
from sepdeploy.exporters.onnx_graph.graph import (
    copy_model,
    initializers,
    prune,
    set_nodes,
    tensor,
    to_array,
)
from sepdeploy.exporters.plan import plan
from sepdeploy.files import scratch
from sepdeploy.measure.proof.looks import declare_outputs
from sepdeploy.measure.proof.values import runtime_values

Array = npt.NDArray[np.float32]
MAX_DENSE_VALUES = 1 << 28  # of all multiplied-out matrices together, 1 GiB


def oracle_graph(canonical: ModelProto) -> ModelProto:
    """Return the graph with every structured node as a Gemm with its dense matrix.

    Where the matrices together would exceed 1 GiB, structured layers stay, with their bodies.
    """
    shapes = constant_shapes(canonical)
    specs = {node.name: node_spec(node, shapes) for node in structured_nodes(canonical)}
    if sum(s.in_features * s.out_features for s in specs.values()) > MAX_DENSE_VALUES:
        return with_bodies(canonical, plan(canonical, "onnx"))
    model = copy_model(canonical)
    known = initializers(model.graph)
    nodes = []
    for node in model.graph.node:
        spec = specs.get(node.name) if node.domain else None
        if spec is None:
            nodes.append(node)
            continue
        factors = [to_array(known[name]).astype(np.float64) for name in node.input[1:-1]]
        weight = f"{node.name}.oracle"
        matrix = spec.dense_matrix(factors).astype(np.float32)
        model.graph.initializer.append(tensor(weight, matrix))
        inputs = [node.input[0], weight, node.input[-1]]
        nodes.append(helper.make_node("Gemm", inputs, node.output, node.name, transB=1))
    set_nodes(model.graph, nodes)
    ensure_domain(model)
    prune(model.graph)
    return model


def oracle_values(model: ModelProto, images: Array, names: list[str]) -> dict[str, Array]:
    """Return values of a graph by name: from ONNX Runtime, where absent the slow evaluator.

    Args:
        model: From ``oracle_graph``.
        images: float32 (N, *shape).
        names: Values; those that the graph lacks are left out.
    """
    known = {output for node in model.graph.node for output in node.output}
    present = [name for name in names if name in known]
    installed = runtimes.installed("onnx")
    if not installed:
        declare_outputs(model, present)
        (source,) = (i.name for i in model.graph.input)
        found = ReferenceEvaluator(model).run(present, {source: images})
        return dict(zip(present, found, strict=True))
    with scratch() as folder:
        path = folder / "oracle.onnx"
        onnx.save(model, str(path))
        return runtime_values(path, installed[0], images, present)
