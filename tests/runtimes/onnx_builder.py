"""Builds small ONNX files with onnx.helper alone."""

from onnx import TensorProto, helper, numpy_helper


def onnx_model(nodes, inputs, outputs, constants=(), metadata=None):
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info(n, t, s) for n, t, s in inputs],
        [helper.make_tensor_value_info(n, t, s) for n, t, s in outputs],
        [numpy_helper.from_array(array, name) for name, array in constants],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    for key, value in (metadata or {}).items():
        model.metadata_props.add(key=key, value=value)
    return model


def linear_model(weight, bias, *, batch="batch", metadata=None):
    """x (N, n_in) -> x Wᵀ + b."""
    out, features = weight.shape
    return onnx_model(
        [helper.make_node("Gemm", ["input", "w", "b"], ["logits"], transB=1)],
        [("input", TensorProto.FLOAT, [batch, features])],
        [("logits", TensorProto.FLOAT, [batch, out])],
        [("w", weight), ("b", bias)],
        metadata,
    )
