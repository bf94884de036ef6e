"""A new file format is a row in each of four tables; here all stand in a test.

A toy file is an ONNX file behind eight bytes of its own, which its runtime takes off again.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from sepdeploy import runtimes
from sepdeploy.exporters.formats import FORMATS, ONNX, Format, Order
from sepdeploy.measure.operations import OPERATIONS
from sepdeploy.measure.proof.looks import LOOKS
from sepdeploy.runtimes import KINDS, RUNTIMES, Runtime
from sepdeploy.runtimes.native.claims import Claim
from sepdeploy.runtimes.ort import open_onnx

MAGIC = b"TOYFILE1"
ADAPTER = '''
"""Toy files, taken out of their wrapping, in ONNX Runtime."""
from sepdeploy.runtimes.runner.ort import OrtModel, prepare


def open_model(runtime, path, threads, native, keep_values):
    with open(path, "rb") as wrapped, open(path + ".inner", "wb") as inner:
        inner.write(wrapped.read()[8:])
    return OrtModel(path + ".inner", threads)
'''


def unwrapped(path: Path) -> Path:
    inner = path.with_name(f"{path.name}.inner")
    inner.write_bytes(path.read_bytes()[len(MAGIC) :])
    return inner


def write(order: Order, path: Path) -> None:
    ONNX.write(order, path)
    path.write_bytes(MAGIC + path.read_bytes())


@pytest.fixture(autouse=True)
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Format:
    folder = tmp_path / "plugin"
    folder.mkdir()
    (folder / "toy_format_adapter.py").write_text(ADAPTER)
    monkeypatch.syspath_prepend(folder)
    row = replace(
        ONNX, name="toy", suffix=".toy", custom_suffix=".toy", article="a", write=write,
        head=lambda head: head == MAGIC, entry=lambda path: ONNX.entry(unwrapped(path)),
    )  # fmt: skip
    kind = replace(
        KINDS["onnx"], name="toy", suffix=".toy", head=row.head,
        open=lambda path, threads, _, claim: open_onnx(unwrapped(path), threads, claimed=claim),
        claim=lambda path, runtime, version, *, wanted: Claim(),
    )  # fmt: skip
    own = LOOKS["onnx"]
    look = replace(
        own,
        resident=lambda path: own.resident(unwrapped(path)),
        reduced=lambda path: own.reduced(unwrapped(path)),
    )
    engine = Runtime("toy-engine", "toy", "toy_format_adapter", "onnxruntime", "onnxruntime", "-")
    monkeypatch.setitem(FORMATS, "toy", row)
    monkeypatch.setitem(RUNTIMES, "toy-engine", engine)
    monkeypatch.setitem(KINDS, "toy", kind)
    monkeypatch.setitem(LOOKS, "toy", look)
    monkeypatch.setitem(OPERATIONS, "toy", lambda path: OPERATIONS["onnx"](unwrapped(path)))
    return row


@pytest.fixture
def source(tmp_path: Path) -> Path:
    weight = np.random.default_rng(0).standard_normal((10, 16)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("Gemm", ["x", "w"], ["y"], "layer", transB=1)],
        "elsewhere",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 10])],
        [numpy_helper.from_array(weight, "w")],
    )
    path = tmp_path / "net.onnx"
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), path)
    return path


@pytest.mark.slow
def test_a_format_is_exported_proven_verified_inspected_and_benched(
    source: Path, call: Callable
) -> None:
    folder = source.parent
    found = call("export", source, "-f", "toy")
    assert found.code == 0, found.err
    assert (folder / "net.toy").read_bytes().startswith(MAGIC)
    (artifact,) = json.loads((folder / "net.manifest.json").read_text())["artifacts"]
    assert (artifact["path"], artifact["format"]) == ("net.toy", "toy")
    assert {p["runtime"] for p in artifact["parity"]} == {"toy-engine"}

    assert call("verify", folder / "net.manifest.json").code == 0
    inspected = json.loads(call("inspect", folder / "net.toy", "--json").out)
    assert (inspected["format"], inspected["layers"][0]["macs"]) == ("toy", 160)
    x = np.random.default_rng(1).random((3, 16), dtype=np.float32)
    with runtimes.open(folder / "net.toy") as mine, runtimes.open(source) as theirs:
        np.testing.assert_allclose(mine.run(x), theirs.run(x), rtol=1e-5)
    out = folder / "bench.json"
    benched = call("bench", folder / "net.toy", "--json", out)
    assert benched.code == 0, benched.err
    (result,) = json.loads(out.read_text())["results"]
    assert (result["artifact"]["format"], result["runtime"]["name"]) == ("toy", "toy-engine")

    (folder / "net.toy").write_bytes(MAGIC + source.read_bytes())
    assert call("verify", folder / "net.manifest.json").code == 6


def test_an_unknown_format_is_told_the_known_ones(source: Path, call: Callable) -> None:
    found = call("export", source, "-f", "tpy")
    assert found.code == 2
    assert "toy" in found.err
