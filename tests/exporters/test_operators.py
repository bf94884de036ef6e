"""Every operator a user's module may be made of: PyTorch against all three runtimes.

Tracing costs about a second however small the network, so the modules are traced in groups: one
network whose logits are those of all of them side by side.
"""

from __future__ import annotations

from functools import cache, wraps

import module_zoo
import numpy as np
import pytest
import torch
from torch import nn

from sepdeploy import models, runtimes
from sepdeploy.exporters.capture.trace import trace
from sepdeploy.exporters.onnx_file.write import write_onnx
from sepdeploy.exporters.plan import plan
from sepdeploy.exporters.tflite_file.write import write_tflite
from sepdeploy.measure.proof.parity import TOLERANCE, compare

GROUP = 20
NAMES = tuple(module_zoo.MODULES)
# Variants of attention are the most to trace: plain, causal, grouped, packed ones stay quick.
SLOW = (
    "attention_scaled", "attention_masked", "attention_biased", "multihead_attention_weights",
    "encoder_layer", "encoder_layer_gelu",
)  # fmt: skip
QUICK = tuple(name for name in NAMES if name not in SLOW)
LATER = (*QUICK[4 * GROUP :], *SLOW)  # a group takes some eight seconds
FORMATS = {"onnxruntime": "onnx", "litert": "tflite", "tflite-runtime": "tflite"}
BATCHES = (1, 3, 32)
X = np.random.default_rng(1).random((max(BATCHES), *module_zoo.IMAGE), dtype=np.float32)


def once(function):
    """Compute each result one time only, and each failure, too."""

    @cache
    def attempt(*args):
        try:
            return function(*args), None
        except Exception as error:
            return None, error

    @wraps(function)
    def result(*args):
        value, error = attempt(*args)
        if error is not None:
            raise error
        return value

    return result


class Group(nn.Module):
    """Several modules on the same images."""

    def __init__(self, names):
        super().__init__()
        for name in names:
            self.add_module(name, module_zoo.build(name))

    def forward(self, x):
        return torch.cat([module(x).flatten(1) for module in self.children()], dim=1)


@once
def traced(names):
    return trace(models.wrap(Group(names), module_zoo.IMAGE).eval())


@once
def places(names):
    """Reference logits, and where each module's stand in them."""
    with torch.no_grad():
        parts = [
            module(torch.from_numpy(X)).flatten(1).numpy() for module in Group(names).children()
        ]
    ends = np.cumsum([part.shape[1] for part in parts])
    spans = dict(zip(names, zip([0, *ends], ends, strict=False), strict=True))
    return np.concatenate(parts, axis=1), spans


@once
def results(names, runtime, folder):
    path = folder / f"{abs(hash(names))}.{FORMATS[runtime]}"
    graph = traced(names)
    if not path.exists():
        write = write_onnx if path.suffix == ".onnx" else write_tflite
        write(graph, path, choices=plan(graph, path.suffix[1:]))
    with runtimes.open(path, runtime) as session:
        return {batch: session.run(X[:batch]) for batch in BATCHES}


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("operators")


def group_of(name):
    if name in SLOW:
        return SLOW
    start = QUICK.index(name) // GROUP * GROUP
    return QUICK[start : start + GROUP]


@pytest.mark.parametrize("runtime", FORMATS)
@pytest.mark.parametrize(
    "name",
    [*QUICK[: 4 * GROUP], *(pytest.param(name, marks=pytest.mark.slow) for name in LATER)],
)
def test_a_module_keeps_its_numbers(name, runtime, folder):
    if runtime not in runtimes.installed(FORMATS[runtime]):
        pytest.skip(f"{runtime} is not installed")
    names = group_of(name)
    reference, spans = places(names)
    start, end = spans[name]
    for batch, logits in results(names, runtime, folder).items():
        assert logits.shape == (batch, reference.shape[1])
        error, _, follows = compare(logits[:, start:end], reference[:batch, start:end])
        assert error <= TOLERANCE
        assert follows
