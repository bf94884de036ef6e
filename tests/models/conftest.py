import pytest
import torch

from sepdeploy.models import create, save
from sepdeploy.records import InputSpec


@pytest.fixture
def digit():
    return InputSpec((1, 8, 8))


@pytest.fixture
def mnist():
    return InputSpec((1, 28, 28))


@pytest.fixture
def cifar():
    return InputSpec((3, 32, 32), mean=(0.49, 0.48, 0.45), std=(0.2, 0.2, 0.21))


@pytest.fixture
def model(digit):
    torch.manual_seed(0)
    return create("mlp", digit, 10, {"fc1": "kron", "fc2": "lowrank:3"}, hidden=(16, 12)).eval()


@pytest.fixture
def path(model, tmp_path):
    save(model, tmp_path / "model.pt")
    return tmp_path / "model.pt"
