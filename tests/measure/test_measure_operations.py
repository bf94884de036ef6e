"""Operations of a file for the cost model: counted like the layers of its graph."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from sepdeploy.exporters.graph_layers import graph_macs
from sepdeploy.measure.operations import artifact_operations


@pytest.mark.parametrize("turned", [0, 1])
def test_a_turned_product_has_as_many_macs(tmp_path, turned):
    shape = [64, 1] if turned else [1, 64]
    weight = numpy_helper.from_array(np.ones((64, 10), np.float32), "w")
    node = helper.make_node("Gemm", ["x", "w"], ["y"], name="fc", transA=turned)
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [node], "g", [value("x", TensorProto.FLOAT, shape)],
        [value("y", TensorProto.FLOAT, [1, 10])], [weight],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])
    onnx.save(model, tmp_path / "m.onnx")
    (op,) = artifact_operations(tmp_path / "m.onnx")
    assert op.macs == graph_macs(model) == 640
