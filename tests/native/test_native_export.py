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


def run(*words):
    return cli.run([str(w) for w in words])


def export(folder, cache):
    """Export a model by the command, with kernels built in ``cache`` or none there."""
    import torch

    from sepdeploy.models import create
    from sepdeploy.records import InputSpec

    torch.manual_seed(0)
    model = create("mlp", InputSpec((1, 16, 16)), 10, structure="kron", hidden=(256, 64))
    sd.save(model.eval(), folder / "net.pt")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(cache))
        patch.delenv("SEPDEPLOY_NATIVE", raising=False)
        assert run("export", folder / "net.pt", "--flavour", "custom", "--no-eval") == 0
    return folder


@pytest.fixture(scope="module")
def exported(built_cache, tmp_path_factory):
    """Folder of an export whose custom files were proven with native kernels too."""
    return export(tmp_path_factory.mktemp("native"), built_cache)


@pytest.fixture(scope="module")
def exported_without_compiler(tmp_path_factory):
    """Folder of an export where no native library has been built."""
    return export(tmp_path_factory.mktemp("portable"), tmp_path_factory.mktemp("empty-cache"))


def artifacts(folder):
    manifest = json.loads((folder / "net.manifest.json").read_text())
    return {a["path"]: a for a in manifest["artifacts"]}


def runtimes_of(artifact):
    return {p["runtime"] for p in artifact["parity"]}


@pytest.mark.slow
def test_a_custom_export_is_proven_in_every_way_it_can_run(library, exported, capsys):
    assert {p.name for p in exported.iterdir()} >= set(NAMES)
    by_path = artifacts(exported)
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
    nodes = [n for n in onnx.load(str(exported / "net.onnx")).graph.node if n.domain]
    ops = read_tflite(exported / "net.custom.tflite").ops
    assert len(nodes) == sum(op.custom for op in ops) == len(custom["lowerings"])
    capsys.readouterr()
    assert run("verify", exported / "net.manifest.json", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert {i["result"] for i in report["items"]} == {"ok"}


def test_without_a_compiler_a_custom_export_is_proven_all_the_same(exported_without_compiler):
    by_path = artifacts(exported_without_compiler)
    assert runtimes_of(by_path["net.onnx"]) == {"onnxruntime", "onnx.reference"}
    assert runtimes_of(by_path["net.custom.tflite"]) == {
        f"{runtime}+reference" for runtime in installed("tflite")
    }


@pytest.mark.slow
def test_bench_names_the_kernels_that_ran(library, exported, tmp_path, monkeypatch):
    custom = [exported / name for name in ("net.onnx", "net.custom.tflite")]
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
    empty_cache, exported_without_compiler, monkeypatch
):
    from sepdeploy.runtimes.native import claims

    monkeypatch.setattr(claims, "reference_works", lambda runtime, version: False)
    x = np.random.default_rng(0).random((3, 1, 16, 16), dtype=np.float32)
    with sd.open(exported_without_compiler / "net.onnx") as plain:
        wanted = plain.run(x)
    with pytest.warns(RuntimeWarning, match=r"net\.tflite runs in its place"):
        session = sd.open(exported_without_compiler / "net.custom.tflite")
    with session:
        np.testing.assert_allclose(session.run(x), wanted, atol=1e-5)


@pytest.mark.slow
def test_what_nothing_runs_is_skipped_by_bench_and_missing_when_asked_for(
    empty_cache, exported_without_compiler, monkeypatch, capsys
):
    from sepdeploy.runtimes.native import claims

    monkeypatch.setattr(claims, "reference_works", lambda runtime, version: False)
    custom = exported_without_compiler / "net.custom.tflite"
    assert run("bench", custom) == 3
    assert "no kernel runs" in capsys.readouterr().err
    assert run("bench", custom, "--runtime", installed("tflite")[0]) == 4
    assert run("verify", exported_without_compiler / "net.manifest.json") == 0
    assert "skipped" in capsys.readouterr().out


@pytest.mark.slow
def test_layers_of_a_custom_file_are_compared_one_by_one(library, exported, capsys):
    assert run("verify", exported / "net.manifest.json", "--layers") == 0
    shown = capsys.readouterr().out
    assert "fc1" in shown


def test_a_foreign_file_has_no_layers_to_hand_over(exported, tmp_path, capsys):
    other = tmp_path / "other"
    assert run("export", exported / "net.onnx", "-f", "tflite", "--flavour", "custom",
               "-o", other) == 2  # fmt: skip
    assert "custom" in capsys.readouterr().err
