"""Custom nodes in TFLite: the plug-in delegate, the kernels in Python, the standard sibling."""

import shutil

import numpy as np
import pytest
from custom_graphs import relative_error, two_layers, write_custom

import sepdeploy as sd
from sepdeploy import measure, runtimes
from sepdeploy.codec import dump
from sepdeploy.errors import BadInput, Missing
from sepdeploy.exporters.tflite_file import read_tflite
from sepdeploy.exporters.tflite_file.write import write_tflite
from sepdeploy.files import sha256_file
from sepdeploy.measure.proof.ways import ways
from sepdeploy.records import ArtifactRecord, FileRef, InputSpec, Manifest
from sepdeploy.runtimes.native import claims, proofs
from sepdeploy.runtimes.native.tiny_tflite import two_nodes
from sepdeploy.runtimes.runner.contract import RunnerError
from sepdeploy.runtimes.runner.tflite import TfliteModel

TFLITE = [name for name, r in runtimes.RUNTIMES.items() if r.format == "tflite"]


@pytest.fixture(params=TFLITE)
def runtime(request):
    if request.param not in runtimes.installed("tflite"):
        pytest.skip(f"{request.param} is not installed")
    return request.param


@pytest.fixture
def custom_tflite(tmp_path):
    model, reference = two_layers()
    return write_custom(model, tmp_path / "net.custom.tflite"), reference


@pytest.fixture
def exported(custom_tflite):
    """A custom file, its standard sibling and the manifest that names both."""
    path, reference = custom_tflite
    model, _ = two_layers()
    standard = path.with_name("net.tflite")
    write_tflite(model, standard, runtime="tflite-runtime-2.14")
    rows = tuple(
        ArtifactRecord(
            p.name, "tflite", flavour, "none", sha256_file(p), p.stat().st_size, "NF", "float32",
            sibling=sibling,
        )
        for p, flavour, sibling in ((standard, "standard", ""), (path, "custom", standard.name))
    )  # fmt: skip
    manifest = Manifest("net", FileRef("net.pt", "0" * 64), InputSpec((36,)), (), rows)
    path.with_name("net.manifest.json").write_text(dump(manifest))
    return path, reference


def batch(n, seed=3):
    return np.random.default_rng(seed).random((n, 36), dtype=np.float32)


@pytest.fixture
def no_kernels(empty_cache, monkeypatch):
    """Neither the library nor the kernels in Python load."""
    monkeypatch.setattr(claims, "reference_works", lambda runtime, version: False)


def test_the_call_counter_proves_the_native_path(library, custom_tflite, runtime):
    path, reference = custom_tflite
    assert [op.kind for op in read_tflite(path).ops if op.custom] == ["KronLinear", "LowRankLinear"]
    with sd.open(path, runtime) as session:
        assert session.note == "2 layers run in native kernels"
        for n in (1, 3, 32, 2):
            assert relative_error(session.run(batch(n)), reference(batch(n))) < 1e-5
            assert session.native_calls == 2


def test_kernels_in_python_need_no_compiler(empty_cache, custom_tflite, runtime):
    path, reference = custom_tflite
    with sd.open(path, runtime) as session:
        assert "slow reference kernels" in session.note
        assert "sepdeploy devices setup host" in session.note
        for n in (1, 3, 32):
            assert relative_error(session.run(batch(n)), reference(batch(n))) < 1e-5
            assert session.native_calls == 2


def test_both_kernels_are_proven_by_themselves(library, custom_tflite, runtime):
    path, reference = custom_tflite
    assert [w.name for w in ways(path, runtime)] == [f"{runtime}+native", f"{runtime}+reference"]
    x = batch(8)
    logits = reference(x).astype(np.float32)
    found = measure.check_parity(path, x, logits, runtimes=[runtime], batches=(1, 8))
    assert [(p.runtime, p.batch, p.passed) for p in found] == [
        (f"{runtime}+{kernels}", n, True) for kernels in ("native", "reference") for n in (1, 8)
    ]


def test_timing_says_which_kernels_ran(library, custom_tflite, runtime, monkeypatch):
    path, _ = custom_tflite
    timing = measure.Timing(min_rounds=1, min_seconds=0)
    assert measure.time_models({"a": path}, runtime, timing).models[0].kernels == "native"
    monkeypatch.setenv("SEPDEPLOY_NATIVE", "off")
    assert measure.time_models({"a": path}, runtime, timing).models[0].kernels == "reference"


def test_where_no_kernel_loads_the_standard_sibling_runs_and_it_says_so(
    no_kernels, exported, runtime
):
    path, reference = exported
    with pytest.warns(RuntimeWarning, match=r"net\.tflite runs in its place"):
        session = sd.open(path, runtime)
    with session:
        assert session.path.name == "net.tflite"
        assert "no kernel runs its 2 custom layers" in session.note
        assert relative_error(session.run(batch(3)), reference(batch(3))) < 1e-5
        assert session.native_calls == 0


def _no_manifest(path):
    path.with_name("net.manifest.json").unlink()


def _no_sibling(path):
    path.with_name("net.tflite").unlink()


def _changed_sibling(path):
    with path.with_name("net.tflite").open("ab") as file:
        file.write(b"\0")


def _outside(path):
    manifest = path.with_name("net.manifest.json")
    manifest.write_text(manifest.read_text().replace('"net.tflite"', '"../net.tflite"'))
    shutil.copy(path.with_name("net.tflite"), path.parent.parent / "net.tflite")


def _nonsense(path):
    path.with_name("net.manifest.json").write_text('{"artifacts": 3}')


@pytest.mark.parametrize("harm", [_no_manifest, _no_sibling, _changed_sibling, _outside, _nonsense])
def test_without_a_trusted_sibling_it_is_missing_with_a_hint(no_kernels, exported, harm):
    path, _ = exported
    harm(path)
    with pytest.raises(Missing, match="no kernel runs its 2 custom layers") as caught:
        sd.open(path)
    assert "sepdeploy devices setup host" in caught.value.hint


def test_measuring_does_not_take_the_sibling(no_kernels, exported):
    """A number must be of the file it is said to be of."""
    path, _ = exported
    with pytest.raises(Missing, match="custom layers"):
        ways(path, runtimes.installed("tflite")[0])


def test_the_self_test_of_the_kernels_in_python_is_kept(empty_cache, monkeypatch, runtime):
    proofs.reference_works.cache_clear()
    tried = []
    monkeypatch.setattr(proofs, "self_test", lambda *args: tried.append(args) or "")
    assert proofs.reference_works(runtime, "1")
    proofs.reference_works.cache_clear()
    assert proofs.reference_works(runtime, "1")
    assert tried == [("reference", runtime)]
    assert proofs.reference_works(runtime, "2")
    assert len(tried) == 2
    proofs.reference_works.cache_clear()


def test_a_runtime_that_the_kernels_in_python_fail_in_is_remembered(empty_cache, monkeypatch):
    proofs.reference_works.cache_clear()
    monkeypatch.setattr(proofs, "self_test", lambda *args: "exit code -11")
    assert not proofs.reference_works("litert", "9")
    monkeypatch.setattr(proofs, "self_test", lambda *args: "")
    proofs.reference_works.cache_clear()
    assert not proofs.reference_works("litert", "9")
    proofs.reference_works.cache_clear()


def weights(**changes):
    rng = np.random.default_rng(0)
    shapes = {
        "F1": (2, 5, 4), "F2": (2, 6, 9), "b1": (30,), "U": (30, 3), "V": (11, 3), "b2": (11,),
    }  # fmt: skip
    found = {n: rng.standard_normal(changes.get(n, s)) for n, s in shapes.items()}
    names = list(found)
    return {n: found[n] for n in names[:3]}, {n: found[n] for n in names[3:]}


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"F2": (3, 6, 9)},  # another number of terms
        {"F2": (6, 9, 1)},
        {"b1": (31,)},
        {"U": (30, 4)},
        {"V": (12, 3)},
        {"b2": (10,)},
    ],
)
@pytest.mark.parametrize("kernels", ["native", "reference"])
def test_weights_that_do_not_fit_are_an_error_not_a_crash(
    library, tmp_path, runtime, changes, kernels
):
    path = tmp_path / "bad.tflite"
    path.write_bytes(two_nodes(*weights(**changes)))
    native = str(library) if kernels == "native" else "reference"
    with pytest.raises(RunnerError, match="cannot be loaded"):
        TfliteModel(str(path), name=runtime, native=native)


def test_another_number_of_features_is_an_error_not_a_crash(library, tmp_path, runtime):
    path = tmp_path / "bad.tflite"
    path.write_bytes(two_nodes(*weights(U=(29, 3))))
    for native in (str(library), "reference"):
        with pytest.raises(RunnerError, match="cannot be loaded"):
            TfliteModel(str(path), name=runtime, native=native)


def test_a_damaged_file_is_left_to_the_runtime(library, custom_tflite, runtime):
    path, _ = custom_tflite
    data = bytearray(path.read_bytes())
    data[4:60] = b"TFL3" + b"\xff" * 52
    path.write_bytes(data)
    assert runtimes.custom_nodes(path, runtime) == runtimes.Claim()
    with pytest.raises(BadInput):
        sd.open(path, runtime)


def test_nodes_of_others_are_not_claimed(library, custom_tflite, runtime):
    path, _ = custom_tflite
    path.write_bytes(path.read_bytes().replace(b"LowRankLinear", b"LowRankLinEar"))
    claim = runtimes.custom_nodes(path, runtime)
    assert (claim.nodes, claim.library) == (1, "")
    assert "no kernel for LowRankLinEar" in claim.note


def test_a_library_that_cannot_be_loaded_is_missing(tmp_path, runtime):
    path = tmp_path / "ops.tflite"
    path.write_bytes(two_nodes(*weights()))
    with pytest.raises(RunnerError, match="cannot be loaded") as caught:
        TfliteModel(str(path), name=runtime, native=str(tmp_path / "absent.so"))
    assert caught.value.kind == "missing"
