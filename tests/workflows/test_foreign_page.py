"""What the page on files of others shows in Python runs as it stands there."""

import re
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

PAGE = Path(__file__).parents[2] / "docs/foreign.md"


def detector(path: Path) -> Path:
    """A recurrent step of two named inputs and outputs, its state of an open size."""
    rng = np.random.default_rng(0)
    weights = {
        "w": rng.normal(size=(64, 128)).astype(np.float32) / 8,
        "v": rng.normal(size=(128, 1)).astype(np.float32) / 8,
    }
    nodes = [
        helper.make_node("MatMul", ["input", "w"], ["seen"]),
        helper.make_node("Add", ["seen", "state"], ["sum"]),
        helper.make_node("Tanh", ["sum"], ["stateN"]),
        helper.make_node("ReduceMean", ["stateN", "first"], ["mean"], keepdims=0),
        helper.make_node("MatMul", ["mean", "v"], ["score"]),
        helper.make_node("Sigmoid", ["score"], ["output"]),
    ]
    graph = helper.make_graph(
        nodes,
        "detector",
        [
            helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 64]),
            helper.make_tensor_value_info("state", TensorProto.FLOAT, ["layers", 1, 128]),
        ],
        [
            helper.make_tensor_value_info("output", TensorProto.FLOAT, [1, 1]),
            helper.make_tensor_value_info("stateN", TensorProto.FLOAT, ["layers", 1, 128]),
        ],
        [
            *(numpy_helper.from_array(value, name) for name, value in weights.items()),
            numpy_helper.from_array(np.array([0]), "first"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)
    return path


@pytest.mark.slow
def test_the_snippet_runs(tmp_path, monkeypatch):
    (snippet,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    theirs = onnxruntime.InferenceSession(detector(tmp_path / "detector.onnx"))
    rng = np.random.default_rng(1)
    told = {
        "sound": rng.normal(size=(1, 64)).astype(np.float32),
        "state": rng.normal(size=(2, 1, 128)).astype(np.float32),
    }
    here = dict(told)
    exec(snippet, here)
    for name, value in zip(
        ("output", "stateN"),
        theirs.run(None, {"input": told["sound"], "state": told["state"]}),
        strict=True,
    ):
        np.testing.assert_allclose(here["found"][name], value, rtol=1e-5, atol=1e-6)
