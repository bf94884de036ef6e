"""Numbers that are nearly nothing are something: no clean-up of a graph may have a tolerance."""

import numpy as np
import pytest
import torch
from torch import nn

from sepdeploy import models, runtimes
from sepdeploy.exporters.capture.trace import trace
from sepdeploy.exporters.onnx_file.write import write_onnx
from sepdeploy.exporters.plan import plan
from sepdeploy.exporters.tflite_file.write import write_tflite

GUARDS = (1e-6, 1e-8, 1e-12, 1e-30)


class Unit(nn.Module):
    """x / (|x| + ε): finite for an empty image only while ε is there."""

    def __init__(self, eps):
        super().__init__()
        self.eps = eps

    def forward(self, x):
        return x / (x.norm(dim=1, keepdim=True) + self.eps)


class Nearly(nn.Module):
    """Operations that are nearly idle; each changes its input by a few units in the last place."""

    def forward(self, x):
        x = x[:, :2]
        return torch.cat([x * 1.0000005, x / 1.0000005, x + 1e-6, x - 1e-6], dim=1)


def run(module, width, x, tmp_path, suffix):
    graph = trace(models.wrap(module, (width,)).eval())
    path = tmp_path / f"m{suffix}"
    write = write_onnx if suffix == ".onnx" else write_tflite
    write(graph, path, choices=plan(graph, suffix[1:]))
    with runtimes.open(path) as session:
        return session.run(x)


@pytest.mark.parametrize("suffix", [".onnx", ".tflite"])
def test_a_guarded_division_stays_guarded(suffix, tmp_path):
    x = np.float32([[0] * 4, [3, 0, 4, 0]])
    for eps in GUARDS:
        found = run(Unit(eps), 4, x, tmp_path, suffix)
        np.testing.assert_allclose(found, [[0] * 4, [0.6, 0, 0.8, 0]], atol=1e-5)


@pytest.mark.parametrize("suffix", [".onnx", ".tflite"])
def test_what_is_nearly_idle_is_done(suffix, tmp_path):
    x = np.random.default_rng(0).uniform(0.5, 1, (3, 4)).astype(np.float32)
    moved = run(Nearly(), 4, x, tmp_path, suffix).astype(np.float64) - np.tile(x[:, :2], (1, 4))
    up, down = [0, 1, 4, 5], [2, 3, 6, 7]
    assert (moved[:, up] > 1e-7).all()
    assert (moved[:, down] < -1e-7).all()
