"""``export --quantize`` from the model file to the manifest."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from sepdeploy import api, measure, runtimes
from sepdeploy.errors import ArtifactCheckFailed, BadInput
from sepdeploy.exporters.quantize import scales
from sepdeploy.exports import artifact as artifact_module
from sepdeploy.exports.manifest import read_manifest
from sepdeploy.exports.proof import prove
from sepdeploy.exports.quantize import files as quantising
from sepdeploy.jobs import Clocked, Timed

needs_litert = pytest.mark.skipif(
    "litert" not in runtimes.installed("tflite"), reason="needs LiteRT"
)


def export(trained: Any, folder: Path, quantize: str, **options: Any) -> Any:
    defaults = {"formats": ("onnx",), "data": "digits", "eval_pack": False}
    return api.export(
        trained.model, folder / "net", out_dir=folder, quantize=quantize, **(defaults | options)
    )


@pytest.mark.slow
def test_a_static_export_says_what_it_was_calibrated_with(kron: Any, tmp_path: Path) -> None:
    manifest = export(kron, tmp_path, "static", calibration_samples=32, seed=5)
    (artifact,) = manifest.artifacts
    assert (artifact.path, artifact.quantization) == ("net.onnx", "static")
    assert artifact.input_dtype == "float32"
    assert artifact.calibration == {
        "data": "digits", "split": "train", "n": 32, "seed": 5, "method": "min-max",
    }  # fmt: skip
    assert {p.layer for p in artifact.precisions} == set(kron.structures)
    assert all(p.criterion == "rel_l2" and p.passed for p in artifact.parity)
    read = read_manifest(tmp_path / "net.manifest.json")
    assert read.artifacts == manifest.artifacts
    report = api.verify(tmp_path / "net.manifest.json")
    assert report.exit_code == 0, report
    first = (tmp_path / "net.onnx").read_bytes()
    export(kron, tmp_path, "static", calibration_samples=32, seed=5)
    assert (tmp_path / "net.onnx").read_bytes() == first


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mode", "bias"),
    [
        ("dynamic", False),
        ("static", True),
        pytest.param("dynamic", True, marks=pytest.mark.slow),
        pytest.param("static", False, marks=pytest.mark.slow),
    ],
)
def test_one_layer_may_be_called_twice_or_tied(tmp_path: Path, mode: str, bias: bool) -> None:
    torch = pytest.importorskip("torch")
    from sepdeploy.models import Model
    from sepdeploy.records import InputSpec

    class Tied(torch.nn.Module):  # type: ignore[name-defined,misc]
        def __init__(self) -> None:
            super().__init__()
            self.twice = torch.nn.Linear(8, 8, bias=bias)
            self.down = torch.nn.Linear(64, 4)

        def forward(self, x: Any) -> Any:
            x = torch.relu(self.twice(torch.relu(self.twice(x.squeeze(1)))))
            return torch.relu(self.down(x.flatten(1))) @ self.down.weight

    torch.manual_seed(0)
    model = Model(Tied(), InputSpec((1, 8, 8))).eval()
    (artifact,) = export(SimpleNamespace(model=model), tmp_path, mode).artifacts
    assert {p.precision for p in artifact.precisions} == {"int8"}
    assert all(p.passed for p in artifact.parity)


def test_calibration_never_sees_a_test_image(kron: Any) -> None:
    from sepdeploy.data import load

    found = quantising.calibrate(load("digits"), 10**6, 0)
    assert found.facts["n"] == len(load("digits").train)
    tests = {image.tobytes() for image in load("digits").test.batch(slice(None))}
    trained = {image.tobytes() for image in load("digits").train.batch(slice(None))}
    assert {image.tobytes() for image in found.images} == trained
    assert len(trained & tests) < 5  # the data set's own duplicates, if any


def test_static_without_training_images_says_what_to_do(kron: Any, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="needs training images") as failure:
        export(kron, tmp_path, "static", data=None)
    assert "--quantize dynamic" in failure.value.hint
    assert not (tmp_path / "net.onnx").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"quantize": "dynamic", "flavour": "custom"}, "custom flavour"),
        ({"quantize": "int8"}, "unknown quantisation 'int8'"),
        ({"quantize": "static", "calibration_samples": 0}, "is below 1"),
    ],
)
def test_impossible_wishes_are_refused(
    kron: Any, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(BadInput, match=message):
        export(kron, tmp_path, **options)


@pytest.mark.slow
def test_a_wrong_quantised_file_is_a_failed_check(
    kron: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = scales.quantize_weight

    def shifted(weight: Any, *args: Any, **kwargs: Any) -> Any:
        made = right(weight, *args, **kwargs)
        return scales.Int8Weight(np.roll(made.values, 1, axis=-1), made.scale, made.axis)

    monkeypatch.setattr("sepdeploy.exporters.quantize.onnx_dynamic.quantize_weight", shifted)
    with pytest.raises(
        ArtifactCheckFailed, match="another function than the torch model: relative distance"
    ) as failure:
        export(kron, tmp_path, "dynamic")
    assert failure.value.exit_code == 6
    assert not (tmp_path / "net.onnx").exists()


@pytest.mark.slow
@needs_litert
def test_a_file_for_litert_alone_is_only_used_there(mlp: Any, tmp_path: Path) -> None:
    manifest = export(mlp, tmp_path, "dynamic", formats=("tflite",))
    (artifact,) = manifest.artifacts
    assert {p.runtime for p in artifact.parity} == {"litert"}
    assert any("tflite-runtime 2.14 refuses" in note for note in artifact.notes)
    from sepdeploy.workflows.bench.subjects import choose_runtimes

    assert choose_runtimes(tmp_path / "net.tflite", None) == ("litert",)


class Clock:
    """Stands in for the stopwatch: a file's time is made of what it holds."""

    def __init__(self, int8: float, slow: dict[str, float]) -> None:
        self.int8, self.slow = int8, slow

    def __call__(self, models: dict[str, Path], runtime: str, timing: Any) -> Any:
        times = {name: self.time(Path(path)) for name, path in models.items()}
        return Clocked(tuple(Timed(name, (ms,) * 5, 1) for name, ms in times.items()), 5)

    def time(self, path: Path) -> float:
        import onnx

        names = {t.name for t in onnx.load(str(path)).graph.initializer}
        integer = {n.partition(".")[0] for n in names if n.endswith((".int", ".int8"))}
        return 1.0 + sum(self.slow.get(layer, self.int8) for layer in integer)


@pytest.mark.slow
def test_auto_keeps_the_layers_float_that_int8_makes_slower(
    mlp: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "time_models", Clock(-0.2, {"fc2": 0.5}))
    (artifact,) = export(mlp, tmp_path, "auto").artifacts
    found = {p.layer: p for p in artifact.precisions}
    assert {n: p.precision for n, p in found.items()} == {
        "fc1": "int8", "fc2": "float32", "head": "int8",
    }  # fmt: skip
    assert found["fc2"].reason == "1100.0 µs with it in int8, 600.0 µs in float"
    assert artifact.quantization == "auto"
    assert "dynamic int8 taken" in artifact.notes[0]
    assert api.verify(tmp_path / "net.manifest.json").exit_code == 0


@pytest.mark.slow
def test_auto_gives_ties_to_int8(mlp: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "time_models", Clock(0.01, {}))
    (artifact,) = export(mlp, tmp_path, "auto").artifacts
    assert {p.precision for p in artifact.precisions} == {"int8"}


@pytest.mark.slow
def test_auto_gives_the_float_file_where_int8_never_pays(
    mlp: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "time_models", Clock(0.3, {}))
    (artifact,) = export(mlp, tmp_path, "auto").artifacts
    assert {p.precision for p in artifact.precisions} == {"float32"}
    assert all("µs in float" in p.reason for p in artifact.precisions)
    assert any("every layer stays float" in note for note in artifact.notes)
    assert max(p.max_rel for p in artifact.parity) < 1e-5


@pytest.mark.slow
def test_auto_gives_the_float_file_where_int8_is_not_the_model(
    mlp: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*args: Any, quantization: str = "none", **options: Any) -> Any:
        if quantization == "auto":
            raise ArtifactCheckFailed("another function", hint="")
        return prove(*args, quantization=quantization, **options)

    monkeypatch.setattr(measure, "time_models", Clock(0.01, {}))
    monkeypatch.setattr(artifact_module, "prove", failing)
    (artifact,) = export(mlp, tmp_path, "auto").artifacts
    assert {p.precision for p in artifact.precisions} == {"float32"}
    assert any("stays float: another function" in note for note in artifact.notes)
    assert all(p.passed and p.criterion == "max_rel" for p in artifact.parity)


@pytest.mark.slow
def test_int8_is_proven_on_images_where_some_are_named(mlp: Any, tmp_path: Path) -> None:
    (artifact,) = export(mlp, tmp_path, "dynamic").artifacts
    assert {p.inputs for p in artifact.parity} == {"data"}
    assert artifact.calibration == {}


@pytest.mark.slow
def test_the_command_line_knows_the_flag(kron: Any, tmp_path: Path) -> None:
    from sepdeploy.cli import run
    from sepdeploy.models import save

    save(kron.model, tmp_path / "net.pt")
    words = ["export", str(tmp_path / "net.pt"), "-f", "onnx", "--no-eval", "--quantize", "fp16"]
    assert run([*words, "--json", str(tmp_path / "out.json")]) == 0
    written = json.loads((tmp_path / "out.json").read_text())
    assert written["artifacts"][0]["quantization"] == "fp16"
    assert run([*words[:-1], "int4"]) == 2
