"""Files: standard and custom, valid, equal to the layer, deterministic, whole or absent."""

import hashlib
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import checker, helper, numpy_helper
from onnx_graphs import Chain, make_model, ops, relative, run_ort, run_reference

from sepdeploy.errors import BadInput
from sepdeploy.exporters.domain import DOMAIN
from sepdeploy.exporters.onnx_file import disk as onnx_write
from sepdeploy.exporters.onnx_file import write as onnx_file
from sepdeploy.exporters.onnx_file.bodies import with_bodies
from sepdeploy.exporters.onnx_file.write import lower, simplified, write_onnx
from sepdeploy.exporters.onnx_graph.graph import float_bytes, serialize
from sepdeploy.exporters.plan import plan
from sepdeploy.records import LoweringChoice
from sepdeploy.structures import DenseSpec, KronSpec, LowRankSpec

TOLERANCE = 1e-5
NETS = {
    "kron": (KronSpec((28, 28), (32, 32)), KronSpec((32, 32), (16, 16)), DenseSpec(256, 10)),
    "kron3": (KronSpec((4, 8, 8), (8, 8, 8)), KronSpec((16, 16, 2), (16, 16, 2))),
    "terms": (KronSpec((12, 10), (9, 14), 3), KronSpec((9, 14), (20, 20), 2)),
    "lowrank": (LowRankSpec(100, 300, 7), LowRankSpec(300, 50, 5)),
    "mixed": (
        KronSpec((2, 4, 8), (4, 8, 8)),
        KronSpec((16, 16), (8, 8), 3),
        LowRankSpec(64, 30, 5),
        KronSpec((5, 3, 2, 1), (2, 2, 2, 2), 2),
        KronSpec((4, 4), (4, 4)),
    ),
}


def written(chain, path, flavour="standard", **kwargs):
    canonical = chain.canonical()
    choices = plan(canonical, "onnx", flavour=flavour)
    write_onnx(canonical, path, choices=choices, flavour=flavour, **kwargs)
    return onnx.load(str(path))


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("flavour", ["standard", "custom"])
def test_files_equal_the_dense_matrices(tmp_path, name, flavour):
    chain = Chain(*NETS[name])
    model = written(chain, tmp_path / "net.onnx", flavour)
    checker.check_model(model, full_check=True)
    for batch in (1, 3, 32):
        x = chain.samples(batch)
        assert relative(run_ort(tmp_path / "net.onnx", x), chain(x)) <= TOLERANCE
    x = chain.samples(2)
    assert relative(run_reference(tmp_path / "net.onnx", x), chain(x)) <= TOLERANCE


@pytest.mark.parametrize("name", NETS)
def test_standard_files_hold_standard_ops_named_by_layer(tmp_path, name):
    chain = Chain(*NETS[name])
    model = written(chain, tmp_path / "net.onnx")
    assert {n.domain for n in model.graph.node} == {""}
    assert [(o.domain, o.version) for o in model.opset_import] == [("", 20)]
    assert model.ir_version == 10
    assert not model.functions
    for choice in plan(chain.canonical(), "onnx"):
        assert any(n.name.startswith(f"{choice.layer}/{choice.form}/") for n in model.graph.node)


def test_a_kronecker_chain_has_no_needless_node(tmp_path):
    chain = Chain(*NETS["kron"][:2])
    model = written(chain, tmp_path / "net.onnx")
    assert ops(model) == [
        *("Reshape", "Gemm", "Reshape", "MatMul", "Add"),
        "Relu",
        *("MatMul", "Reshape", "Gemm", "Reshape", "Add"),
    ]
    x = chain.samples()
    assert relative(run_ort(model, x), chain(x)) <= TOLERANCE


def test_a_standard_file_holds_no_more_numbers_than_planned(tmp_path):
    chain = Chain(*NETS["kron"])
    for flavour in ("standard", "custom"):
        model = written(chain, tmp_path / "net.onnx", flavour)
        params = sum(spec.params(True) for spec in chain.specs.values())
        assert float_bytes(model.graph) == 4 * params


def test_custom_files_keep_one_node_and_a_body_per_layer_handed_over(tmp_path):
    chain = Chain(*NETS["mixed"])
    model = written(chain, tmp_path / "net.onnx", "custom")
    nodes = [n for n in model.graph.node if n.domain == DOMAIN]
    choices = {c.layer: c.form for c in plan(chain.canonical(), "onnx", flavour="custom")}
    assert [n.name for n in nodes] == [n for n, form in choices.items() if form == "fused"]
    inlined = [name for name, form in choices.items() if form != "fused"]
    assert inlined == ["fc4", "fc5"]  # a dense product is faster
    assert all(any(n.name.startswith(f"{x}/dense/") for n in model.graph.node) for x in inlined)
    bodies = {(f.name, f.overload) for f in model.functions}
    assert {(n.op_type, n.overload) for n in nodes} == bodies
    assert all(f.domain == DOMAIN for f in model.functions)


def test_any_body_of_an_op_serves_all_its_nodes():
    """Runtimes that look functions up by name alone take whichever comes last."""
    chain = Chain(*NETS["mixed"])
    model = with_bodies(chain.canonical(), plan(chain.canonical(), "onnx"))
    x = chain.samples()
    for function in [f for f in model.functions if f.name == "KronLinear"]:
        only = onnx.ModelProto()
        only.CopyFrom(model)
        del only.functions[:]
        only.functions.extend([f for f in model.functions if f.name != "KronLinear"])
        only.functions.append(function)
        for item in (*only.graph.node, *only.functions):
            item.ClearField("overload")
        assert relative(run_ort(only, x), chain(x)) <= TOLERANCE


@st.composite
def chains(draw):
    """Two or three Kronecker layers of any number of modes and terms that fit together."""
    features = draw(st.sampled_from([12, 24, 36]))
    splits = {
        12: [(3, 4), (2, 2, 3), (12, 1)],
        24: [(4, 6), (2, 3, 4), (1, 24), (2, 2, 3, 2)],
        36: [(6, 6), (3, 3, 4), (36, 1), (2, 3, 6)],
    }
    specs = []
    for _ in range(draw(st.integers(2, 3))):
        wider = draw(st.sampled_from([12, 24, 36]))
        in_shape = draw(st.sampled_from(splits[features]))
        fitting = [s for s in splits[wider] if len(s) == len(in_shape)]
        if not fitting:
            continue
        specs.append(KronSpec(in_shape, draw(st.sampled_from(fitting)), draw(st.integers(1, 2))))
        features = wider
    return Chain(*(specs or [KronSpec((3, 4), (4, 3))]))


@given(chain=chains())
@settings(max_examples=15)
def test_both_flavours_of_any_chain(chain):
    canonical = chain.canonical()
    choices = plan(canonical, "onnx")
    x = chain.samples()
    for model in (lower(canonical, choices), with_bodies(canonical, choices)):
        np.testing.assert_allclose(run_ort(model, x), chain(x), rtol=1e-4, atol=1e-4)


def test_the_canonical_graph_is_not_changed(tmp_path):
    chain = Chain(*NETS["mixed"])
    canonical = chain.canonical()
    before = serialize(canonical)
    for flavour in ("standard", "custom"):
        choices = plan(canonical, "onnx", flavour=flavour)
        write_onnx(canonical, tmp_path / "n.onnx", choices=choices, flavour=flavour, entry="{}")
    assert serialize(canonical) == before


def test_layers_may_share_a_factor():
    """The terms of one constant are stacked along the input in one place, the output elsewhere."""
    spec = KronSpec((20, 20), (20, 20), 2)
    chain = Chain(spec, spec)
    model = chain.canonical()
    second = model.graph.node[2]
    second.input[1] = second.input[2] = "fc1.F0"
    chain.factors["fc2"] = [chain.factors["fc1"][0]] * 2
    x = chain.samples()
    lowered = lower(model, plan(model, "onnx"))
    assert relative(run_ort(lowered, x), chain(x)) <= TOLERANCE
    names = [t.name for t in lowered.graph.initializer]
    assert len(set(names)) == len(names)


def test_the_entry_is_the_only_metadata(tmp_path):
    model = written(Chain(*NETS["kron"]), tmp_path / "n.onnx", entry="the entry")
    assert [(p.key, p.value) for p in model.metadata_props] == [("sepdeploy", "the entry")]
    assert not any(n.metadata_props or n.doc_string for n in model.graph.node)
    assert not model.producer_name


# --- refusals


def test_a_layer_without_a_choice_cannot_be_written(tmp_path):
    canonical = Chain(*NETS["kron"]).canonical()
    choices = plan(canonical, "onnx")[:1]
    for flavour in ("standard", "custom"):
        with pytest.raises(BadInput, match="fc2") as caught:
            write_onnx(canonical, tmp_path / "n.onnx", choices=choices, flavour=flavour)
        assert caught.value.hint
    assert list(tmp_path.iterdir()) == []


def test_unknown_forms_and_flavours_are_named(tmp_path):
    canonical = Chain(*NETS["kron"]).canonical()
    wrong = [LoweringChoice(f"fc{i}", "kron", "gemm3d") for i in (1, 2)]
    with pytest.raises(BadInput, match="unknown lowering form 'gemm3d'; closest: gemm2d"):
        write_onnx(canonical, tmp_path / "n.onnx", choices=wrong)
    with pytest.raises(BadInput, match="unknown flavour 'costum'; closest: custom"):
        write_onnx(canonical, tmp_path / "n.onnx", choices=(), flavour="costum")


def test_an_invalid_graph_is_refused_in_one_line(tmp_path):
    node = helper.make_node("Relu", ["nowhere"], ["logits"], "lost")
    model = make_model([node], {}, (4,), (4,))
    with pytest.raises(BadInput, match="not valid ONNX") as caught:
        write_onnx(model, tmp_path / "n.onnx", choices=())
    assert "\n" not in caught.value.message
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "n.onnx"
    path.write_bytes(b"old")
    monkeypatch.setattr(
        onnx_write, "serialize", lambda model: (_ for _ in ()).throw(OSError(28, "No space left"))
    )
    with pytest.raises((BadInput, OSError)):
        written(Chain(*NETS["kron"]), path)
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["n.onnx"]


# --- onnxsim


def fake_simplifier(monkeypatch, change, valid=True):
    def simplify(model):
        change(model)
        return model, valid

    monkeypatch.setitem(sys.modules, "onnxsim", types.SimpleNamespace(simplify=simplify))


def needless(chain):
    """A lowered graph with one node that a simplifier could remove."""
    model = lower(chain.canonical(), plan(chain.canonical(), "onnx"))
    last = model.graph.node[-1]
    last.output[0] = "early"
    model.graph.node.append(helper.make_node("Identity", ["early"], ["logits"], last.name))
    return model


def drop_identity(model):
    model.graph.node.pop()
    model.graph.node[-1].output[0] = "logits"


def test_a_simpler_graph_is_taken(monkeypatch):
    model = needless(Chain(*NETS["kron"]))
    fake_simplifier(monkeypatch, drop_identity)
    assert len(simplified(model).graph.node) == len(model.graph.node) - 1


@pytest.mark.parametrize("fault", ["invalid", "grown", "renamed", "function lost"])
def test_a_faulty_simplification_is_not_taken(monkeypatch, fault):
    model = needless(Chain(*NETS["kron"]))

    def change(candidate):
        drop_identity(candidate)
        if fault == "grown":
            dense = np.zeros((784, 1024), np.float32)
            candidate.graph.initializer.append(numpy_helper.from_array(dense, "dense"))
        if fault == "renamed":
            for node in candidate.graph.node:
                node.name = ""
        if fault == "function lost":
            del candidate.functions[:]

    if fault == "function lost":
        model.functions.add(name="f", domain="d")
    fake_simplifier(monkeypatch, change, valid=fault != "invalid")
    assert simplified(model) is model


def test_a_simplifier_that_fails_is_not_needed(tmp_path, monkeypatch):
    def fail(model):
        raise RuntimeError("no")

    fake_simplifier(monkeypatch, fail)
    model = needless(Chain(*NETS["kron"]))
    assert simplified(model) is model


def test_a_simpler_graph_is_checked_and_written(tmp_path, monkeypatch):
    chain = Chain(*NETS["kron"])
    monkeypatch.setattr(onnx_file, "lower", lambda canonical, choices: needless(chain))
    fake_simplifier(monkeypatch, drop_identity)
    model = written(chain, tmp_path / "n.onnx")
    assert "Identity" not in ops(model)
    x = chain.samples()
    assert relative(run_ort(tmp_path / "n.onnx", x), chain(x)) <= TOLERANCE


def test_large_models_are_not_simplified(monkeypatch):
    model = needless(Chain(*NETS["kron"]))
    fake_simplifier(monkeypatch, drop_identity)
    monkeypatch.setattr(onnx_file, "SIMPLIFY_LIMIT", 100)
    assert simplified(model) is model


def test_without_the_simplifier_files_are_written_all_the_same(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxsim", None)
    chain = Chain(*NETS["mixed"])
    model = written(chain, tmp_path / "n.onnx")
    x = chain.samples()
    assert relative(run_ort(model, x), chain(x)) <= TOLERANCE


def test_the_simplifier_finds_nothing_to_fold(tmp_path):
    """What is written is as small with it as without it."""
    pytest.importorskip("onnxsim")
    chain = Chain(*NETS["mixed"])
    with_it = written(chain, tmp_path / "a.onnx", simplify=True)
    without = written(chain, tmp_path / "b.onnx", simplify=False)
    assert float_bytes(with_it.graph) == float_bytes(without.graph)
    assert len(with_it.graph.node) <= len(without.graph.node)


# --- determinism

WRITE = """
import sys, hashlib
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from test_onnx_file import NETS, written
from onnx_graphs import Chain
for flavour in ("standard", "custom"):
    written(Chain(*NETS["mixed"]), Path(sys.argv[2]), flavour, entry="{}")
    print(hashlib.sha256(Path(sys.argv[2]).read_bytes()).hexdigest())
"""


@pytest.mark.slow
def test_bytes_do_not_depend_on_the_process(tmp_path):
    here = []
    for flavour in ("standard", "custom"):
        written(Chain(*NETS["mixed"]), tmp_path / "a.onnx", flavour, entry="{}")
        here.append(hashlib.sha256((tmp_path / "a.onnx").read_bytes()).hexdigest())
    folder = str(Path(__file__).parent)
    run = subprocess.run(
        [sys.executable, "-c", WRITE, folder, str(tmp_path / "b.onnx")],
        env={"PYTHONHASHSEED": "77", "PYTHONPATH": ":".join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.split() == here
