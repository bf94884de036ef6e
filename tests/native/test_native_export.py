"""The custom flavour from a model to a bench, by the commands."""

import json

import numpy as np
import onnx
import pytest

import sepdeploy as sd
from sepdeploy import cli
from sepdeploy.exporters.tflite_file import read_tflite
from sepdeploy.runtimes import installed

pytest.importorskip("torch")

NAMES = ("net.onnx", "net.tflite", "net.custom.tflite", "net.manifest.json")


@pytest.fixture
def model_file(tmp_path):
    import torch

    from sepdeploy.models import create
    from sepdeploy.records import InputSpec

    torch.manual_seed(0)
    model = create("mlp", InputSpec((1, 16, 16)), 10, structure="kron", hidden=(256, 64))
    sd.save(model.eval(), tmp_path / "net.pt")
    return tmp_path / "net.pt"


def run(*words):
    return cli.run([str(w) for w in words])


def export(model_file, *more):
    assert run("export", model_file, "--flavour", "custom", "--no-eval", *more) == 0
    return json.loads(model_file.with_name("net.manifest.json").read_text())


def runtimes_of(artifact):
    return {p["runtime"] for p in artifact["parity"]}


def test_a_custom_export_is_proven_in_every_way_it_can_run(library, model_file, capsys):
    manifest = export(model_file)
    assert {p.name for p in model_file.parent.iterdir()} >= set(NAMES)
    by_path = {a["path"]: a for a in manifest["artifacts"]}
    plain, standard, custom = (by_path[name] for name in NAMES[:3])
    assert runtimes_of(plain) == {"onnxruntime", "onnxruntime+native", "onnx.reference"}
    assert runtimes_of(standard) == set(installed("tflite"))
    assert runtimes_of(custom) == {
        f"{runtime}+{kernels}"
        for runtime in installed("tflite")
        for kernels in ("native", "reference")
    }
    assert (plain["flavour"], standard["flavour"], custom["flavour"]) == (
        "custom", "standard", "custom",
    )  # fmt: skip
    assert custom["sibling"] == "net.tflite"
    assert {c["form"] for c in custom["lowerings"]} == {"fused"}
    nodes = [n for n in onnx.load(str(model_file.with_suffix(".onnx"))).graph.node if n.domain]
    ops = read_tflite(model_file.with_name("net.custom.tflite")).ops
    assert len(nodes) == sum(op.custom for op in ops) == len(custom["lowerings"])
    capsys.readouterr()
    assert run("verify", model_file.with_name("net.manifest.json"), "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert {i["result"] for i in report["items"]} == {"ok"}


def test_without_a_compiler_a_custom_export_is_proven_all_the_same(empty_cache, model_file):
    by_path = {a["path"]: a for a in export(model_file)["artifacts"]}
    assert runtimes_of(by_path["net.onnx"]) == {"onnxruntime", "onnx.reference"}
    assert runtimes_of(by_path["net.custom.tflite"]) == {
        f"{runtime}+reference" for runtime in installed("tflite")
    }


def test_bench_names_the_kernels_that_ran(library, model_file, tmp_path, monkeypatch):
    export(model_file)
    custom = [model_file.with_name(n) for n in ("net.onnx", "net.custom.tflite")]
    out = tmp_path / "bench.json"
    for switch, kernels in (("on", "native"), ("off", None)):
        monkeypatch.setenv("SEPDEPLOY_NATIVE", switch)
        assert run("bench", *custom, "--json", out) == 0
        for result in json.loads(out.read_text())["results"]:
            (latency,) = (m for m in result["measurements"] if m["metric"] == "latency_ms")
            onnx_file = result["artifact"]["format"] == "onnx"
            assert latency.get("kernels") == (kernels or (None if onnx_file else "reference"))
            (note,) = result["notes"]
            assert ("native kernels are switched off" in note) == (kernels is None)


def test_a_custom_file_opens_as_its_standard_sibling_where_nothing_runs_it(
    empty_cache, model_file, monkeypatch
):
    from sepdeploy.runtimes.native import claims

    export(model_file)
    monkeypatch.setattr(claims, "reference_works", lambda runtime, version: False)
    x = np.random.default_rng(0).random((3, 1, 16, 16), dtype=np.float32)
    with sd.open(model_file.with_suffix(".onnx")) as plain:
        wanted = plain.run(x)
    with pytest.warns(RuntimeWarning, match=r"net\.tflite runs in its place"):
        session = sd.open(model_file.with_name("net.custom.tflite"))
    with session:
        np.testing.assert_allclose(session.run(x), wanted, atol=1e-5)


def test_what_nothing_runs_is_skipped_by_bench_and_missing_when_asked_for(
    empty_cache, model_file, monkeypatch, capsys
):
    from sepdeploy.runtimes.native import claims

    export(model_file)
    monkeypatch.setattr(claims, "reference_works", lambda runtime, version: False)
    custom = model_file.with_name("net.custom.tflite")
    assert run("bench", custom) == 3
    assert "no kernel runs" in capsys.readouterr().err
    assert run("bench", custom, "--runtime", installed("tflite")[0]) == 4
    assert run("verify", model_file.with_name("net.manifest.json")) == 0
    assert "skipped" in capsys.readouterr().out


def test_layers_of_a_custom_file_are_compared_one_by_one(library, model_file, capsys):
    export(model_file)
    assert run("verify", model_file.with_name("net.manifest.json"), "--layers") == 0
    shown = capsys.readouterr().out
    assert "fc1" in shown


def test_a_foreign_file_has_no_layers_to_hand_over(model_file, tmp_path, capsys):
    export(model_file, "-f", "onnx")
    other = tmp_path / "other"
    assert run("export", model_file.with_suffix(".onnx"), "-f", "tflite", "--flavour", "custom",
               "-o", other) == 2  # fmt: skip
    assert "custom" in capsys.readouterr().err
