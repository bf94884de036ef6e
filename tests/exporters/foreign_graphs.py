"""ONNX models as other tools write them, read, and run beside what we make of them."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from sepdeploy.exporters.capture.normalize import normalize
from sepdeploy.exporters.capture.onnx_source import read_onnx

F32 = TensorProto.FLOAT


def foreign(nodes, constants, *, opset=17, shape=("N", 3, 8, 8), outputs=("y",), functions=()):
    def info(name, dims):
        return helper.make_tensor_value_info(name, F32, dims)

    graph = helper.make_graph(
        nodes,
        "made elsewhere",
        [info("image", list(shape))],
        [info(name, None) for name in outputs],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()],
    )
    opsets = [helper.make_opsetid("", opset)]
    opsets += [helper.make_opsetid(d, 1) for d in sorted({f.domain for f in functions})]
    model = helper.make_model(
        graph, opset_imports=opsets, ir_version=8 if not functions else 9, functions=functions
    )
    model.producer_name = "elsewhere"
    return model


def small_net(opset=17, shape=("N", 3, 8, 8), big=True, axes=False):
    """Conv, Relu, Squeeze-and-Unsqueeze, mean, Gemm: older opsets keep axes in attributes."""
    rng = np.random.default_rng(0)
    width = 96 if big else 4
    constants = {
        "w": rng.standard_normal((width, 3, 3, 3)).astype(np.float32) / 5,
        "b": rng.standard_normal(width).astype(np.float32),
        "fc": rng.standard_normal((width, 200 if big else 5)).astype(np.float32) / width,
    }
    nodes = [
        helper.make_node("Conv", ["image", "w", "b"], ["a"], "conv", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["r"], ""),
    ]
    if opset < 13:
        nodes.append(helper.make_node("ReduceMean", ["r"], ["m"], axes=[2, 3], keepdims=1))
        nodes.append(helper.make_node("Squeeze", ["m"], ["s"], axes=[2, 3]))
    else:
        constants["axes"] = np.array([2, 3])
        nodes.append(helper.make_node("GlobalAveragePool", ["r"], ["m"]))
        nodes.append(helper.make_node("Squeeze", ["m", "axes"], ["s"]))
    nodes.append(helper.make_node("MatMul", ["s", "fc"], ["y"], "classifier"))
    return foreign(nodes, constants, opset=opset, shape=shape)


def canonical_of(path, notify=lambda text: None):
    light, weights = read_onnx(path)
    return normalize(light, weights, where=path.name, notify=notify)


def stored(tmp_path, model, name="m.onnx"):
    path = tmp_path / name
    path.write_bytes(model.SerializeToString())
    return path


def agree(path, canonical, batch=2, shape=(3, 8, 8)):
    x = np.random.default_rng(1).standard_normal((batch, *shape)).astype(np.float32)
    expected = onnx_run(path, x)
    renamed = onnx.ModelProto()
    renamed.CopyFrom(canonical)
    return np.abs(onnx_run(renamed, x) - expected).max() <= 1e-5 * np.abs(expected).max()


def onnx_run(model, x):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    source = model.SerializeToString() if isinstance(model, onnx.ModelProto) else str(model)
    session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x})[0]
