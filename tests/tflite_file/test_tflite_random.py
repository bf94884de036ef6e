"""Random graphs: whatever meets, in whatever memory order, the result is that of ONNX Runtime."""

from __future__ import annotations

from pathlib import Path

import pytest
from random_graphs import Grower
from tflite_oracles import INTERPRETERS, check

pytestmark = pytest.mark.skipif(not INTERPRETERS, reason="no TFLite runtime is installed")


def compare(seed: int, folder: Path) -> None:
    grower = Grower(seed)
    model = grower.model(4 + seed % 12)
    # A chain of twenty operators on values near zero loses more than one operator does.
    check(model, grower.input, folder, tolerance=2e-4)


@pytest.mark.parametrize("seed", range(80))
def test_a_random_graph(seed: int, tmp_path: Path) -> None:
    compare(seed, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1000, 1600))
def test_another_random_graph(seed: int, tmp_path: Path) -> None:
    compare(seed, tmp_path)
