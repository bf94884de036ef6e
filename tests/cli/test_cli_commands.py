"""The commands do what the README says: files, tables, JSON and exit code 0."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import shellingham

import sepdeploy as sd
from sepdeploy.data.evalpack import read_pack

FILES = {"tiny.pt", "tiny.onnx", "tiny.tflite", "tiny.manifest.json", "tiny.eval.npz"}


def test_export_leaves_exactly_the_promised_files(exported: Path) -> None:
    assert {p.name for p in exported.iterdir()} == FILES


def test_the_manifest_holds_parity_for_every_runtime_and_batch(exported: Path) -> None:
    manifest = json.loads((exported / "tiny.manifest.json").read_text())
    assert manifest["schema"] == "sepdeploy.manifest/1"
    for artifact in manifest["artifacts"]:
        assert {p["batch"] for p in artifact["parity"]} == {1, 3, 32}
        assert all(p["max_rel"] <= 1e-5 and p["inputs"] == "data" for p in artifact["parity"])
        assert {c["layer"] for c in artifact["lowerings"]} == {"fc1", "fc2"}
        assert {r["layer"] for r in artifact["residency"]} >= {"fc1", "fc2"}


def test_inspect_counts_what_the_model_has(exported: Path, call) -> None:
    kron = 2 * 8 * 8 + 64
    for name in ("tiny.pt", "tiny.onnx", "tiny.tflite"):
        got = call("inspect", exported / name, "--json")
        assert got.code == 0
        report = json.loads(got.out)
        assert report["schema"] == "sepdeploy.inspect/1"
        assert [x["structure"] for x in report["layers"]] == ["kron", "kron", "dense"]
        assert [x["params"] for x in report["layers"]] == [kron, kron, 650]
        assert report["total"]["params"] == 2 * kron + 650
        assert report["total"]["params_dense"] == 2 * (64 * 64 + 64) + 650


def test_inspect_prints_a_table(exported: Path, call) -> None:
    got = call("inspect", exported / "tiny.onnx")
    assert got.code == 0
    assert "8×8 ⊗ 8×8" in got.out


def test_verify_passes_and_lists_every_check(exported: Path, call) -> None:
    got = call("verify", exported / "tiny.manifest.json", "--json")
    assert got.code == 0
    items = json.loads(got.out)["items"]
    assert {i["result"] for i in items} == {"ok"}
    checks = {(i["path"], i["check"]) for i in items}
    assert {
        ("tiny.onnx", "parity"),
        ("tiny.tflite", "parity"),
        ("tiny.eval.npz", "digest"),
    } <= checks


def test_bench_gives_every_metric_with_its_kind(exported: Path, call) -> None:
    got = call("bench", exported / "tiny.onnx", "--attack", "pgd-3", "--samples", "40",
               "--json", "-")  # fmt: skip
    assert got.code == 0
    report = json.loads(got.out)
    assert report["schema"] == "sepdeploy.bench/1"
    (result,) = report["results"]
    found = {m["metric"]: m for m in result["measurements"]}
    static = {"params", "params_dense", "macs", "file_bytes", "factor_bytes", "resident_bytes",
              "parity_max_rel", "condition_number"}  # fmt: skip
    host = {"peak_rss_bytes", "load_ms", "latency_ms", "latency_vs_dense", "clean_accuracy",
            "adversarial_accuracy", "accuracy_difference"}  # fmt: skip
    assert set(found) == static | host
    assert {found[m]["kind"] for m in static} == {"STATIC"}
    assert {found[m]["kind"] for m in host} == {"HOST"}
    assert found["file_bytes"]["value"] == (exported / "tiny.onnx").stat().st_size
    assert len(found["latency_ms"]["samples"]) == found["latency_ms"]["n"] >= 30
    adversarial = found["adversarial_accuracy"]
    assert len(adversarial["samples"]) == adversarial["n"] == 40
    assert adversarial["value"] == np.mean(adversarial["samples"])
    assert {adversarial[k] for k in ("attack", "norm")} == {"pgd-3", "linf"}


@pytest.mark.slow
def test_accuracy_is_judged_by_the_file_not_by_the_model(exported: Path, call) -> None:
    got = call("bench", exported / "tiny.tflite", "--runtime", "litert", "--samples", "40",
               "--attack", "pgd-3", "--json", "-")  # fmt: skip
    found = {m["metric"]: m for m in json.loads(got.out)["results"][0]["measurements"]}
    pack = read_pack(exported / "tiny.eval.npz")
    with sd.open(exported / "tiny.tflite", runtime="litert") as session:
        right = session.run(pack.clean()).argmax(1) == pack.labels
    assert found["clean_accuracy"]["samples"] == right.astype(int).tolist()


@pytest.mark.slow
def test_attack_of_radius_zero_equals_clean_accuracy(exported: Path, call) -> None:
    got = call("bench", exported / "tiny.onnx", "--attack", "pgd-3", "--eps", "0", "--json", "-")
    found = {m["metric"]: m for m in json.loads(got.out)["results"][0]["measurements"]}
    assert found["adversarial_accuracy"]["samples"] == found["clean_accuracy"]["samples"]
    assert found["adversarial_accuracy"]["value"] == found["clean_accuracy"]["value"]


@pytest.mark.slow
def test_bench_without_arguments_takes_the_manifests_of_the_folder(
    copy: Path, call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(copy)
    got = call("bench", "--json", "out.json", "--attack", "pgd-3")
    assert got.code == 0
    results = json.loads((copy / "out.json").read_text())["results"]
    assert {r["artifact"]["path"] for r in results} == {"tiny.onnx", "tiny.tflite"}
    assert re.search(r"HOST", got.out)


@pytest.mark.slow
def test_the_custom_flavour_runs_on_stock_onnxruntime(tmp_path: Path, call) -> None:
    import onnx
    import torch

    from sepdeploy.models import create
    from sepdeploy.records import InputSpec

    torch.manual_seed(0)
    wide = create("mlp", InputSpec((1, 28, 28)), 10, structure="kron", hidden=(1024, 1024))
    sd.save(wide.eval(), tmp_path / "wide.pt")
    for flavour in ("standard", "custom"):
        got = call("export", tmp_path / "wide.pt", "-f", "onnx", "--flavour", flavour,
                   "-o", tmp_path / flavour, "--no-eval")  # fmt: skip
        assert got.code == 0, got.err
    graph = onnx.load(tmp_path / "custom/wide.onnx")
    nodes = [n for n in graph.graph.node if n.domain == "ai.sepdeploy"]
    assert nodes
    assert {n.op_type for n in nodes} == {f.name for f in graph.functions}
    images = np.random.default_rng(0).random((5, 1, 28, 28), dtype=np.float32)
    with sd.open(tmp_path / "standard/wide.onnx") as a, sd.open(tmp_path / "custom/wide.onnx") as b:
        np.testing.assert_allclose(a.run(images), b.run(images), rtol=0, atol=1e-5)


def test_attack_writes_a_pack_inside_the_ball(exported: Path, tmp_path: Path, call) -> None:
    got = call("attack", exported / "tiny.pt", "-o", tmp_path / "adv.npz", "--attack", "pgd-3",
               "--eps", "8/255", "--samples", "20")  # fmt: skip
    assert got.code == 0
    pack = read_pack(tmp_path / "adv.npz")
    assert len(pack) == 20
    assert pack.adversarial is not None
    assert 0 < np.abs(pack.adversarial - pack.clean()).max() <= 8 / 255 + 1e-7


def test_doctor_and_devices_answer_in_json(call) -> None:
    doctor = json.loads(call("doctor", "--json").out)
    assert {"onnxruntime", "torch"} <= {f["name"] for f in doctor["findings"] if f["present"]}
    devices = json.loads(call("devices", "list", "--json").out)
    assert "host" in {d["id"] for d in devices["devices"]}


def test_shell_completion_is_offered(call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shellingham, "detect_shell", lambda: ("bash", "/bin/bash"))
    got = call("--show-completion")
    assert got.code == 0
    assert "complete" in got.out


@pytest.mark.parametrize("option", ["--show-completion", "--install-completion"])
def test_a_shell_without_completion_is_no_regression(
    call, monkeypatch: pytest.MonkeyPatch, option: str
) -> None:
    monkeypatch.setattr(shellingham, "detect_shell", lambda: ("dash", "/bin/dash"))
    got = call(option)
    assert got.code == 2
    assert "not supported" in got.out + got.err


@pytest.mark.slow
def test_verify_without_the_model_uses_the_pack_then_the_sibling(copy: Path, call) -> None:
    def sources() -> dict[str, str]:
        got = call("verify", copy / "tiny.manifest.json", "--json")
        items = json.loads(got.out)["items"]
        return {i["path"]: i["result"] + ": " + i["found"] for i in items if i["check"] == "parity"}

    (copy / "tiny.pt").unlink()
    assert "evaluation pack" in sources()["tiny.onnx"]
    manifest = json.loads((copy / "tiny.manifest.json").read_text())
    manifest["eval_pack"] = None
    (copy / "tiny.manifest.json").write_text(json.dumps(manifest))
    assert sources()["tiny.onnx"].startswith("skipped: ")
    assert "against tiny.onnx" in sources()["tiny.tflite"]


@pytest.mark.slow
def test_a_network_of_the_users_own_needs_its_code_named(
    tmp_path: Path, call, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.py").write_text(
        "from torch import nn\n"
        "def make():\n"
        "    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    import mine

    model = sd.wrap(mine.make(), (1, 8, 8)).eval()
    sd.export(model, tmp_path / "net")
    manifest = tmp_path / "net.manifest.json"
    assert "skipped" in call("verify", manifest).out
    got = call("verify", manifest, "--arch", "mine:make", "--json")
    assert {i["result"] for i in json.loads(got.out)["items"]} == {"ok"}
    assert call("inspect", tmp_path / "net.pt").code == 2
    assert call("inspect", tmp_path / "net.pt", "--arch", "mine:make").code == 0
