"""Canonical graphs made by hand, and how to run them: no torch in here."""

import numpy as np
import onnx
import onnxruntime
from onnx import checker, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from sepdeploy.exporters.domain import DOMAIN, DOMAIN_VERSION, IR_VERSION, OPSET
from sepdeploy.exporters.families import FAMILIES
from sepdeploy.exporters.onnx_graph.canonical import clean
from sepdeploy.exporters.onnx_graph.graph import copy_model
from sepdeploy.records import InputSpec, LayerRecord
from sepdeploy.structures import DenseSpec


def factors_of(spec, rng):
    return [rng.standard_normal(s).astype(np.float32) / s[-1] ** 0.5 for s in spec.factor_shapes]


class Chain:
    """Structured layers in a row, ReLU between them, random factors and biases."""

    def __init__(self, *specs, seed=0, bias=True):
        rng = np.random.default_rng(seed)
        self.specs = {f"fc{i + 1}": spec for i, spec in enumerate(specs)}
        self.factors = {name: factors_of(spec, rng) for name, spec in self.specs.items()}
        self.biases = {
            name: rng.standard_normal(spec.out_features).astype(np.float32) * bias
            for name, spec in self.specs.items()
        }
        self.input = InputSpec((specs[0].in_features,))

    def __call__(self, x):
        """The oracle: dense matrices in double precision."""
        x = x.astype(np.float64)
        for i, (name, spec) in enumerate(self.specs.items()):
            x = np.maximum(x, 0) if i else x
            doubles = [f.astype(np.float64) for f in self.factors[name]]
            x = x @ spec.dense_matrix(doubles).T + self.biases[name]
        return x

    def samples(self, n=3):
        return np.random.default_rng(n).standard_normal((n, self.input.features)).astype(np.float32)

    @property
    def layers(self):
        return tuple(
            LayerRecord(
                name,
                spec.structure,
                spec.factor_shapes,
                spec.params(True),
                spec.dense_params(True),
                spec.macs,
                spec.dense_macs,
                spec.to_json(),
            )
            for name, spec in self.specs.items()
        )

    def canonical(self):
        nodes, constants, value = [], {}, "input"
        for i, (name, spec) in enumerate(self.specs.items()):
            if i:
                nodes.append(helper.make_node("Relu", [value], [f"relu{i}"], f"relu{i}"))
                value = f"relu{i}"
            out = "logits" if i == len(self.specs) - 1 else name
            own = {f"{name}.F{k}": f for k, f in enumerate(self.factors[name])}
            own[f"{name}.bias"] = self.biases[name]
            constants |= own
            nodes.append(structured_node(name, spec, [value, *own], out))
            value = out
        n_out = list(self.specs.values())[-1].out_features
        return make_model(nodes, constants, self.input.shape, (n_out,))


def structured_node(name, spec, inputs, output):
    if isinstance(spec, DenseSpec):
        return helper.make_node("Gemm", inputs, [output], name, transB=1)
    family = FAMILIES[spec.structure]
    attrs = family.attributes(spec)
    return helper.make_node(family.op_type, inputs, [output], name, domain=DOMAIN, **attrs)


def make_model(nodes, constants, in_shape, out_shape, source="input", sink="logits"):
    def info(name, shape):
        return helper.make_tensor_value_info(name, 1, ["batch", *shape])

    graph = helper.make_graph(
        nodes,
        "sepdeploy",
        [info(source, in_shape)],
        [info(sink, out_shape)],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()],
    )
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, DOMAIN_VERSION)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)


def run_reference(model, x):
    source = model if isinstance(model, onnx.ModelProto) else str(model)
    return ReferenceEvaluator(source).run(None, {"input": x})[0]


def run_ort(model, x):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    source = model.SerializeToString() if isinstance(model, onnx.ModelProto) else str(model)
    session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    return session.run(None, {"input": x})[0]


def relative(found, expected):
    return np.abs(found - expected).max() / np.abs(expected).max()


def ops(model):
    return [n.op_type for n in model.graph.node]


def node(op, inputs, output, **attrs):
    return helper.make_node(op, inputs, [output], f"n_{output}", **attrs)


def cleaned(nodes, constants, in_shape, out_shape, described=None):
    """The cleaned graph, checked to be valid and to compute what the original did.

    Up to rounding: two products in another order differ in the last bit, by the BLAS at hand.
    """
    model = make_model(nodes, constants, in_shape, out_shape)
    for name, shape in (described or {}).items():
        model.graph.value_info.append(helper.make_tensor_value_info(name, 1, ["batch", *shape]))
    before = copy_model(model)
    clean(model)
    checker.check_model(model, full_check=True)
    for batch in (1, 4):
        x = np.random.default_rng(batch).standard_normal((batch, *in_shape)).astype(np.float32)
        wanted = run_reference(before, x)
        np.testing.assert_allclose(
            run_reference(model, x), wanted, rtol=0, atol=1e-5 * max(1, np.abs(wanted).max())
        )
    return model


def shape(*values):
    return np.array(values, np.int64)
