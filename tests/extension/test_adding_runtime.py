"""A new runtime is a row of the table and an adapter file, which the runner's zip carries along."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from sepdeploy import runtimes
from sepdeploy.runtimes import Runtime

ADAPTER = '''
"""Files in a runtime that counts what it does: onnx's evaluator under another name."""
from sepdeploy.runtimes.runner.contract import RunnerError
from sepdeploy.runtimes.runner.evaluator import ReferenceModel


def prepare(runtime):
    return runtime


class Model(ReferenceModel):
    name = "toy"

    def __init__(self, path):
        super().__init__(path)
        self.version = "0.7"


def open_model(runtime, path, threads, native, keep_values):
    if "forbidden" in path:
        raise RunnerError("bad-input", f"{path}: not for toys", "take another")
    return Model(path)
'''


@pytest.fixture(autouse=True)
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "plugin"
    folder.mkdir()
    (folder / "toy_adapter.py").write_text(ADAPTER)
    monkeypatch.syspath_prepend(folder)
    row = Runtime("toy", "onnx", "toy_adapter", "toy_adapter", "toy-engine", "pip install toy")
    monkeypatch.setitem(runtimes.RUNTIMES, "toy", row)


@pytest.mark.slow
def test_a_runtime_benches_a_file_in_a_child_process(copy: Path, call: Callable) -> None:
    out = copy / "found.json"
    words = ("bench", copy / "tiny.onnx", "--samples", "20", "--attack", "pgd-2", "--json", out)
    found = call(*words, "--runtime", "toy")
    assert found.code == 0, found.err
    (result,) = json.loads(out.read_text())["results"]
    numbers = {m["metric"]: m["value"] for m in result["measurements"]}
    assert result["runtime"]["name"] == "toy"
    assert numbers["latency_ms"] > 0
    assert numbers["latency_vs_dense"] > 0
    assert numbers["peak_rss_bytes"] > 1 << 20
    call(*words, "--runtime", "onnxruntime")
    (other,) = json.loads(out.read_text())["results"]
    same = {m["metric"]: m["value"] for m in other["measurements"]}
    assert numbers["clean_accuracy"] == same["clean_accuracy"]  # the same network


def test_it_opens_files_in_this_process_and_its_errors_are_ours(copy: Path, call: Callable) -> None:
    with runtimes.open(copy / "tiny.onnx", "toy") as toy, runtimes.open(copy / "tiny.onnx") as ort:
        batch = np.random.default_rng(0).random((3, *ort.input.shape), dtype=np.float32)
        np.testing.assert_allclose(toy.run(batch), ort.run(batch), rtol=1e-4, atol=1e-5)
        assert (toy.runtime.name, toy.runtime.version) == ("toy", "0.7")
    refused = copy / "forbidden.onnx"
    refused.write_bytes((copy / "tiny.onnx").read_bytes())
    found = call("bench", refused, "--runtime", "toy")
    assert (found.code, "not for toys" in found.line) == (2, True)
    assert "take another" in found.err
