"""A factored convolution on its way to the device."""

import pytest
import torch

import sepdeploy as sd
from sepdeploy import data
from sepdeploy.compression import compress_model
from sepdeploy.models import create


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [pytest.param("4x4", marks=pytest.mark.slow), "3x7"])
def test_a_factored_convolution_is_exported_as_it_stands(tmp_path, ranks):
    torch.manual_seed(0)
    model = create("lenet", data.load("digits").input, 10)
    small, _ = compress_model(model.eval(), {"conv2": f"lowrank:{ranks}", "fc1": "lowrank:8"})
    manifest = sd.export(small, tmp_path / "small", eval_pack=False)
    assert {a.format for a in manifest.artifacts} == {"onnx", "tflite"}
    assert all(p.passed for a in manifest.artifacts for p in a.parity)
    names = [layer.name for layer in manifest.layers]
    assert [n for n in names if n.startswith("conv2.")] == [
        "conv2.reduce", "conv2.core", "conv2.expand",
    ]  # fmt: skip
    assert sum(x.params for x in manifest.layers) == small.params
    assert sum(x.params_dense for x in manifest.layers) == small.params_dense == model.params
    x = torch.rand(3, 1, 8, 8)
    with torch.no_grad():
        expected = small(x).numpy()
    with sd.open(tmp_path / "small.onnx") as session:
        assert abs(session.run(x.numpy()) - expected).max() < 1e-4
