"""ONNX graphs at lower precision, against the formula and ONNX's reference evaluator."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from sepdeploy.errors import BadInput
from sepdeploy.exporters.domain import DOMAIN
from sepdeploy.exporters.quantize import Scheme, onnx_activations, quantize_onnx
from sepdeploy.exporters.quantize.scales import affine, quantize, quantize_weight

RNG = np.random.default_rng(3)


def gemm_net(weight: np.ndarray, bias: np.ndarray, **attrs: object) -> onnx.ModelProto:
    nodes = [
        helper.make_node("Gemm", ["x", "fc.weight", "fc.bias"], ["fc"], name="fc", **attrs),
        helper.make_node("Relu", ["fc"], ["y"], name="relu"),
    ]
    inputs = [helper.make_tensor_value_info("x", 1, ["N", weight.shape[1]])]
    outputs = [helper.make_tensor_value_info("y", 1, ["N", weight.shape[0]])]
    constants = [
        numpy_helper.from_array(weight, "fc.weight"),
        numpy_helper.from_array(bias, "fc.bias"),
    ]
    graph = helper.make_graph(nodes, "g", inputs, outputs, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


@pytest.fixture
def net() -> onnx.ModelProto:
    return gemm_net(
        RNG.standard_normal((16, 24)).astype(np.float32),
        RNG.standard_normal(16).astype(np.float32),
        transB=1,
    )


def run(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    onnx.checker.check_model(model, full_check=True)
    return ReferenceEvaluator(model).run(None, {"x": x})[0]


def constants(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}


@pytest.mark.parametrize("structure", ["dense", "lowrank"])
def test_static_computes_what_the_integers_say(net: onnx.ModelProto, structure: str) -> None:
    x = RNG.uniform(-2, 3, (5, 24)).astype(np.float32)
    scheme = Scheme("static", {"fc": structure}, ranges={"x": (-2.0, 3.0)})
    assert onnx_activations(net, scheme) == ("x",)
    found, precisions = quantize_onnx(net, scheme)
    known = constants(net)
    axis = 0 if structure == "dense" else None
    how = affine(-2.0, 3.0)
    weight = quantize_weight(known["fc.weight"], axis)
    stored = quantize(x, how).astype(np.int64) - how.zero
    product = stored @ weight.values.T.astype(np.int64)
    bias = np.rint(known["fc.bias"] / (how.scale * weight.scale))
    expected = np.maximum((product + bias) * (how.scale * weight.scale), 0)
    np.testing.assert_allclose(run(found, x), expected, rtol=1e-4, atol=1e-4)
    assert [p.precision for p in precisions] == ["int8"]


def test_dynamic_is_close_and_its_weights_are_int8(net: onnx.ModelProto) -> None:
    x = RNG.uniform(-2, 3, (5, 24)).astype(np.float32)
    found, _ = quantize_onnx(net, Scheme("dynamic", {"fc": "dense"}))
    expected = run(net, x)
    assert np.linalg.norm(run(found, x) - expected) < 0.02 * np.linalg.norm(expected)
    assert constants(found)["fc.weight.int8"].dtype == np.int8
    assert "fc.weight" not in constants(found)
    assert found.graph.input[0].name == "x"


def test_float16_is_within_its_rounding(net: onnx.ModelProto) -> None:
    x = RNG.uniform(-2, 3, (5, 24)).astype(np.float32)
    found, _ = quantize_onnx(net, Scheme("fp16", {"fc": "dense"}))
    bound = 2.0**-11 * (np.abs(x) @ np.abs(constants(net)["fc.weight"]).T) + 1e-5
    assert np.all(np.abs(run(found, x) - run(net, x)) <= bound)


def test_a_layer_that_is_kept_float_is_left_alone(net: onnx.ModelProto) -> None:
    with pytest.raises(BadInput, match=r"changes nothing.*slower here"):
        quantize_onnx(net, Scheme("dynamic", {"fc": "dense"}, {"fc": "slower here"}))


@pytest.mark.parametrize("attrs", [{"transB": 1, "alpha": 2.0}, {"transB": 1, "beta": 0.5}])
def test_a_scaled_product_has_no_integer_form(attrs: dict[str, object]) -> None:
    scaled = gemm_net(np.ones((4, 4), np.float32), np.ones(4, np.float32), **attrs)
    with pytest.raises(BadInput, match="no integer form"):
        quantize_onnx(scaled, Scheme("dynamic", {"fc": "dense"}))


def test_an_activation_without_a_range_is_named(net: onnx.ModelProto) -> None:
    with pytest.raises(BadInput, match="'x' was not calibrated"):
        quantize_onnx(net, Scheme("static", {"fc": "dense"}))


def test_an_unknown_mode_is_refused(net: onnx.ModelProto) -> None:
    with pytest.raises(BadInput, match="static"):
        quantize_onnx(net, Scheme("statik", {"fc": "dense"}))


def test_structured_nodes_are_refused(net: onnx.ModelProto) -> None:
    net.graph.node[0].domain, net.graph.node[0].op_type = DOMAIN, "LowRankLinear"
    with pytest.raises(BadInput, match="custom flavour"):
        quantize_onnx(net, Scheme("dynamic", {"fc": "lowrank"}))


def test_the_same_graph_gives_the_same_bytes(net: onnx.ModelProto) -> None:
    scheme = Scheme("static", {"fc": "dense"}, ranges={"x": (0.0, 1.0)})
    first, second = (quantize_onnx(net, scheme)[0].SerializeToString() for _ in range(2))
    assert first == second
