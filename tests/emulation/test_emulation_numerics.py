"""ARM kernels against the same runtime on this machine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from arm_logits import logits

from sepdeploy.devices.emulation import Emulator, peak_memory
from sepdeploy.runtimes.runner.table import load

CORES = ("cortex-a53", "cortex-a72", "cortex-a76")
HOST = {"onnx": "onnxruntime", "tflite": "litert"}
INT8_STEP = 0.02  # of the logits of both int8 samples


def host_logits(sample: Any) -> Any:
    name = HOST[sample.path.suffix[1:]]
    if name == "litert":
        pytest.importorskip("ai_edge_litert")
    return load(name, str(sample.path)).run(sample.inputs)


@pytest.mark.slow
@pytest.mark.parametrize("core", CORES)
@pytest.mark.parametrize("name", ["conv.onnx", "mlp.tflite", "conv.tflite"])
def test_float_logits_agree_with_the_host(
    name: str, core: str, emulator: Callable[[str], Emulator], samples: dict[str, Any]
) -> None:
    sample = samples[name]
    expected = host_logits(sample)
    found = logits(emulator(core), sample.path, sample.inputs)
    assert found is not None
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= 1e-6 * np.abs(expected).max()


@pytest.mark.parametrize("core", CORES)
@pytest.mark.parametrize("name", ["int8.onnx", "int8.tflite"])
def test_int8_logits_are_within_a_step_of_the_hosts(
    name: str, core: str, emulator: Callable[[str], Emulator], samples: dict[str, Any]
) -> None:
    sample = samples[name]
    found = logits(emulator(core), sample.path, sample.inputs)
    expected = host_logits(sample)
    assert len(np.unique(expected)) > 10
    # a sum that falls on the edge of two steps may be rounded either way by another kernel
    assert found is not None
    assert np.abs(found - expected).max() <= 1.01 * INT8_STEP
    assert (found == expected).mean() > 0.9


@pytest.mark.slow
@pytest.mark.parametrize("batch", [1, 2, 64])
@pytest.mark.parametrize("name", ["mlp.onnx", "conv.tflite"])
def test_batch_size_keeps_the_logits(
    name: str, batch: int, emulator: Callable[[str], Emulator], samples: dict[str, Any]
) -> None:
    sample = samples[name]
    found = logits(emulator("cortex-a72"), sample.path, sample.inputs, batch=batch)
    np.testing.assert_allclose(found, host_logits(sample), rtol=1e-5, atol=1e-6)


def test_memory_is_the_guests_and_not_the_emulators(
    emulator: Callable[[str], Emulator], samples: dict[str, Any]
) -> None:
    peak = peak_memory(emulator("cortex-a72"), samples["mlp.tflite"].path).value
    assert peak is not None
    # The library alone is 6 MB; the emulator with its translated code takes over 40 MB.
    assert 4e6 < peak < 25e6
