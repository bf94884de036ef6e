"""One network of every kind of layer, written once in both formats."""

import numpy as np
import pytest
from measure_models import FEATURES, Network

from sepdeploy import runtimes

RUNTIMES = [(name, runtimes.RUNTIMES[name].format) for name in runtimes.versions()]


@pytest.fixture(scope="session")
def network():
    return Network()


@pytest.fixture(scope="session")
def images():
    return np.random.default_rng(1).random((32, FEATURES), dtype=np.float32)


@pytest.fixture(scope="session")
def artifacts(network, tmp_path_factory):
    folder = tmp_path_factory.mktemp("artifacts")
    found = {"onnx": network.write(folder / "net.onnx")}
    if runtimes.installed("tflite"):
        found["tflite"] = network.write(folder / "net.tflite")
    return found


@pytest.fixture(params=RUNTIMES, ids=[name for name, _ in RUNTIMES])
def runtime_and_path(request, artifacts):
    name, form = request.param
    return name, artifacts[form]
