"""Graphs of custom nodes, and what they compute."""

import math

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from sepdeploy.exporters.onnx_file.write import write_onnx
from sepdeploy.exporters.tflite_file.write import write_tflite
from sepdeploy.records import LoweringChoice

DOMAIN = "ai.sepdeploy"


def two_layers(seed=0, dtype=np.float32, terms=2):
    """A canonical graph 36 → 30 (Kronecker) → ReLU → 11 (low rank), and what it computes."""
    rng = np.random.default_rng(seed)
    shapes = {
        "a.factors.0": (terms, 5, 4), "a.factors.1": (terms, 6, 9), "a.bias": (30,),
        "b.U": (30, 3), "b.V": (11, 3), "b.bias": (11,),
    }  # fmt: skip
    arrays = {
        name: (rng.standard_normal(s) / math.sqrt(s[-1])).astype(dtype)
        for name, s in shapes.items()
    }
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    cast = [] if dtype == np.float32 else [helper.make_node("Cast", ["input"], ["x"], to=kind)]
    first = helper.make_node(
        "KronLinear", ["x" if cast else "input", "a.factors.0", "a.factors.1", "a.bias"],
        ["a.y"], name="a", domain=DOMAIN, in_shape=[4, 9], out_shape=[5, 6], terms=terms,
    )  # fmt: skip
    second = helper.make_node(
        "LowRankLinear", ["a.z", "b.U", "b.V", "b.bias"],
        ["b.y" if cast else "logits"], name="b", domain=DOMAIN,
    )  # fmt: skip
    back = [helper.make_node("Cast", ["b.y"], ["logits"], to=TensorProto.FLOAT)] if cast else []
    nodes = [*cast, first, helper.make_node("Relu", ["a.y"], ["a.z"], "relu"), second, *back]
    ends = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", s])
        for n, s in (("input", 36), ("logits", 11))
    ]
    tensors = [numpy_helper.from_array(a, n) for n, a in arrays.items()]
    graph = helper.make_graph(nodes, "two", ends[:1], ends[1:], tensors)
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid(DOMAIN, 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)

    def reference(x):
        wide = {n: a.astype(np.float64) for n, a in arrays.items()}
        f, g = wide["a.factors.0"], wide["a.factors.1"]
        matrix = sum(np.kron(p, q) for p, q in zip(f, g, strict=True))
        hidden = np.maximum(x @ matrix.T + wide["a.bias"], 0)
        return (hidden @ wide["b.U"]) @ wide["b.V"].T + wide["b.bias"]

    return model, reference


def relative_error(found, wanted):
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())


def write_custom(model, path):
    """Write a graph with every structured layer handed to the fused op."""
    nodes = [n for n in model.graph.node if n.domain == DOMAIN]
    choices = [LoweringChoice(n.name, n.op_type, "fused") for n in nodes]
    if path.suffix == ".onnx":
        write_onnx(model, path, flavour="custom", choices=choices)
    else:
        write_tflite(model, path, flavour="custom", choices=choices, runtime="tflite-runtime-2.14")
    return path
