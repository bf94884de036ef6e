"""Files of others are looked into and timed as they are; what they leave open is no error."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import others_files
import pytest
from onnx import numpy_helper

from sepdeploy import measure, runtimes
from sepdeploy.errors import BadInput
from sepdeploy.exporters.facts import describe
from sepdeploy.records import Parity
from sepdeploy.runtimes.runner.main import execute

# Parameters and MACs at batch 1, counted by hand.
COUNTED = {
    "two_in_two_out": (24, 24),
    "open_sizes": (135, None),
    "tokens": (40 + 12, None),
    "bytes_in": (108, 36 * 108),
    "quantised": (108, 2 * 36 * 108),
    "recurrent": (20 * 3 + 20 * 5 + 40, 7 * (20 * 3 + 20 * 5)),
    "weights_as_inputs": (51, 48),
    "single_number": (0, 0),
}


@pytest.fixture(params=COUNTED)
def other(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return getattr(others_files, request.param)(tmp_path / f"{request.param}.onnx")


def test_a_file_of_others_is_inspected(other: Path, call: Callable) -> None:
    found = call("inspect", other, "--json")
    assert found.code == 0, found.err
    said = json.loads(found.out)
    assert (said["total"]["params"], said["total"]["macs"]) == COUNTED[other.stem]
    assert call("inspect", other).code == 0


def test_a_file_of_others_is_timed_and_weighed(other: Path) -> None:
    batch = describe(other).batch or 1
    quick = {"min_rounds": 2, "min_seconds": 0, "max_seconds": 0, "block_us": 1, "batch": batch}
    job = {"mode": "latency", "runtime": "onnxruntime", **quick}
    said = execute({**job, "models": [{"name": "artifact", "path": str(other)}]})
    assert said["ok"], said
    weighed = execute({"mode": "memory", "runtime": "onnxruntime", "model": str(other)})
    assert weighed["ok"], weighed


def test_open_sizes_are_said_and_can_be_fixed(tmp_path: Path, call: Callable) -> None:
    path = others_files.open_sizes(tmp_path / "net.onnx")
    assert "batch×3×h×w" in call("inspect", path).out
    assert "not known" in call("inspect", path).out
    fixed = call("inspect", path, "--input-shape", "images=1,3,16,20", "--json")
    assert json.loads(fixed.out)["total"]["macs"] == 16 * 20 * 135
    for wrong in ("images=1,4,16,20", "images=1,3,16", "pictures=1,3,2,2", "images=1,3,0,2", "x"):
        refused = call("inspect", path, "--input-shape", wrong)
        assert (refused.code, refused.err.count("Traceback")) == (2, 0)


@pytest.mark.slow
def test_a_bench_of_others_files_goes_to_a_verdict(
    tmp_path: Path, call: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = others_files.quantised(tmp_path / "b.onnx")
    found = call("bench", path, "--json", "b.json")
    assert found.code == 0, found.err
    (result,) = json.loads(Path("b.json").read_text())["results"]
    numbers = {m["metric"]: m for m in result["measurements"]}
    assert (numbers["params"]["value"], numbers["latency_ms"]["batch"]) == (108, 2)
    assert call("baseline", "update", "b.json").code == 0
    assert call("check", "b.json").code == 0


@pytest.mark.slow
def test_accuracy_and_square_of_an_open_file(tmp_path: Path, call: Callable) -> None:
    path = others_files.open_sizes(tmp_path / "net.onnx")
    rng = np.random.default_rng(0)
    images = rng.random((24, 3, 6, 5), dtype=np.float32)
    labels = rng.integers(0, 5, 24)
    np.savez(
        tmp_path / "d.npz", x_train=images, y_train=labels, x_test=images,
        y_test=labels,
    )  # fmt: skip
    shape = ("--input-shape", "images=1,3,6,5")
    words = ("bench", path, "--data", tmp_path / "d.npz", *shape, "--attack", "square@20")
    found = call(*words, "--eps", "0.05", "--json", tmp_path / "out.json")
    assert found.code == 0, found.err
    (result,) = json.loads((tmp_path / "out.json").read_text())["results"]
    numbers = {m["metric"]: m["value"] for m in result["measurements"]}
    assert 0 <= numbers["adversarial_accuracy"] <= numbers["clean_accuracy"] <= 1
    refused = call("bench", others_files.tokens(tmp_path / "t.onnx"), "--data", "digits")
    assert refused.code == 2


def test_types_and_scales_of_a_quantised_file(tmp_path: Path) -> None:
    found = describe(others_files.quantised(tmp_path / "net.onnx"))
    (layer,) = found.layers
    assert (layer.dtype, layer.operator, found.param_bytes) == ("int8", "Conv", 108)
    assert layer.affine is not None
    assert (layer.affine.slices, layer.affine.scale) == (4, pytest.approx(0.01))
    assert (found.sample, found.batch) == ((3, 8, 8), 2)


def test_a_session_takes_and_gives_by_name(tmp_path: Path) -> None:
    path = others_files.two_in_two_out(tmp_path / "net.onnx")
    (weight,) = (numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer)
    a, b = np.ones((3, 6), np.float32), np.full((3, 4), 2, np.float32)
    with runtimes.open(path) as session:
        assert [p.name for p in (*session.inputs, *session.outputs)] == ["a", "b", "y", "s"]
        found = session.run({"a": a, "b": b})
        np.testing.assert_allclose(found["y"], a @ weight + b, rtol=1e-5)
        np.testing.assert_allclose(found["s"], (a @ weight + b).sum(), rtol=1e-4)
        with pytest.raises(BadInput, match="expected inputs a, b, found a"):
            session.run({"a": a})
        with pytest.raises(BadInput, match="one input"):
            session.run(a)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["two_in_two_out", "tokens", "recurrent", "quantised"])
def test_two_files_are_compared_at_every_output(name: str, tmp_path: Path, call: Callable) -> None:
    path = getattr(others_files, name)(tmp_path / "one.onnx")
    model = onnx.load(path)
    other = tmp_path / "two.onnx"
    onnx.save(model, other)
    found = call("verify", path, "--against", other, "--json")
    assert found.code == 0, found.err
    rows = json.loads(found.out)["comparisons"][0]["rows"]
    assert {o.name for o in model.graph.output} <= {row["layer"] for row in rows} | {"y"}
    main = max(model.graph.initializer, key=lambda t: len(t.raw_data))
    main.raw_data = main.raw_data[::-1] if name == "quantised" else bytes(len(main.raw_data))
    onnx.save(model, other)
    assert call("verify", path, "--against", other).code == 6


@pytest.mark.skipif(not runtimes.installed("tflite"), reason="no TFLite runtime")
def test_every_output_is_exported_and_proven(tmp_path: Path, call: Callable) -> None:
    path = others_files.three_heads(tmp_path / "net.onnx")
    found = call("export", path, "-f", "tflite")
    assert found.code == 0, found.err
    (artifact,) = json.loads((tmp_path / "net.manifest.json").read_text())["artifacts"]
    assert {p.get("output", "") for p in artifact["parity"]} == {"", "label", "map"}
    x = np.random.default_rng(0).random((3, 3, 8, 8), dtype=np.float32)
    with runtimes.open(tmp_path / "net.tflite") as mine, runtimes.open(path) as theirs:
        wanted = theirs.run({"x": x})
        for name, value in mine.run({"x": x}).items():
            np.testing.assert_allclose(value, wanted.pop(name), rtol=1e-4, atol=1e-5)
        assert not wanted
        np.testing.assert_allclose(mine.run(x), theirs.run(x), rtol=1e-4, atol=1e-6)  # probs
    refused = call("export", path, "-f", "tflite", "--output", "maps")
    assert (refused.code, "closest: map" in refused.err) == (2, True)


@pytest.mark.slow
@pytest.mark.skipif(not runtimes.installed("tflite"), reason="no TFLite runtime")
def test_outputs_are_chosen_and_a_wrong_one_is_found(tmp_path: Path, call: Callable) -> None:
    path = others_files.three_heads(tmp_path / "net.onnx")
    found = call("export", path, "-f", "tflite", "--output", "map")
    assert found.code == 0, found.err
    assert [o.name for o in describe(tmp_path / "net.tflite").file.outputs] == ["map"]
    assert call("verify", tmp_path / "net.manifest.json").code == 0
    image = np.ones((2, 3, 8, 8), np.float32)
    wrong = {"map": np.ones((2, 6, 8, 8), np.float32)}
    bare = Parity(runtimes.installed("tflite")[0], "", 2, 0.0, 0.0, 0.0, "data")
    (certificate,) = measure.check_outputs(tmp_path / "net.tflite", image, wrong, bare)
    assert (certificate.passed, certificate.output) == (False, "map")


@pytest.mark.slow
def test_a_device_gives_what_it_can_of_a_file_that_takes_several_inputs(
    tmp_path: Path, call: Callable
) -> None:
    path, out = others_files.two_in_two_out(tmp_path / "net.onnx"), tmp_path / "out.json"
    found = call("bench", path, "--device", "rpi4", "--json", out)
    assert found.code == 0, found.err
    (result,) = json.loads(out.read_text())["results"]
    kinds = {m["kind"] for m in result["measurements"] if m["metric"] == "latency_ms"}
    assert kinds == {"HOST", "ESTIMATED"}
