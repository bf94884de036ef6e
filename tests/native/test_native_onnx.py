"""Custom nodes in ONNX Runtime: native where that is right, function bodies everywhere else."""

import numpy as np
import onnx
import pytest
from custom_graphs import relative_error, two_layers, write_custom

import sepdeploy as sd
from sepdeploy import runtimes
from sepdeploy.exporters.onnx_file.write import write_onnx
from sepdeploy.exporters.plan import plan
from sepdeploy.runtimes import native


def batch(n, seed=3):
    return np.random.default_rng(seed).random((n, 36), dtype=np.float32)


@pytest.mark.parametrize("threads", [1, 2])
def test_the_call_counter_proves_the_native_path(library, custom_file, threads):
    path, reference = custom_file
    with sd.open(path, threads=threads) as session:
        assert session.note == "2 layers run in native kernels"
        assert session.native_calls == 0
        for n in (1, 3, 32):
            assert relative_error(session.run(batch(n)), reference(batch(n))) < 1e-5
            assert session.native_calls == 2


def test_enough_work_is_spread_over_threads(library, tmp_path):
    from benchmarks.kron import kron_model
    from sepdeploy.structures import KronSpec

    model = kron_model(KronSpec((48, 32), (40, 64)))
    path = tmp_path / "wide.onnx"
    write_custom(model, path)
    x = np.random.default_rng(0).random((200, 48, 32), dtype=np.float32)
    with sd.open(path, threads=2) as wide, sd.open(path, threads=1, native=False) as plain:
        assert relative_error(wide.run(x), plain.run(x)) < 1e-5
        assert wide.native_calls == 1


def test_without_a_build_the_bodies_run(empty_cache, custom_file):
    path, reference = custom_file
    with sd.open(path) as session:
        assert "function bodies" in session.note
        assert "sepdeploy devices setup host" in session.note
        assert relative_error(session.run(batch(3)), reference(batch(3))) < 1e-5
        assert session.native_calls == 0


def test_native_kernels_can_be_declined(library, custom_file, monkeypatch):
    path, _ = custom_file
    with sd.open(path, native=False) as session:
        session.run(batch(1))
        assert session.native_calls == 0
        assert session.note == "2 layers run as function bodies: as asked for"
    monkeypatch.setenv("SEPDEPLOY_NATIVE", "off")
    assert native.native_status().state == "off"
    assert "switched off" in runtimes.custom_nodes(path, "onnxruntime").note


def test_the_reference_evaluator_runs_the_same_file(custom_file):
    from onnx.reference import ReferenceEvaluator

    path, reference = custom_file
    (found,) = ReferenceEvaluator(str(path)).run(None, {"input": batch(3)})
    assert relative_error(found, reference(batch(3))) < 1e-5


def test_half_precision_graphs_do_not_get_the_kernels(library, tmp_path):
    model, reference = two_layers(dtype=np.float16)
    path = tmp_path / "half.onnx"
    write_custom(model, path)
    claim = runtimes.custom_nodes(path, "onnxruntime")
    assert (claim.nodes, claim.library) == (2, "")
    assert "not all float32" in claim.note
    with sd.open(path) as session:
        assert relative_error(session.run(batch(3)), reference(batch(3))) < 2e-2
        assert session.native_calls == 0


def test_a_kernel_registered_for_half_precision_would_be_refused(library, tmp_path):
    """Why the decision is made before the runtime sees the file."""
    model, _ = two_layers(dtype=np.float16)
    path = tmp_path / "half.onnx"
    write_custom(model, path)
    from sepdeploy.runtimes.runner.contract import RunnerError
    from sepdeploy.runtimes.runner.ort import OrtModel

    with pytest.raises(RunnerError, match=r"float16|Type"):
        OrtModel(str(path), native=str(library))


def test_standard_files_have_nothing_to_claim(library, tmp_path):
    model, _ = two_layers()
    path = tmp_path / "standard.onnx"
    write_onnx(model, path, choices=plan(model, "onnx"))
    assert runtimes.custom_nodes(path, "onnxruntime") == runtimes.Claim()
    with sd.open(path) as session:
        assert session.note == ""


def _computed_factor(model):
    node = model.graph.node[0]
    negated = onnx.helper.make_node("Neg", [node.input[1]], ["negated"])
    node.input[1] = "negated"
    model.graph.node.insert(0, negated)


def _unknown_op(model):
    model.graph.node[0].op_type = "KronLinearNext"


def _inside_a_branch(model):
    copy = onnx.NodeProto()
    copy.CopyFrom(model.graph.node[0])
    inner = onnx.helper.make_graph([copy], "inner", [], [onnx.ValueInfoProto(name="a.y")])
    other = onnx.helper.make_node("If", ["c"], ["d"], then_branch=inner, else_branch=inner)
    model.graph.node.append(other)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (_computed_factor, "not constants"),
        (_unknown_op, "no kernel for KronLinearNext"),
        (_inside_a_branch, "functions or branches"),
    ],
)
def test_what_the_kernels_cannot_run_is_not_claimed(library, custom_file, change, why):
    path, _ = custom_file
    model = onnx.load(str(path))
    change(model)
    onnx.save(model, str(path))
    claim = runtimes.custom_nodes(path, "onnxruntime")
    assert claim.library == ""
    assert why in claim.note


def test_a_damaged_file_is_left_to_the_runtime(library, custom_file):
    path, _ = custom_file
    path.write_bytes(path.read_bytes()[:-200])
    assert runtimes.custom_nodes(path, "onnxruntime") == runtimes.Claim()
    with pytest.raises(sd.errors.BadInput, match="cannot be loaded"):
        sd.open(path)


@pytest.mark.parametrize("name", ["in_shape", "terms"])
def test_attributes_that_contradict_the_factors_are_an_error_not_a_crash(
    library, custom_file, name
):
    path, _ = custom_file
    model = onnx.load(str(path))
    for attribute in model.graph.node[0].attribute:
        if attribute.name == name == "in_shape":
            attribute.ints[0] = 1 << 40
        elif attribute.name == name:
            attribute.i = -3
    onnx.save(model, str(path))
    with pytest.raises(sd.errors.BadInput, match="cannot be loaded"):
        sd.open(path)


def test_one_session_serves_several_threads(library, custom_file):
    from concurrent.futures import ThreadPoolExecutor

    from sepdeploy.runtimes.runner.ort import OrtModel

    path, reference = custom_file
    inner = OrtModel(str(path), native=str(library)).session

    def once(seed):
        x = batch(1 + seed % 40, seed)
        return relative_error(inner.run(None, {"input": x})[0], reference(x))

    with ThreadPoolExecutor(4) as pool:
        assert max(pool.map(once, range(200))) < 1e-5
