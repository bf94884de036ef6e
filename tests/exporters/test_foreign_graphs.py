"""Reading anybody's ONNX file: opsets, outputs, functions, and the graph it becomes."""

import numpy as np
import pytest
from foreign_graphs import agree, canonical_of, foreign, onnx_run, small_net, stored
from onnx import TensorProto, helper

from sepdeploy import runtimes
from sepdeploy.errors import BadInput
from sepdeploy.exporters.capture.normalize import fixed_batch, input_shape, normalize
from sepdeploy.exporters.capture.onnx_source import read_onnx
from sepdeploy.exporters.domain import OPSET
from sepdeploy.exporters.graph_layers import graph_layers, graph_macs

F32 = TensorProto.FLOAT


@pytest.mark.parametrize("opset", [11, 12, 13, 17, 18, 20, 21])
def test_every_opset_becomes_ours_or_stays(tmp_path, opset):
    path = stored(tmp_path, small_net(opset))
    model = canonical_of(path)
    found = next(o.version for o in model.opset_import if o.domain == "")
    assert found == OPSET or opset > OPSET
    assert agree(path, model)
    assert model.producer_name == ""
    assert all(node.name for node in model.graph.node)
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"


def test_constants_listed_as_inputs_are_none(tmp_path):
    model = small_net()
    model.graph.input.append(helper.make_tensor_value_info("w", F32, [96, 3, 3, 3]))
    model.graph.input.append(helper.make_tensor_value_info("b", F32, [96]))
    found = canonical_of(stored(tmp_path, model))
    assert [i.name for i in found.graph.input] == ["image"]
    assert {"w", "b"} <= {t.name for t in found.graph.initializer}


def test_functions_are_inlined(tmp_path):
    body = [
        helper.make_node("Sigmoid", ["X"], ["S"]),
        helper.make_node("Mul", ["X", "S"], ["Y"]),
    ]
    opset = [helper.make_opsetid("", 17)]
    swish = helper.make_function("someone", "MySwish", ["X"], ["Y"], body, opset)
    nodes = [helper.make_node("MySwish", ["image"], ["y"], "act", domain="someone")]
    path = stored(tmp_path, foreign(nodes, {}, functions=[swish]))
    model = canonical_of(path)
    assert sorted(n.op_type for n in model.graph.node) == ["Mul", "Sigmoid"]
    assert agree(path, model)


def test_every_output_is_kept_and_that_is_said(tmp_path):
    model = small_net()
    model.graph.output.append(helper.make_tensor_value_info("r", F32, None))
    said = []
    found = canonical_of(stored(tmp_path, model), said.append)
    assert [o.name for o in found.graph.output] == ["y", "r"]
    assert said == ["m.onnx has 2 outputs, all are kept: y, r"]


def test_of_several_outputs_a_session_gives_logits(tmp_path):
    model = small_net()
    model.graph.output.append(helper.make_tensor_value_info("r", F32, None))
    model.graph.node[0].output[0] = model.graph.node[1].input[0] = "logits"
    model.graph.output.append(helper.make_tensor_value_info("logits", F32, None))
    path = stored(tmp_path, model)
    light, weights = read_onnx(path)
    found = normalize(light, weights, where="m", notify=print, outputs=("logits",))
    assert [o.name for o in found.graph.output] == ["logits"]
    with runtimes.open(path) as session:
        x = np.ones((2, 3, 8, 8), np.float32)
        assert np.allclose(session.run(x), onnx_run(found, x), rtol=1e-4, atol=1e-4)


def test_a_fixed_batch_stays(tmp_path):
    model = canonical_of(stored(tmp_path, small_net(shape=(4, 3, 8, 8))))
    assert fixed_batch(model) == 4
    assert input_shape(model, "m") == (3, 8, 8)
    assert fixed_batch(canonical_of(stored(tmp_path, small_net()))) is None


def test_a_mean_over_the_batch_is_refused_where_the_batch_is_open(tmp_path):
    def centred(batch):
        nodes = [
            helper.make_node("ReduceMean", ["image"], ["m"], axes=[0]),
            helper.make_node("Sub", ["image", "m"], ["y"]),
        ]
        return stored(tmp_path, foreign(nodes, {}, shape=(batch, 3, 8, 8)))

    with pytest.raises(BadInput, match=r"m.onnx: ReduceMean node .* over the batch"):
        canonical_of(centred("N"))
    assert agree(centred(2), canonical_of(centred(2)))


def test_layers_and_products_are_counted(tmp_path):
    model = canonical_of(stored(tmp_path, small_net()))
    conv, fc = graph_layers(model)
    assert (conv.name, conv.params, conv.macs) == ("conv", 96 * 27 + 96, 64 * 96 * 27)
    assert (fc.name, fc.params, fc.macs) == ("classifier", 96 * 200, 96 * 200)
    assert graph_macs(model) == conv.macs + fc.macs


def test_products_of_activations_count(tmp_path):
    nodes = [
        helper.make_node("Flatten", ["image"], ["f"]),
        helper.make_node("Reshape", ["f", "shape"], ["t"]),
        helper.make_node("Transpose", ["t"], ["u"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["t", "u"], ["y"], "scores"),
    ]
    model = canonical_of(stored(tmp_path, foreign(nodes, {"shape": np.array([-1, 16, 12])})))
    assert graph_layers(model) == ()
    assert graph_macs(model) == 16 * 16 * 12
