"""Exports are all there or not at all; a file that is wrong never appears."""

from __future__ import annotations

import importlib
import os
import signal
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import sepdeploy as sd
from sepdeploy import measure, runtimes
from sepdeploy.errors import ArtifactCheckFailed, BadInput
from sepdeploy.exports.manifest import read_manifest
from sepdeploy.exports.staging import move_all, staging


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def wrong_parity(monkeypatch: pytest.MonkeyPatch) -> None:
    true = measure.check_parity

    def check(*args, **kwargs):
        return tuple(replace(p, max_rel=0.5, passed=False) for p in true(*args, **kwargs))

    monkeypatch.setattr(measure, "check_parity", check)


def multiplied_back(monkeypatch: pytest.MonkeyPatch) -> None:
    true = measure.check_residency

    def check(*args, **kwargs):
        return tuple(
            replace(r, resident_bytes=4 * 64 * 64, passed=False) for r in true(*args, **kwargs)
        )

    monkeypatch.setattr(measure, "check_residency", check)


def refused_by_the_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    def check(*_: object, **__: object) -> None:
        raise BadInput("cannot be loaded", hint="h")

    monkeypatch.setattr(measure, "check_parity", check)


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        (wrong_parity, r"5\.00e-01 away from the torch model, more than 1e-05$"),
        pytest.param(
            multiplied_back, "multiplied the factors back together", marks=pytest.mark.slow
        ),
        pytest.param(refused_by_the_runtime, "cannot be loaded", marks=pytest.mark.slow),
    ],
)
def test_a_failed_proof_is_exit_6_and_changes_nothing(
    copy: Path, fault: Callable[[pytest.MonkeyPatch], None], says: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    before = content(copy)
    fault(monkeypatch)
    with pytest.raises(ArtifactCheckFailed, match=says) as failure:
        sd.export(copy / "tiny.pt", formats=("onnx",), eval_pack=False)
    assert failure.value.exit_code == 6
    assert content(copy) == before
    with pytest.raises(ArtifactCheckFailed):
        sd.export(copy / "tiny.pt", out_dir=copy / "new", formats=("onnx",), eval_pack=False)
    assert not (copy / "new").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("form", "writer"),
    [
        ("onnx", "sepdeploy.exporters.onnx_file.write.write_onnx"),
        pytest.param(
            "tflite",
            "sepdeploy.exporters.tflite_file.write.write_tflite",
            marks=pytest.mark.skipif(not runtimes.installed("tflite"), reason="no TFLite runtime"),
        ),
    ],
)
@pytest.mark.parametrize(
    "layer", ["fc1", *(pytest.param(n, marks=pytest.mark.slow) for n in ("fc2", "head"))]
)
def test_a_wrong_file_is_refused_by_the_name_of_its_layer(
    copy: Path, form: str, writer: str, layer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A writer that gets one layer's factors wrong; the layers behind deviate as well."""
    module, _, name = writer.rpartition(".")
    true = getattr(importlib.import_module(module), name)

    def write(canonical: onnx.ModelProto, *args: object, **kwargs: object) -> object:
        wrong = onnx.ModelProto()
        wrong.CopyFrom(canonical)
        (factor, *_) = (t for t in wrong.graph.initializer if t.name.startswith(f"{layer}."))
        array = numpy_helper.to_array(factor) * np.float32(1.01)
        factor.CopyFrom(numpy_helper.from_array(array, factor.name))
        return true(wrong, *args, **kwargs)

    monkeypatch.setattr(writer, write)
    before = content(copy)
    with pytest.raises(ArtifactCheckFailed, match=rf"tiny\.{form} in .*first in layer '{layer}'$"):
        sd.export(copy / "tiny.pt", formats=(form,), eval_pack=False)
    assert content(copy) == before


@pytest.mark.slow
def test_an_earlier_file_of_the_same_model_stays_in_the_manifest(copy: Path) -> None:
    manifest = sd.export(copy / "tiny.pt", formats=("onnx",), eval_pack=False)
    assert [a.path for a in manifest.artifacts] == ["tiny.tflite", "tiny.onnx"]
    assert read_manifest(copy / "tiny.manifest.json") == manifest
    (copy / "tiny.tflite").unlink()
    manifest = sd.export(copy / "tiny.pt", formats=("onnx",), eval_pack=False)
    assert [a.path for a in manifest.artifacts] == ["tiny.onnx"]


@pytest.mark.slow
def test_another_model_under_the_name_drops_what_was_there(copy: Path) -> None:
    model = sd.load(copy / "tiny.pt")
    model.provenance["note"] = "another file, so another digest"
    sd.save(model, copy / "tiny.pt")
    manifest = sd.export(copy / "tiny.pt", formats=("onnx",), eval_pack=False)
    assert [a.path for a in manifest.artifacts] == ["tiny.onnx"]


@pytest.mark.slow
def test_a_place_taken_by_a_folder_is_said_before_anything_moves(copy: Path) -> None:
    (copy / "tiny.tflite").unlink()
    (copy / "tiny.tflite").mkdir()
    before = content(copy)
    with pytest.raises(BadInput, match="is a folder"):
        sd.export(copy / "tiny.pt", eval_pack=False)
    assert content(copy) == before


@pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt])
def test_staging_is_gone_whatever_happens(tmp_path: Path, failure: type[BaseException]) -> None:
    def work() -> None:
        with staging(tmp_path / "out", "net") as folder:
            assert folder.parent == tmp_path / "out"
            assert folder.name.startswith(".net.export-")
            (folder / "half").write_bytes(b"x")
            raise failure

    with pytest.raises(failure):
        work()
    assert not list((tmp_path / "out").iterdir())


def test_a_folder_that_cannot_be_made_is_bad_input(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(BadInput, match="cannot write into"),
        staging(tmp_path / "file", "net"),
    ):
        pass


def test_the_file_that_vouches_moves_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moved: list[str] = []
    true = Path.replace
    monkeypatch.setattr(Path, "replace", lambda a, b: (moved.append(a.name), true(a, b))[1])
    with staging(tmp_path, "net") as folder:
        for name in ("a.manifest.json", "b.onnx", "c.tflite"):
            (folder / name).write_text(name)
        move_all(folder, tmp_path, last="a.manifest.json")
    assert moved == ["b.onnx", "c.tflite", "a.manifest.json"]
    assert sorted(content(tmp_path)) == sorted(moved)


def test_ctrl_c_waits_until_all_files_are_in_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    true = Path.replace

    def press(a: Path, b: Path) -> Path:
        os.kill(os.getpid(), signal.SIGINT)
        return true(a, b)

    monkeypatch.setattr(Path, "replace", press)
    (tmp_path / "in").mkdir()
    for name in ("a", "b"):
        (tmp_path / "in" / name).write_text(name)
    with pytest.raises(KeyboardInterrupt):
        move_all(tmp_path / "in", tmp_path, last="b")
    assert sorted(content(tmp_path)) == ["a", "b"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_moving_works_in_another_thread_and_says_what_the_system_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a").write_text("a")
    thread = threading.Thread(
        target=move_all, args=(tmp_path / "in", tmp_path), kwargs={"last": ""}
    )
    thread.start()
    thread.join()
    assert (tmp_path / "a").read_text() == "a"

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    (tmp_path / "in" / "a").write_text("a")
    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(BadInput, match="No space left"):
        move_all(tmp_path / "in", tmp_path, last="a")


def test_a_model_in_memory_needs_a_stem_and_a_file_has_one(copy: Path) -> None:
    with pytest.raises(BadInput, match="needs a stem"):
        sd.export(sd.load(copy / "tiny.pt"))
    with pytest.raises(BadInput, match="has its own name"):
        sd.export(copy / "tiny.pt", "other")
    with pytest.raises(BadInput, match="no format"):
        sd.export(copy / "tiny.pt", formats=())
