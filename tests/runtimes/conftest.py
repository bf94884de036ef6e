"""A linear layer, its weights and its file."""

import numpy as np
import onnx
import pytest
from onnx_builder import linear_model


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def weights(rng):
    return rng.standard_normal((5, 12), np.float32), rng.standard_normal(5, np.float32)


@pytest.fixture
def onnx_linear(tmp_path, weights):
    path = tmp_path / "linear.onnx"
    onnx.save(linear_model(*weights), str(path))
    return path
