"""Daemons to talk to, and a small model to measure."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from device_daemons import adb_world, sshd

__all__ = ["adb_world", "sshd"]

Weights = npt.NDArray[np.float32]


@pytest.fixture(scope="session")
def weight() -> Weights:
    return np.random.default_rng(7).standard_normal((12, 5)).astype(np.float32)


@pytest.fixture(scope="session")
def onnx_file(tmp_path_factory: pytest.TempPathFactory, weight: Weights) -> Path:
    """A file that multiplies its input (N, 12) with ``weight``."""
    from onnx import TensorProto, helper, numpy_helper, save

    graph = helper.make_graph(
        [helper.make_node("MatMul", ["input", "w"], ["logits"])],
        "g",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 12])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 5])],
        [numpy_helper.from_array(weight, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    path = tmp_path_factory.mktemp("model") / "model.onnx"
    save(model, path)
    return path
