"""What is benched and on which images: files, manifests, packs, models, attacks."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sepdeploy import api
from sepdeploy.errors import ArtifactCheckFailed, BadInput, Missing
from sepdeploy.exports.export import Export
from sepdeploy.exports.judged_images import choose_attacks
from sepdeploy.exports.manifest import read_manifest
from sepdeploy.exports.options import JudgingOptions
from sepdeploy.workflows.bench import judging
from sepdeploy.workflows.bench.judging import JudgingSet, judging_sets
from sepdeploy.workflows.bench.options import BenchOptions
from sepdeploy.workflows.bench.subjects import find_subjects
from sepdeploy.workflows.options import ProofOptions
from sepdeploy.workflows.verifying import verify_exports

NAMES = ["tiny.onnx", "tiny.tflite"]
MANIFEST = "tiny.manifest.json"


def change(folder: Path, **values: Any) -> Path:
    path = folder / MANIFEST
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
    return path


def test_files_are_found_once_with_their_manifest(copy: Path) -> None:
    found = find_subjects([copy / MANIFEST, copy / "tiny.onnx", copy / "." / "tiny.tflite"])
    assert [s.path.name for s in found] == NAMES
    for subject in found:
        assert subject.export is not None
        assert subject.export.path == copy / MANIFEST
        assert subject.record is not None
        assert subject.ref.sha256 == subject.record.sha256
        assert subject.ref.flavour == "standard"


def test_without_names_every_manifest_of_the_folder_counts(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(copy)
    assert [s.path.name for s in find_subjects([])] == NAMES


def test_a_lone_file_is_known_by_what_it_carries(copy: Path, tmp_path: Path) -> None:
    (tmp_path / "lone").mkdir()
    path = Path(shutil.copy(copy / "tiny.onnx", tmp_path / "lone"))
    (subject,) = find_subjects([path])
    assert subject.export is None
    assert subject.ref.flavour == "unknown"
    assert [layer.structure for layer in subject.entry.layers] == ["kron", "kron", "dense"]


def test_a_broken_manifest_matters_only_to_its_own_files(copy: Path) -> None:
    (copy / "a.manifest.json").write_text("{")
    renamed = (copy / MANIFEST).rename(copy / "z.manifest.json")
    (subject,) = find_subjects([copy / "tiny.onnx"])
    assert subject.export.path == renamed
    (copy / MANIFEST).write_text("{")
    with pytest.raises(BadInput, match="not valid JSON"):
        find_subjects([copy / "tiny.onnx"])


@pytest.mark.parametrize("name", ["tiny.pt", "tiny.eval.npz", "none"])
def test_what_is_no_artifact_is_refused(copy: Path, name: str) -> None:
    with pytest.raises(BadInput, match=r"neither \.onnx"):
        find_subjects([copy / name])


def test_a_file_that_is_not_the_exported_one_fails(copy: Path) -> None:
    shutil.copy(copy / "tiny.onnx", copy / "tiny.tflite")
    with pytest.raises(ArtifactCheckFailed, match="digest differs"):
        find_subjects([copy / MANIFEST])


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"artifacts": []}, "names no exported file"),
        ({"schema": "sepdeploy.manifest/9"}, "newer than"),
        ({"input": {"shape": [1 << 20, 1 << 20]}}, "more than"),
        ({"stm": "x"}, "unknown key"),
    ],
)
def test_manifests_with_nonsense(copy: Path, changed: dict[str, Any], says: str) -> None:
    path = change(copy, **changed)
    with pytest.raises(BadInput) as failure:
        read_manifest(path)
    assert says in failure.value.message + failure.value.hint


@pytest.mark.parametrize(
    ("key", "value"),
    [("path", "../tiny.onnx"), ("path", "/etc/passwd"), ("path", ".."), ("path", ""),
     ("format", "exe"), ("format", "tflite"), ("quantization", "int3")],
)  # fmt: skip
def test_a_manifest_names_only_what_is_known_and_beside_it(
    copy: Path, key: str, value: str
) -> None:
    rows = json.loads((copy / MANIFEST).read_text())["artifacts"]
    path = change(copy, artifacts=[rows[0] | {key: value}])
    with pytest.raises(BadInput):
        read_manifest(path)


@pytest.mark.slow
def test_verify_compares_the_input_too_and_wants_a_manifest(copy: Path) -> None:
    told: list[str] = []
    spec = json.loads((copy / MANIFEST).read_text())["input"]
    change(copy, input=spec | {"class_names": ["other"]})
    report = verify_exports(copy, ProofOptions(), told.append)
    assert report.exit_code == 6
    assert {(i.check, i.result) for i in report.items if i.check == "entry"} == {
        ("entry", "failed")
    }
    with pytest.raises(BadInput, match="no manifest") as failure:
        verify_exports(copy / "tiny.onnx", ProofOptions(), told.append)
    assert MANIFEST in failure.value.hint


# -- on which images ---------------------------------------------------------------------------


def judged(folder: Path | None, told: list[str] | None = None, **options: Any) -> Any:
    export = None if folder is None else Export(folder / MANIFEST)
    said = [] if told is None else told
    found = judging_sets(export, (1, 8, 8), BenchOptions(**options), said.append)
    if found.missing is not None:
        raise found.missing
    return found.sets


def test_the_pack_is_taken_when_it_holds_enough_and_the_very_attack(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judging, "attack_images", None)  # nothing is attacked again
    (found,) = judged(copy, samples=30, attack="pgd-3")
    assert (found.source, found.data, len(found.labels)) == ("pack", "digits", 30)
    assert found.attack.name == "pgd-3"
    assert np.abs(found.adversarial - found.images).max() > 0


def test_more_images_than_the_pack_holds_come_from_the_data_set(copy: Path) -> None:
    (found,) = judged(copy, samples=60, attack="fgsm")
    assert (found.source, len(found.labels)) == ("data", 60)
    assert found.adversarial.shape == found.images.shape


def test_without_the_model_the_pack_still_gives_its_own_attack(copy: Path) -> None:
    (copy / "tiny.pt").unlink()
    told: list[str] = []
    (found,) = judged(copy, told, samples=60, attack="pgd-3")
    assert (found.source, len(found.labels)) == ("pack", 40)
    assert any("judging on the pack's 40 images" in line for line in told)
    with pytest.raises(Missing, match=r"tiny\.pt is missing"):
        judged(copy, samples=60, attack="pgd-4")


def test_a_model_that_is_not_the_exported_one_is_not_attacked(copy: Path) -> None:
    (copy / "tiny.pt").write_bytes(b"another")
    with pytest.raises(Missing, match="digest differs"):
        judged(copy, attack="pgd-4", samples=10)


def test_without_torch_only_the_pack_is_left(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sepdeploy.exports.export.has_torch", lambda: False)
    assert judged(copy, attack="pgd-3", samples=10)[0].source == "pack"
    with pytest.raises(Missing, match="torch is not installed"):
        judged(copy, attack="pgd-4", samples=10)


@pytest.mark.slow
@pytest.mark.parametrize(
    "use",
    [
        lambda folder: judged(folder, samples=10),
        lambda folder: api.verify_layers(folder),
        lambda folder: api.compare_artifacts(folder / MANIFEST, folder / "tiny.onnx"),
    ],
    ids=["bench", "verify --layers", "verify --against"],
)
def test_a_pack_that_was_changed_is_not_believed(copy: Path, use: Callable[[Path], Any]) -> None:
    (copy / "tiny.eval.npz").write_bytes(b"PK")
    with pytest.raises(ArtifactCheckFailed, match="not the evaluation pack"):
        use(copy)
    assert api.verify(copy).exit_code == 6


def test_several_attacks_are_several_sets_on_the_same_images(copy: Path) -> None:
    found: tuple[JudgingSet, ...] = judged(copy, samples=10, attack="pgd-3, fgsm")
    assert [s.attack.name for s in found] == ["pgd-3", "fgsm"]
    np.testing.assert_array_equal(found[0].images, found[1].images)


def test_radius_zero_is_the_image_itself(copy: Path) -> None:
    (found,) = judged(copy, samples=10, attack="pgd-3", eps="0")
    assert found.adversarial is found.images


def test_no_images_is_said_and_no_attack_known_too(copy: Path) -> None:
    told: list[str] = []
    assert judged(None, told) == ()
    assert "pass --data" in told[-1]
    change(copy, provenance={"data": "digits", "objective": "natural"})
    (clean,) = judged(copy, told, samples=10)
    assert clean.adversarial is None
    assert "clean accuracy only" in told[-1]


def test_a_lone_file_is_judged_on_data_that_was_named() -> None:
    (clean,) = judged(None, data="digits", samples=10)
    assert (clean.source, len(clean.labels), clean.adversarial) == ("data", 10, None)
    with pytest.raises(Missing, match="no manifest"):
        judged(None, data="digits", samples=10, attack="fgsm", eps="0.1")


@pytest.mark.parametrize(
    ("known", "asked", "says"),
    [
        ({}, {"attack": "fgsm"}, "no attack radius"),
        ({"eps": 0.1, "norm": "linf"}, {"norm": "l2"}, "one of linf, not of l2"),
        ({"eps": {"a": 1}}, {"attack": "fgsm"}, "not a number"),
        ({"eps": 0.1}, {"norm": "l7"}, "unknown norm"),
        ({"eps": 0.1}, {"attack": "pdg-3"}, "closest: pgd"),
    ],
)
def test_attacks_that_cannot_be_known(
    known: dict[str, Any], asked: dict[str, Any], says: str
) -> None:
    with pytest.raises(BadInput, match=says):
        choose_attacks(known, JudgingOptions(**asked))


def test_what_is_not_said_is_as_the_model_was_trained() -> None:
    known = {"objective": "trades", "eps": "8/255", "norm": "l2"}
    (found,) = choose_attacks(known, JudgingOptions(seed=3))
    assert (found.name, found.norm, found.seed) == ("pgd-40", "l2", 3)
    assert found.eps == pytest.approx(8 / 255)
    (found,) = choose_attacks(known, JudgingOptions(attack="fgsm", eps="0.1", norm="linf"))
    assert (found.name, found.norm, found.eps) == ("fgsm", "linf", 0.1)
    assert choose_attacks({"objective": "natural"}, JudgingOptions()) == ()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"dense": Path("none.onnx")}, "does not exist"),
        ({"dense": Path("b.json")}, "neither an .onnx"),
        ({"against": Path("old.pt")}, "--against old.pt"),
        ({"threads": 999999}, "outside 1"),
        ({"threads": 0}, "outside 1"),
    ],
)
def test_options_that_cannot_be_are_refused_before_the_work(
    options: dict[str, Any], says: str
) -> None:
    with pytest.raises(BadInput, match=says):
        BenchOptions(**options)


def test_a_kind_that_does_not_exist_is_answered_with_the_closest(copy: Path, call) -> None:
    got = call("bench", copy / "tiny.onnx", "--require", "meassured")
    assert got.code == 2
    assert "closest: measured" in got.line


@pytest.mark.parametrize(
    "changed", ["tiny.onnx", "tiny.manifest.json", "tiny.eval.npz", "tiny.pt", "old.onnx"]
)
def test_no_numbers_of_a_file_that_was_replaced_while_it_was_measured(
    copy: Path, changed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(copy / "tiny.onnx", copy / "old.onnx")

    def measured_late(*_: Any, **__: Any) -> None:
        path = copy / changed
        new = copy / "new"
        new.write_bytes(path.read_bytes() + b"x")
        new.replace(path)

    monkeypatch.setattr("sepdeploy.workflows.bench.benching.host_result", measured_late)
    shown: list[Any] = []
    with pytest.raises(ArtifactCheckFailed, match=f"{changed} was changed while it was in use"):
        api.bench([copy / "tiny.onnx"], against=copy / "old.onnx", on_report=shown.append)
    assert shown == []


@pytest.mark.parametrize("how", ["renamed", "written"])
def test_no_numbers_of_a_file_that_was_another_one_for_a_while(
    copy: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, kept = copy / "tiny.onnx", (copy / "tiny.onnx").read_bytes()
    at = path.stat()

    def measured_meanwhile(*_: Any, **__: Any) -> None:
        if how == "written":
            path.write_bytes(kept + b"x")
            path.write_bytes(kept)
            os.utime(path, ns=(at.st_atime_ns, at.st_mtime_ns))
        else:
            path.rename(copy / "aside")
            path.write_bytes(b"x")
            (copy / "aside").replace(path)

    monkeypatch.setattr("sepdeploy.workflows.bench.benching.host_result", measured_meanwhile)
    with pytest.raises(ArtifactCheckFailed, match=r"tiny\.onnx was changed while it was in use"):
        api.bench([path])


@pytest.mark.slow
@pytest.mark.parametrize(
    "work",
    [
        lambda f: api.export(f / "tiny.pt", formats=("onnx",), eval_pack=False),
        lambda f: api.attack(f / "tiny.pt", f / "a.npz", attack="pgd-1", samples=4),
    ],
    ids=["export", "attack"],
)
def test_nothing_is_made_of_a_model_that_was_replaced_meanwhile(
    copy: Path, work: Callable[[Path], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from sepdeploy import models

    plain = models.load

    def load(path: Path, **facts: Any) -> Any:
        model = plain(path, **facts)
        models.save(model, path)
        (copy / "tiny.pt").write_bytes((copy / "tiny.pt").read_bytes() + b"x")
        return model

    # The name that another was imported from comes last: else that one would keep the stand-in.
    for place in ("sepdeploy.workflows.attacking.load", "sepdeploy.models.load"):
        monkeypatch.setattr(place, load)
    before = {p.name: p.read_bytes() for p in copy.iterdir() if p.suffix != ".pt"}
    with pytest.raises(ArtifactCheckFailed, match="changed while it was in use"):
        work(copy)
    assert {p.name: p.read_bytes() for p in copy.iterdir() if p.suffix != ".pt"} == before
