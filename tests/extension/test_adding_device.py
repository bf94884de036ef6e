"""A new device is one TOML file, given by its path: bench estimates it with nothing attached."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from sepdeploy import devices

ROOT = Path(devices.__file__).parent / "profiles"


@pytest.mark.slow
def test_a_profile_of_ones_own_is_benched_by_its_path(copy: Path, call: Callable) -> None:
    text = (ROOT / "rpi5.toml").read_text(encoding="utf-8")
    own = copy / "rpi9.toml"
    own.write_text(text.replace('id = "rpi5"', 'id = "rpi9"'), encoding="utf-8")
    out = copy / "found.json"
    words = ("bench", copy / "tiny.onnx", "--samples", "20", "--attack", "pgd-2", "--json", out)
    found = call(*words, "--device", own)
    assert found.code == 0, found.err
    (result,) = json.loads(out.read_text())["results"]
    assert result["device"]["id"] == "rpi9"
    kinds = {m["kind"] for m in result["measurements"]}
    assert {"STATIC", "HOST", "ESTIMATED"} <= kinds
    guessed = {m["metric"]: m for m in result["measurements"] if m["kind"] == "ESTIMATED"}
    ratio = guessed["latency_vs_dense"]
    assert ratio["ci"][0] < ratio["value"] < ratio["ci"][1]
    own = guessed["latency_ms"]["value"]
    assert ratio["value"] == pytest.approx(ratio["dense_ms"] / own)
    assert sum(guessed["latency_ms"]["parts"].values()) == pytest.approx(own)
    assert not any(m["unit"] == "ms" for m in result["measurements"] if m["kind"] == "EMULATED")
