"""Small trained networks on the digits, and files made from them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from sepdeploy.data import load  # noqa: E402
from sepdeploy.exporters.capture.trace import trace  # noqa: E402
from sepdeploy.exporters.formats import FORMATS, Order  # noqa: E402
from sepdeploy.exporters.plan import plan  # noqa: E402
from sepdeploy.exports.judged_images import torch_logits  # noqa: E402
from sepdeploy.exports.quantize.files import Calibrated, Calibration  # noqa: E402
from sepdeploy.models import Model, create  # noqa: E402


@dataclass(frozen=True)
class Trained:
    model: Model
    images: np.ndarray[Any, Any]  # of the test split
    labels: np.ndarray[Any, Any]
    logits: np.ndarray[Any, Any]
    calibration: Calibration

    @property
    def structures(self) -> dict[str, str]:
        return {layer.name: layer.structure for layer in self.model.layer_records()}

    def order(self, format: str, target: str = "litert") -> Order:
        canonical = trace(self.model)
        choices = plan(canonical, format, quantized=True)
        return Order(canonical, choices, "{}", runtime=target)

    def maker(self, format: str, folder: Path, target: str = "litert") -> Calibrated:
        order = self.order(format, target)
        runtime = {"onnx": "onnxruntime", "tflite": "litert"}[format]
        return Calibrated(FORMATS[format].quantizer(order, folder), runtime, self.calibration)


def train(arch: str, epochs: int, **kwargs: Any) -> Trained:
    data = load("digits")
    torch.manual_seed(0)
    model = create(arch, data.input, 10, **kwargs)
    images = torch.from_numpy(data.train.batch(slice(None)))
    labels = torch.from_numpy(data.train.labels)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    model.train()
    for _ in range(epochs):
        for part in torch.randperm(len(images)).split(64):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(images[part]), labels[part]).backward()
            optimizer.step()
    model.eval()
    test = data.test.batch(slice(None))
    taken = data.train.take(64, 0)
    return Trained(
        model,
        test,
        data.test.labels,
        torch_logits(model, test),
        Calibration(taken.batch(slice(None)), {"data": "digits", "split": "train", "n": 64}),
    )


@pytest.fixture(scope="session")
def kron() -> Trained:
    return train("mlp", 4, hidden=(64, 64), structure="kron")


@pytest.fixture(scope="session")
def mlp() -> Trained:
    return train("mlp", 3, hidden=(64, 64))


@pytest.fixture(scope="session")
def lenet() -> Trained:
    return train("lenet", 4)
