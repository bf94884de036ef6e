"""Small networks for the tests of measuring: canonical graphs, files, and traps, without torch."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from sepdeploy.exporters.domain import DOMAIN
from sepdeploy.exporters.entry import make_entry
from sepdeploy.exporters.onnx_file.write import write_onnx
from sepdeploy.exporters.plan import plan
from sepdeploy.exporters.tflite_file.write import write_tflite
from sepdeploy.records import InputSpec, LayerRecord
from sepdeploy.structures import DenseSpec, KronSpec, LowRankSpec

FEATURES, CLASSES = 256, 10


class Network:
    """input (N, 256) -> kron 256→256 -> Relu -> low rank 256→64 -> Relu -> dense 64→10."""

    def __init__(self, seed=0):
        rng = np.random.default_rng(seed)

        def normal(*shape):
            return rng.standard_normal(shape, np.float32) / np.float32(shape[-1] ** 0.5)

        self.specs = {
            "first": KronSpec((16, 16), (16, 16)),
            "second": LowRankSpec(256, 64, 4),
            "head": DenseSpec(64, CLASSES),
        }
        self.A, self.B = normal(16, 16), normal(16, 16)
        self.U, self.V = normal(256, 4), normal(64, 4)
        self.head = normal(CLASSES, 64)
        self.biases = {name: normal(s.out_features) for name, s in self.specs.items()}
        self.input = InputSpec((FEATURES,))
        self.layers = tuple(
            LayerRecord(
                name,
                spec.structure,
                spec.factor_shapes,
                spec.params(bias=True),
                spec.dense_params(bias=True),
                spec.macs,
                spec.dense_macs,
                spec.to_json(),
            )
            for name, spec in self.specs.items()
        )

    def logits(self, x):
        """The oracle: dense matrices in float64."""
        x = x.astype(np.float64)
        x = np.maximum(x @ np.kron(self.A, self.B).astype(float).T + self.biases["first"], 0)
        x = np.maximum(x @ (self.V.astype(float) @ self.U.T).T + self.biases["second"], 0)
        return (x @ self.head.astype(float).T + self.biases["head"]).astype(np.float32)

    def canonical(self):
        nodes = [
            helper.make_node(
                "KronLinear",
                ["input", "first.factors.0", "first.factors.1", "first.bias"],
                ["first"],
                name="first",
                domain=DOMAIN,
                in_shape=[16, 16],
                out_shape=[16, 16],
                terms=1,
            ),
            helper.make_node("Relu", ["first"], ["act/Relu"], name="act/Relu"),
            helper.make_node(
                "LowRankLinear",
                ["act/Relu", "second.U", "second.V", "second.bias"],
                ["second"],
                name="second",
                domain=DOMAIN,
            ),
            helper.make_node("Relu", ["second"], ["act/Relu_1"], name="act/Relu_1"),
            helper.make_node(
                "Gemm", ["act/Relu_1", "head.weight", "head.bias"], ["logits"], "head", transB=1
            ),
        ]
        weights = {
            "first.factors.0": self.A[None],
            "first.factors.1": self.B[None],
            "first.bias": self.biases["first"],
            "second.U": self.U,
            "second.V": self.V,
            "second.bias": self.biases["second"],
            "head.weight": self.head,
            "head.bias": self.biases["head"],
        }
        return model_of(nodes, weights, FEATURES, CLASSES)

    def write(self, path, *, flavour="standard", entry=True, canonical=None):
        canonical = canonical or self.canonical()
        text = make_entry(self.canonical(), self.input, self.layers) if entry else None
        if path.suffix == ".onnx":
            choices = plan(canonical, "onnx")
            write_onnx(canonical, path, choices=choices, entry=text, flavour=flavour)
        else:
            target = "tflite-runtime-2.14"
            choices = plan(canonical, "tflite")
            write_tflite(canonical, path, entry=text, runtime=target, choices=choices)
        return path

    def scaled(self, weight, factor):
        """The canonical graph with one weight multiplied: a wrong export."""
        model = self.canonical()
        for tensor in model.graph.initializer:
            if tensor.name == weight:
                array = numpy_helper.to_array(tensor) * np.float32(factor)
                tensor.CopyFrom(numpy_helper.from_array(array, weight))
        return model


def model_of(nodes, weights, features, classes):
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", features])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", classes])],
        [numpy_helper.from_array(np.ascontiguousarray(a), name) for name, a in weights.items()],
    )
    opsets = [helper.make_opsetid("", 20)]
    if any(node.domain == DOMAIN for node in nodes):
        opsets.append(helper.make_opsetid(DOMAIN, 1))
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def naive_kron(A, B, *, how, prefix="layer/"):
    """y = x (A ⊗ B)ᵀ with the dense matrix built inside the graph: what must be caught."""
    (a, b), (c, d) = A.shape, B.shape

    def name(text):
        return f"{prefix}{text}"

    if how == "mul":
        build = [
            helper.make_node("Mul", [name("A"), name("B")], [name("AB")], name("Mul")),
            helper.make_node("Reshape", [name("AB"), name("dims")], [name("W")], name("Reshape")),
        ]
        factors = {name("A"): A.reshape(a, 1, b, 1), name("B"): B.reshape(1, c, 1, d)}
    else:
        equation = "ab,cd->acbd"
        build = [
            helper.make_node(
                "Einsum", [name("A"), name("B")], [name("AB")], name("Einsum"), equation=equation
            ),
            helper.make_node("Reshape", [name("AB"), name("dims")], [name("W")], name("Reshape")),
        ]
        factors = {name("A"): A, name("B"): B}
    nodes = [
        *build,
        helper.make_node("Transpose", [name("W")], [name("Wt")], name("Transpose"), perm=[1, 0]),
        helper.make_node("MatMul", ["input", name("Wt")], ["logits"], name("MatMul")),
    ]
    weights = {**factors, name("dims"): np.array([a * c, b * d], np.int64)}
    return model_of(nodes, weights, b * d, a * c)


def kron_record(name, A, B):
    spec = KronSpec((A.shape[1], B.shape[1]), (A.shape[0], B.shape[0]))
    return LayerRecord(
        name,
        "kron",
        spec.factor_shapes,
        spec.params(bias=False),
        spec.dense_params(bias=False),
        spec.macs,
        spec.dense_macs,
    )


def save(model, path):
    onnx.save(model, str(path))
    return path


def matmul_model(path, rows, columns):
    """Write input (N, rows) -> (N, columns), one dense product."""
    weight = np.zeros((rows, columns), np.float32)
    node = helper.make_node("MatMul", ["input", "w"], ["logits"])
    return save(model_of([node], {"w": weight}, rows, columns), path)
