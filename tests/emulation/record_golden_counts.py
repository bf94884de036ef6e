"""Writes golden_counts.json anew: run it after the pinned runtimes changed, and say why.

python -m pytest tests/emulation/record_golden_counts.py -m slow
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sepdeploy.devices.emulation import Emulator, count_instructions

VERSIONS = ("qemu", "plugin", "libc", "compiler", "emulated_runtime_version")
PARTS = ("total", "simd", "ldst", "fmla", "dot")
NAMES = ("mlp.onnx", "conv.onnx", "int8.onnx", "conv.tflite", "int8.tflite")


@pytest.mark.slow
def test_record(emulator: Callable[[str], Emulator], samples: dict[str, Any]) -> None:
    versions: dict[str, set[str]] = {key: set() for key in VERSIONS}
    counts: dict[str, Any] = {}
    for name in NAMES:
        for core in ("cortex-a53", "cortex-a72", "cortex-a76"):
            for label in ("optimised", "plain"):
                outcome = count_instructions(
                    emulator(core), samples[name].path, optimize=label == "optimised"
                )
                parts = {part: getattr(outcome.value, part) for part in PARTS}
                counts.setdefault(name, {}).setdefault(core, {})[label] = parts
                for key in VERSIONS:
                    versions[key].add(outcome.facts[key])
    data = {"versions": {k: sorted(v) for k, v in versions.items()}, "counts": counts}
    target = Path(__file__).with_name("golden_counts.json")
    target.write_text(json.dumps(data, indent=1) + "\n")
