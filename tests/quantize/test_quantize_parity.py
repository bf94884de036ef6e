"""Quantised files in their runtimes: right ones pass, the known wrong ones are caught."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sepdeploy import measure, runtimes
from sepdeploy.errors import ArtifactCheckFailed, BadInput
from sepdeploy.exporters.quantize import Scheme, quantize_tflite, write_tflite_graph
from sepdeploy.exporters.quantize.tflite_layers import Layers
from sepdeploy.exporters.tflite_file import read_tflite
from sepdeploy.exporters.tflite_file.format import serialize, tables, versions
from sepdeploy.exporters.tflite_file.format.graph import BATCH, Graph, Op, Quantization, Tensor
from sepdeploy.exporters.tflite_file.format.traps import refuse_traps
from sepdeploy.exports.proof import prove
from sepdeploy.exports.source import Reference
from sepdeploy.measure.proof.int8_parity import MOST_DISTANCE, distance
from sepdeploy.measure.proof.parity import BATCHES

OLDER = "tflite-runtime-2.14"
needs_older = pytest.mark.skipif(
    "tflite-runtime" not in runtimes.installed("tflite"), reason="needs tflite-runtime"
)
needs_litert = pytest.mark.skipif(
    "litert" not in runtimes.installed("tflite"), reason="needs LiteRT"
)


QUICK = {("kron", "static")}
CASES = [
    pytest.param(net, mode, marks=() if (net, mode) in QUICK else pytest.mark.slow)
    for net in ("kron", "mlp", "lenet")
    for mode in ("dynamic", "static", "fp16")
]


@pytest.mark.slow
@needs_litert
@pytest.mark.parametrize("format", ["onnx", "tflite"])
@pytest.mark.parametrize(("net", "mode"), CASES)
def test_every_runtime_agrees_and_keeps_the_accuracy(
    request: pytest.FixtureRequest, tmp_path: Path, net: str, format: str, mode: str
) -> None:
    trained = request.getfixturevalue(net)
    path = tmp_path / f"net.{format}"
    maker = trained.maker(format, tmp_path, OLDER)
    precisions = maker.write(Scheme(mode, trained.structures), path)
    layers, images = trained.model.layer_records(), trained.images
    reference = Reference(images[:32], trained.logits[:32], "data", BATCHES, "the model")
    proof = prove(path, reference, layers, quantization=mode, precisions=precisions)
    assert not proof.notes
    assert {p.runtime for p in proof.parity} == set(runtimes.installed(format))
    assert len(proof.residency) == sum(s != "dense" for s in trained.structures.values())
    exact = float(np.mean(trained.logits.argmax(1) == trained.labels))
    for runtime in runtimes.installed(format):
        logits, _ = measure.run_logits(path, runtime, images, batches=(len(images),))
        found = float(np.mean(logits[0].argmax(1) == trained.labels))
        assert abs(found - exact) <= 0.02, (runtime, found, exact)
    float_bytes = maker.maker.float_path.stat().st_size
    assert path.stat().st_size < float_bytes


@needs_litert
def test_a_scale_per_channel_needs_a_version_that_the_older_runtime_refuses(
    mlp: object, tmp_path: Path
) -> None:
    maker = mlp.maker("tflite", tmp_path)
    path = tmp_path / "net.tflite"
    maker.write(Scheme("dynamic", mlp.structures), path)
    assert {o.version for o in read_tflite(path).ops if o.kind == "FULLY_CONNECTED"} == {12}
    if "tflite-runtime" in runtimes.installed("tflite"):
        with pytest.raises(BadInput, match="FULLY_CONNECTED"):
            measure.run_logits(path, "tflite-runtime", mlp.images[:3])


def per_channel_in_older(trained: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Graph:
    """The graph that must never be written: dynamic-range, a scale per channel, for 2.14."""
    monkeypatch.setattr(Layers, "_axis", lambda self, op: 0)
    graph = trained.maker("tflite", tmp_path).maker.graph
    return quantize_tflite(graph, Scheme("dynamic", trained.structures), runtime=OLDER)[0]


def test_per_channel_dynamic_range_is_refused_for_the_older_runtime(
    mlp: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = per_channel_in_older(mlp, tmp_path, monkeypatch)
    with pytest.raises(BadInput, match=r"silently wrong: tflite-runtime 2\.14"):
        write_tflite_graph(graph, tmp_path / "wrong.tflite", runtime=OLDER)
    assert not (tmp_path / "wrong.tflite").exists()


@pytest.mark.slow
@needs_older
def test_parity_catches_per_channel_dynamic_range_in_the_older_runtime(
    mlp: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = per_channel_in_older(mlp, tmp_path, monkeypatch)
    monkeypatch.setattr(serialize, "refuse_traps", lambda *_: None)
    monkeypatch.setitem(versions._HYBRID, "FULLY_CONNECTED", (3, 5))  # as others write it
    path = tmp_path / "wrong.tflite"
    write_tflite_graph(graph, path, runtime=OLDER)
    reference = Reference(mlp.images[:32], mlp.logits[:32], "data", BATCHES, "the model")
    with pytest.raises(ArtifactCheckFailed, match="another function") as failure:
        prove(path, reference, mlp.model.layer_records(), quantization="dynamic")
    assert failure.value.exit_code == 6


def batched_product(*, per_channel: bool) -> tuple[Graph, np.ndarray]:
    """x (N, 4, 8) int8 times a constant (8, 6) int8, between QUANTIZE and DEQUANTIZE."""
    weight = np.random.default_rng(0).standard_normal((1, 8, 6)).astype(np.float32)
    axes = (0, 1) if per_channel else None
    scale = np.atleast_1d(np.abs(weight).max(axis=axes) / 127).astype(np.float32)
    stored = np.rint(weight / scale).astype(np.int8)
    int8, f32 = np.dtype(np.int8), np.dtype(np.float32)
    zeros = (0,) * scale.size
    constant = Tensor("w", weight.shape, int8, stored, Quantization(tuple(scale), zeros, 2))
    x = Tensor("input", (BATCH, 4, 8), f32)
    xq = Tensor("xq", x.shape, int8, None, Quantization((1 / 255,), (-128,)))
    yq = Tensor("yq", (BATCH, 4, 6), int8, None, Quantization((0.08,), (0,)))
    y = Tensor("y", yq.shape, f32)
    flat = Tensor("logits", (BATCH, 24), f32)
    dims = Tensor("dims", (2,), np.dtype(np.int32), np.array([-1, 24], np.int32))
    ops = [
        Op("QUANTIZE", [x], [xq]),
        Op("BATCH_MATMUL", [xq, constant], [yq]),
        Op("DEQUANTIZE", [yq], [y]),
        Op("RESHAPE", [y, dims], [flat], {"new_shape": (-1, 24)}),
    ]
    return Graph(ops, {"input": x}, {"logits": flat}), weight[0]


def test_integer_batched_products_with_a_scale_per_channel_are_refused() -> None:
    for target in versions.TFLITE_RUNTIMES:
        refuse_traps(batched_product(per_channel=False)[0], target)
        with pytest.raises(BadInput, match="BATCH_MATMUL 'yq' would be silently wrong"):
            refuse_traps(batched_product(per_channel=True)[0], target)


def test_batched_products_of_float_and_int8_are_refused() -> None:
    graph, _ = batched_product(per_channel=False)
    graph.ops[1].inputs[0] = graph.inputs["input"]
    with pytest.raises(BadInput, match="lose a third"):
        refuse_traps(graph, "litert")


@pytest.mark.skipif(not runtimes.installed("tflite"), reason="needs a TFLite runtime")
@pytest.mark.parametrize("per_channel", [False, True])
def test_parity_tells_right_from_wrong_batched_products(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, per_channel: bool
) -> None:
    graph, weight = batched_product(per_channel=per_channel)
    monkeypatch.setattr(serialize, "refuse_traps", lambda *_: None)
    monkeypatch.setitem(versions._MAX_2_14, "BATCH_MATMUL", 4)
    monkeypatch.setattr(tables, "op_version", _honest)
    path = tmp_path / "bmm.tflite"
    write_tflite_graph(graph, path)
    images = np.random.default_rng(1).random((8, 4, 8), dtype=np.float32)
    expected = (images @ weight).reshape(8, -1)
    certificates = measure.check_parity(path, images, expected, quantization="static")
    assert {c.passed for c in certificates} == {not per_channel}
    assert all(c.criterion == "rel_l2" and c.tolerance == MOST_DISTANCE for c in certificates)


def _honest(op: Op, _: str) -> int:
    return {"QUANTIZE": 1, "RESHAPE": 1}.get(op.kind, 2)


def test_the_bounds_stand_between_right_and_wrong() -> None:
    rng = np.random.default_rng(0)
    reference = rng.standard_normal((32, 10)).astype(np.float32)
    noise = rng.standard_normal(reference.shape).astype(np.float32)
    for share, passed in ((0.03, True), (0.16, True), (0.32, False), (1.0, False)):
        size = share * np.linalg.norm(reference) / np.linalg.norm(noise)
        assert distance(reference + size * noise, reference).passed is passed, share
    assert not distance(np.zeros_like(reference), reference).passed
    assert not distance(np.full_like(reference, np.nan), reference).passed
    assert not distance(reference[::-1].copy(), reference).passed
    assert distance(reference, reference).agreement == 1.0


def test_an_offset_that_hides_the_error_does_not_pass() -> None:
    rng = np.random.default_rng(0)
    reference = rng.standard_normal((32, 10)).astype(np.float32) + 100
    constant = np.full_like(reference, 100.0)  # 1 % off by relative distance
    assert distance(constant, reference).rel_l2 < MOST_DISTANCE
    assert not distance(constant, reference).passed
