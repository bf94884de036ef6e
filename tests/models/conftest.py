import pytest

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
