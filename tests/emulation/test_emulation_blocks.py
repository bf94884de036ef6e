"""Records of executed blocks: the same bytes every time, and the instructions that are counted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from sepdeploy.devices.emulation import Emulator, count_instructions, record_blocks
from sepdeploy.devices.estimate import parse_blocks, work


@pytest.mark.parametrize("name", [pytest.param("conv.onnx", marks=pytest.mark.slow), "conv.tflite"])
def test_two_processes_record_the_same_bytes(
    name: str, emulator: Callable[[str], Emulator], samples: dict[str, Any]
) -> None:
    path = samples[name].path
    first = record_blocks(emulator("cortex-a72"), path).value
    assert first is not None
    assert record_blocks(emulator("cortex-a72"), path).value == first
    done = work(parse_blocks(first), "a72")
    counted = count_instructions(emulator("cortex-a72"), path).value
    assert counted is not None
    assert done.instructions == pytest.approx(counted.total, rel=0.1)  # the second, not the fourth
    assert done.unknown < 0.02
    assert 0.2 < (done.kernels + done.scalar) / done.instructions < 3
