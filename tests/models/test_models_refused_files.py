"""Model files that must be refused: damaged, hostile, or of another network."""

import contextlib
import io
import os
import zipfile

import numpy as np
import onnx
import pytest
import torch
from file_cases import edited, refused
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from sepdeploy.errors import BadInput
from sepdeploy.models import (
    Model,
    load,
)

# --- damaged files ----------------------------------------------------------------------------


def test_files_that_are_not_there(tmp_path):
    refused(tmp_path / "none.pt", "does not exist")
    refused(tmp_path, "cannot read|not a tensor file")


@pytest.mark.parametrize(
    "content", [b"", b"PK", b"\x80\x02}q\x00.", b"\xffgarbage" * 1000, b"\x00" * 99]
)
def test_garbage(tmp_path, content):
    file = tmp_path / "x.pt"
    file.write_bytes(content)
    refused(file, "truncated or not a tensor file")


def test_a_text_is_called_one(tmp_path):
    (tmp_path / "x.pt").write_text('{"schema": "sepdeploy.manifest/1"}')
    refused(tmp_path / "x.pt", "is a document of text, not a model file")


def test_every_truncation_is_refused(path):
    whole = path.read_bytes()
    for size in range(0, len(whole), 97):
        path.write_bytes(whole[:size])
        refused(path, "truncated|damaged|not a tensor file")


@pytest.mark.slow
@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data())
def test_flipped_bytes_never_crash(path, data):
    whole = bytearray(path.read_bytes())
    broken = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 3))):
        broken[data.draw(st.integers(0, len(whole) - 1))] ^= data.draw(st.integers(1, 255))
    target = path.with_name("flipped.pt")
    target.write_bytes(broken)
    with contextlib.suppress(BadInput):  # anything else would be a crash
        load(target)


# --- hostile files ----------------------------------------------------------------------------


class Runs:
    """Makes a folder when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return (os.mkdir, (self.path,))


@pytest.mark.parametrize(
    "wrapping", [lambda e: e, lambda e: {"format": "sepdeploy.model", "state_dict": {"w": e}}]
)
def test_a_pickle_that_would_run_code(tmp_path, wrapping):
    marker = tmp_path / "was-here"
    torch.save(wrapping(Runs(marker)), tmp_path / "evil.pt")
    error = refused(tmp_path / "evil.pt", "could run code")
    assert "pickled modules" in error.hint
    assert not marker.exists()
    torch.load(tmp_path / "evil.pt", weights_only=False)
    assert marker.exists()  # it would have


def test_a_pickled_module_is_refused(tmp_path):
    torch.save(nn.Linear(2, 2), tmp_path / "net.pt")
    refused(tmp_path / "net.pt", "could run code")


def test_a_tiny_file_with_a_huge_tensor(path):
    huge = torch.zeros(1).as_strided((10**6, 10**6), (0, 0))
    edited(path, lambda d: d["state_dict"].update({"head.weight": huge}))
    assert path.stat().st_size < 20_000
    refused(path, "claims 1000000000000 elements")


def test_many_views_of_one_small_storage(path):
    base = torch.zeros(1000)
    edited(path, lambda d: d["state_dict"].update({f"x{k}": base[:] for k in range(500)}))
    refused(path, "bytes of tensors in")


def meta_tensor():
    return torch.zeros(10**6, 10**6, device="meta")


def sparse_tensor():
    place = torch.zeros(2, 1, dtype=torch.long)
    return torch.sparse_coo_tensor(
        place, torch.ones(1), (10**6, 10**6), check_invariants=True, is_coalesced=True
    )


@pytest.mark.parametrize("make", [meta_tensor, sparse_tensor])
def test_tensors_that_are_no_arrays(path, make):
    edited(path, lambda d: d["state_dict"].update({"head.weight": make()}))
    refused(path, "not a plain array|damaged")


def test_records_that_unpack_to_more_than_the_file(path):
    with zipfile.ZipFile(path) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, value in records.items():
            archive.writestr(name, value)
        archive.writestr("model/data/99", bytes(10**8))
    refused(path, "more bytes than the file has")


def test_containers_that_hold_themselves(path):
    nested = [torch.zeros(2)]
    for _ in range(100):
        nested = [nested, nested]  # 2^100 paths to one tensor
    circle = {}
    circle["self"] = circle
    edited(path, lambda d: d["provenance"].update({"nested": nested, "circle": circle}))
    assert isinstance(load(path), Model)


def test_options_that_would_build_a_giant(path):
    def widen(data):
        data["arch_kwargs"] = {"classes": 10, "hidden": [2**26] * 20}
        data["layers"] = {}

    refused(edited(path, widen), "do not fit|shape")


def test_layers_that_claim_more_than_the_file(path):
    wide = {"structure": "kron", "in_shape": [8, 8], "out_shape": [4, 4], "terms": 1024}
    refused(edited(path, lambda d: d["layers"].update({"fc1": wide})), "claim more weights")


def test_names_cannot_draw_on_the_terminal(path):
    edited(path, lambda d: d["state_dict"].update({"a\nb\x1b[2Jc": torch.zeros(1)}))
    error = refused(path, "unknown")
    assert error.message.isprintable()


def test_the_file_does_not_choose_the_code(path, tmp_path, monkeypatch):
    (tmp_path / "trap.py").write_text("raise SystemExit('imported')")
    monkeypatch.chdir(tmp_path)
    edited(path, lambda d: d.update(arch="trap:make"))
    error = refused(path, "the user's own \\('trap:make'\\)")
    assert "--arch" in error.hint
    refused(path, "made with 'trap:make', not with 'os:getcwd'", arch="os:getcwd")


# --- files that do not fit --------------------------------------------------------------------


def drop(key):
    return lambda data: data.pop(key)


def put(section, **values):
    return lambda data: data[section].update(values)


def put_top(**values):
    return lambda data: data.update(values)


@pytest.mark.parametrize(
    ("edit", "match"),
    [
        (put_top(format="other"), "not a sepdeploy model"),
        (put_top(version=99), "version 99"),
        (put_top(arch="mpl"), "unknown architecture 'mpl'; closest: mlp"),
        (put_top(arch=3), "'arch' is missing or is a int"),
        (put_top(arch_kwargs={"classes": 10, "hiden": [1]}), "unknown option of mlp 'hiden'"),
        (put_top(arch_kwargs={"hidden": [16, 12]}), "cannot be built"),
        (put_top(arch_kwargs={"classes": "ten", "hidden": [16, 12]}), "whole number"),
        (put_top(arch_kwargs={"classes": 10, "hidden": 5}), "list of layer widths"),
        (
            put_top(arch_kwargs={"classes": 10, "hidden": [16, 12], "structure": 7}),
            "structure must",
        ),
        (drop("state_dict"), "'state_dict' is missing"),
        (drop("input"), "'input' is missing"),
        (drop("layers"), "'layers' is missing"),
        (put_top(input={"shape": "x"}), "input: shape"),
        (put_top(input={"shape": [1, 8, 0]}), "positive"),
        (put_top(input={"shape": [1, 8, 8], "std": [0.0]}), "positive"),
        (put_top(input={"shape": [1, 8, 8], "mean": [0.0, 1.0]}), "channels"),
        (put_top(input={"shape": [1, 9, 9]}), "64|81"),
        (put("layers", fc1={"structure": "kron"}), "layer 'fc1': keys"),
        (put("layers", fc1={"structure": "korn"}), "closest: kron"),
        (
            put("layers", fc7={"structure": "dense", "in_features": 1, "out_features": 1}),
            "no linear layer 'fc7'",
        ),
        (put("layers", fc1={"structure": "dense", "in_features": 3, "out_features": 4}), "fc1"),
        (lambda d: d["state_dict"].pop("fc1.bias"), "lacks fc1.bias"),
        (put("state_dict", more=torch.zeros(1)), "has unknown more"),
        (
            put("state_dict", **{"head.bias": torch.zeros(11)}),
            r"'head.bias' is torch.float32 \(11,\)",
        ),
        (put("state_dict", **{"head.bias": torch.zeros(10, dtype=torch.float16)}), "torch.float16"),
        (put("state_dict", **{"head.bias": [0.0] * 10}), "'head.bias' is a list"),
        (
            put("state_dict", **{"head.bias": torch.full((10,), float("nan"))}),
            "'head.bias' holds NaN",
        ),
        (
            put("state_dict", **{"fc2.S": torch.full((3, 3), float("inf"))}),
            "'fc2.S' holds NaN or inf",
        ),
    ],
)
def test_a_file_that_does_not_fit(path, edit, match):
    refused(edited(path, edit), match)


def test_other_tables_and_lists(tmp_path):
    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / "state.pt")
    error = refused(tmp_path / "state.pt", "not a sepdeploy model")
    assert "wrap" in error.hint
    torch.save([1, 2], tmp_path / "list.pt")
    refused(tmp_path / "list.pt", "holds a list")


def test_the_wrong_arch_argument(path):
    refused(path, "is a 'mlp', not a 'lenet'", arch="lenet")
    assert load(path, arch="mlp").arch == "mlp"


# --- files of another kind ------------------------------------------------------------------------


def legacy(path):
    torch.save({"w": torch.zeros(2)}, path, _use_new_zipfile_serialization=False)


def npz():
    np.savez(file := io.BytesIO(), a=np.zeros(2))
    return file.getvalue()


def torchscript(path):
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), path)


def onnx_file(path):
    value = [onnx.helper.make_tensor_value_info(n, 1, [1]) for n in "xy"]
    nodes = [onnx.helper.make_node("Relu", ["x"], ["y"])]
    graph = onnx.helper.make_graph(nodes, "g", value[:1], value[1:])
    onnx.save(onnx.helper.make_model(graph), path)


OTHER_KINDS = {
    "before version 1.6": legacy,
    "TorchScript file": torchscript,
    ".onnx file": onnx_file,
    ".tflite file": lambda p: p.write_bytes(b"\x1c\0\0\0TFL3" + bytes(40)),
    "HDF5 file": lambda p: p.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(40)),
    "safetensors file": lambda p: p.write_bytes((2).to_bytes(8, "little") + b"{}"),
    ".npz file": lambda p: p.write_bytes(npz()),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("kind", OTHER_KINDS)
def test_a_file_of_another_kind_is_called_by_its_name(tmp_path, kind):
    OTHER_KINDS[kind](tmp_path / "x.pt")
    refused(tmp_path / "x.pt", kind)


def test_tables_that_are_no_models_are_called_what_they_are(tmp_path):
    state = nn.Linear(2, 2).state_dict()
    for table, what, hint in (
        (state, "bare table of tensors", "load_state_dict"),
        ({"epoch": 3, "state_dict": state}, "checkpoint with a 'state_dict'", "['state_dict']"),
        ({"format": "sepdeploy.training"}, "training that is not finished", "--resume"),
    ):
        torch.save(table, tmp_path / "x.pt")
        assert hint in refused(tmp_path / "x.pt", what).hint
