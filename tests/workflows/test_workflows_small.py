"""Training, attacking and verifying as a user calls them, and what they say when they cannot."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import sepdeploy as sd
from sepdeploy import api, runtimes
from sepdeploy.data.evalpack import read_pack
from sepdeploy.errors import BadInput, Missing
from sepdeploy.exports import judged_images as evaluation
from sepdeploy.exports import requirements
from sepdeploy.exports.judged_images import find_data, reference_inputs
from sepdeploy.exports.options import JudgingOptions
from sepdeploy.workflows.options import ProofOptions
from sepdeploy.workflows.verifying import verify_exports


@pytest.mark.slow
def test_a_training_ends_with_the_next_command(tmp_path: Path, call) -> None:
    got = call("train", "--hidden", "16,16", "--epochs", "1", "--structure", "kron",
               "-o", tmp_path / "net.pt", "--json", tmp_path / "t.json")  # fmt: skip
    assert got.code == 0, got.err
    assert f"next: sepdeploy export {tmp_path / 'net.pt'}" in got.err
    assert {p.name for p in tmp_path.iterdir()} == {"net.pt", "net.history.jsonl", "t.json"}
    summary = json.loads((tmp_path / "t.json").read_text())
    assert summary["schema"] == "sepdeploy.train/1"
    assert summary["params"] == sd.load(tmp_path / "net.pt").params
    assert summary["best_epoch"] == summary["epochs"] == 1
    quiet = api.train(out=tmp_path / "b.pt", hidden="16,16", epochs=1, structure="kron")
    assert (tmp_path / "b.pt").read_bytes() == (tmp_path / "net.pt").read_bytes()
    assert quiet.params == summary["params"]


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("--attack", "pgd-3,fgsm"), 2, "exactly one attack"),
        (("--data", "npz", "--data-dir", "/nowhere"), 2, "/nowhere"),
        (("--norm", "l2"), 2, "not of l2"),
        (("-o", "/proc/nowhere/adv.npz"), 2, "cannot write"),
    ],
)
def test_attacks_that_cannot_be_made(
    exported: Path, tmp_path: Path, call, words: tuple[str, ...], code: int, says: str
) -> None:
    got = call("attack", exported / "tiny.pt", "-o", tmp_path / "adv.npz", *words)
    assert got.code == code
    assert says in got.line
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_model_of_unknown_data_wants_data_named(copy: Path, tmp_path: Path, call) -> None:
    model = sd.load(copy / "tiny.pt")
    model.provenance.clear()
    sd.save(model, tmp_path / "net.pt")
    got = call("attack", tmp_path / "net.pt", "-o", tmp_path / "adv.npz", "--eps", "0.1")
    assert (got.code, got.line) == (4, "error: no data set to attack on")
    told: list[str] = []
    sd.export(tmp_path / "net.pt", formats=("onnx",), notify=told.append)
    assert "no data at hand" in told[0]
    manifest = json.loads((tmp_path / "net.manifest.json").read_text())
    assert manifest["eval_pack"] is None
    assert {p["inputs"] for p in manifest["artifacts"][0]["parity"]} == {"synthetic"}


def test_data_of_the_training_may_be_absent_but_what_was_named_may_not() -> None:
    told: list[str] = []
    known = {"data": "npz", "data_dir": "/nowhere"}
    nothing, shape = JudgingOptions(), (1, 8, 8)
    assert find_data(known, nothing, shape, told.append) is None
    assert "not at hand" in told[0]
    assert find_data({}, nothing, shape, told.append) is None
    with pytest.raises(BadInput):
        find_data({}, JudgingOptions(data="npz"), shape, told.append)
    with pytest.raises(BadInput, match=r"\(1, 8, 8\), the model takes \(3, 8, 8\)"):
        find_data({}, JudgingOptions(data="digits"), (3, 8, 8), told.append)


@pytest.mark.slow
def test_a_pack_that_would_be_too_large_is_reduced_and_that_is_said(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluation, "fits", lambda *_, **__: 7)
    monkeypatch.setattr(evaluation, "BATCH", 3)  # batches must not change what comes out
    told: list[str] = []
    before = read_pack(copy / "tiny.eval.npz")
    sd.export(copy / "tiny.pt", formats=("onnx",), attack="pgd-3", samples=40, notify=told.append)
    assert "7 images instead of 40" in told[0]
    after = read_pack(copy / "tiny.eval.npz")
    assert len(after) == 7
    shared = {int(i): n for n, i in enumerate(before.ids)}
    for n, i in enumerate(after.ids):
        if int(i) in shared:
            np.testing.assert_allclose(
                after.adversarial[n], before.adversarial[shared[int(i)]], atol=1e-6
            )


def test_inputs_of_parity_are_never_zero() -> None:
    made, kind = reference_inputs((1, 2, 2), None, 4, 0)
    assert kind == "synthetic"
    assert (made.shape, made.dtype) == ((4, 1, 2, 2), np.float32)
    assert 0 < made.min() < made.max() < 1
    assert not np.array_equal(made, reference_inputs((1, 2, 2), None, 4, 1)[0])
    np.testing.assert_array_equal(made, reference_inputs((1, 2, 2), (), 4, 0)[0])


def test_what_no_runtime_can_check_is_skipped_not_passed(
    exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    true = runtimes.installed
    monkeypatch.setattr(runtimes, "installed", lambda f: () if f == "tflite" else true(f))
    report = verify_exports(exported, ProofOptions(), lambda _: None)
    found = {(i.path, i.check): i.result for i in report.items}
    assert found["tiny.tflite", "parity"] == "skipped"
    assert found["tiny.onnx", "parity"] == "ok"
    assert report.exit_code == 0


@pytest.mark.slow
def test_a_layer_table_that_was_changed_is_noticed(copy: Path) -> None:
    path = copy / "tiny.manifest.json"
    manifest = json.loads(path.read_text())
    manifest["layers"][0]["params"] += 1
    path.write_text(json.dumps(manifest))
    report = verify_exports(path, ProofOptions(), lambda _: None)
    failed = [i for i in report.items if i.result == "failed"]
    assert {i.check for i in failed} == {"entry"}
    assert "layer table differs" in failed[0].found
    assert report.exit_code == replace(report, items=()).exit_code == 6


def test_without_torch_training_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requirements, "find_spec", lambda _: None)
    with pytest.raises(Missing, match="torch is needed to train") as failure:
        api.train()
    assert "sepdeploy[train]" in failure.value.hint
    with pytest.raises(Missing):
        api.export("net.pt")


def test_devices_and_doctor_draw_tables(call) -> None:
    for words in (("devices", "list"), ("devices", "show", "rpi4"), ("doctor",)):
        got = call(*words)
        assert got.code == 0
    assert json.loads(call("devices", "show", "rpi4", "--json").out)["id"] == "rpi4"
    assert "closest: rpi" in call("devices", "show", "rpi").line
