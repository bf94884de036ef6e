"""The embedded entry: round trip through both formats, and every kind of damage."""

import base64
import contextlib
import json
import zlib

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto
from onnx_graphs import Chain

from sepdeploy.errors import BadInput
from sepdeploy.exporters import containers, entry
from sepdeploy.exporters.entry import make_entry, parse_entry, read_entry
from sepdeploy.exporters.onnx_file.write import write_onnx
from sepdeploy.exporters.plan import plan
from sepdeploy.exporters.tflite_file.write import write_tflite
from sepdeploy.records import InputSpec
from sepdeploy.structures import DenseSpec, KronSpec, LowRankSpec

CHAIN = Chain(KronSpec((16, 16), (16, 16)), LowRankSpec(256, 64, 4), DenseSpec(64, 10))
INPUT = InputSpec((256,), (0.25,), (0.5,), ("a", "b", "ü"))


def write(path, chain=CHAIN):
    canonical = chain.canonical()
    text = make_entry(canonical, INPUT, chain.layers)
    if path.suffix == ".onnx":
        write_onnx(canonical, path, choices=plan(canonical, "onnx"), entry=text)
    else:
        write_tflite(canonical, path, choices=plan(canonical, "tflite"), entry=text)
    return path


@pytest.mark.parametrize("name", ["net.onnx", "net.tflite", "onnx.without.suffix"])
def test_both_formats_give_the_entry_back(tmp_path, name):
    path = write(tmp_path / (name if "." in name[-7:] else "x.onnx"))
    if name == "onnx.without.suffix":
        path = path.rename(tmp_path / "file")  # the content decides, not the name
    found = read_entry(path)
    assert found.input == INPUT
    assert found.layers == CHAIN.layers
    assert [n.name for n in found.graph.graph.node] == ["fc1", "relu1", "fc2", "relu2", "fc3"]


def test_the_entry_holds_shapes_and_no_weights():
    canonical = CHAIN.canonical()
    text = make_entry(canonical, INPUT, CHAIN.layers)
    assert len(text) < 4000
    found = parse_entry(text.encode(), where="x").graph
    original = {t.name: (tuple(t.dims), t.data_type) for t in canonical.graph.initializer}
    assert {t.name: (tuple(t.dims), t.data_type) for t in found.graph.initializer} == original
    big = [t for t in found.graph.initializer if np.prod(t.dims) > entry.KEPT_VALUES]
    assert big
    assert not any(t.raw_data or t.float_data for t in big)


def test_small_constants_keep_their_numbers():
    model = CHAIN.canonical()
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.int64([-1, 4]), "shape"))
    found = parse_entry(make_entry(model, INPUT, CHAIN.layers).encode(), where="x").graph
    (kept,) = [t for t in found.graph.initializer if t.name == "shape"]
    assert onnx.numpy_helper.to_array(kept).tolist() == [-1, 4]


def test_the_entry_is_the_same_every_time():
    texts = {make_entry(CHAIN.canonical(), INPUT, CHAIN.layers) for _ in range(3)}
    assert len(texts) == 1


# --- files that are no artifact of ours


def one_line(error):
    assert "\n" not in error.value.message
    return error.value


@pytest.mark.parametrize("suffix", [".onnx", ".tflite"])
def test_every_truncation_is_bad_input(tmp_path, suffix):
    data = write(tmp_path / f"net{suffix}").read_bytes()
    path = tmp_path / f"cut{suffix}"
    for size in [*range(1, 40), *range(40, len(data), len(data) // 60)]:
        path.write_bytes(data[:size])
        with pytest.raises(BadInput) as caught:
            read_entry(path)
        assert str(path) in one_line(caught).message


@pytest.mark.parametrize("suffix", [".onnx", ".tflite"])
def test_flipped_bytes_never_crash(tmp_path, suffix):
    data = bytearray(write(tmp_path / f"net{suffix}").read_bytes())
    path = tmp_path / f"mutant{suffix}"
    rng = np.random.default_rng(0)
    for _ in range(150):
        mutant = bytearray(data)
        for position in rng.integers(0, len(data), rng.integers(1, 9)):
            mutant[position] = rng.integers(0, 256)
        path.write_bytes(mutant)
        with contextlib.suppress(BadInput):  # anything else is a crash
            read_entry(path)


@given(st.binary(max_size=300), st.sampled_from([b"", b"\x00\x00\x00\x00TFL3", b"\x08\x0a"]))
@settings(max_examples=150)
def test_garbage_never_crashes(tmp_path_factory, junk, head):
    path = tmp_path_factory.mktemp("junk") / "file"
    path.write_bytes(head + junk)
    with pytest.raises(BadInput):
        read_entry(path)


def test_files_that_cannot_be_read(tmp_path):
    for path in (tmp_path / "absent.onnx", tmp_path):
        with pytest.raises(BadInput, match="cannot read") as caught:
            read_entry(path)
        assert caught.value.hint
    (tmp_path / "empty.onnx").write_bytes(b"")
    with pytest.raises(BadInput, match="is empty"):
        read_entry(tmp_path / "empty.onnx")


@pytest.mark.parametrize("suffix", [".onnx", ".tflite"])
def test_a_foreign_file_holds_no_entry(tmp_path, suffix):
    canonical = CHAIN.canonical()
    path = tmp_path / f"net{suffix}"
    if suffix == ".onnx":
        write_onnx(canonical, path, choices=plan(canonical, "onnx"))
    else:
        write_tflite(canonical, path, choices=plan(canonical, "tflite"))
    with pytest.raises(BadInput, match="holds no sepdeploy entry") as caught:
        read_entry(path)
    assert "export" in caught.value.hint


def test_a_file_of_countless_fields_is_refused_quickly(tmp_path, monkeypatch):
    monkeypatch.setattr(containers, "MAX_FIELDS", 100)
    path = tmp_path / "many.onnx"
    path.write_bytes(b"\x08\x0a" * 200)
    with pytest.raises(BadInput, match="not a complete ONNX file"):
        read_entry(path)


# --- entries that make no sense


def content(**changes):
    data = json.loads(make_entry(CHAIN.canonical(), INPUT, CHAIN.layers))
    return json.dumps(data | changes).encode()


def packed(model):
    return base64.b64encode(zlib.compress(model.SerializeToString())).decode()


def graph_with(**fields):
    model = CHAIN.canonical()
    tensor = TensorProto(name="evil", data_type=1)
    for name, value in fields.items():
        if isinstance(value, list):
            getattr(tensor, name).extend(value)
        else:
            setattr(tensor, name, value)
    model.graph.initializer.append(tensor)
    return packed(model)


def two_inputs():
    model = CHAIN.canonical()
    model.graph.input.add(name="second")
    return packed(model)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "not valid JSON"),
        (b"\xff\xfe", "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b"[1]", "expected an object, found list"),
        (b'{"schema": "sepdeploy.artifact/2"}', "sepdeploy.artifact/2"),
        (content(schema={"a": [1] * 1000}), "schema"),
        (content(input={"shape": [0]}), "positive"),
        (content(input={"shape": [1 << 40, 1 << 40]}), "more than"),
        (content(input=7), "expected an object"),
        (content(layers=[{"name": 3}]), r"entry: layers\[0\]"),
        (content(graph=3), "entry: graph"),
        (content(graph="%%%"), "damaged"),
        (content(graph=base64.b64encode(b"no zlib").decode()), "damaged"),
        (content(graph=base64.b64encode(zlib.compress(b"x" * 500)[:-9]).decode()), "cut short"),
        (content(graph=base64.b64encode(zlib.compress(b"\xff" * 50)).decode()), "not ONNX"),
        (content(graph=base64.b64encode(zlib.compress(b"")).decode()), "needs nodes"),
        (content(graph=two_inputs()), "one input"),
        (content(graph=graph_with(dims=[-4])), "'evil'"),
        (content(graph=graph_with(dims=[1 << 40, 1 << 40])), "'evil'"),
        (content(graph=graph_with(dims=[1 << 30, 3])), "'evil'"),
        (content(graph=graph_with(data_type=999)), "'evil'"),
        (content(graph=graph_with(data_location=TensorProto.EXTERNAL)), "'evil'"),
    ],
)
def test_nonsense_is_one_line(text, message):
    with pytest.raises(BadInput, match=message) as caught:
        parse_entry(text, where="net.onnx")
    assert one_line(caught).message.startswith("net.onnx")
    assert len(caught.value.message) < 400


def test_a_decompression_bomb_is_refused():
    bomb = base64.b64encode(zlib.compress(bytes(entry.MAX_GRAPH_BYTES + 1), 9)).decode()
    assert len(bomb) < 30_000
    with pytest.raises(BadInput, match="larger than 16 MiB"):
        parse_entry(content(graph=bomb), where="net.onnx")
