"""Finding metadata in .tflite files of any origin: the right text, or a clean refusal."""

import numpy as np
import pytest
import tflite_builder
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sepdeploy import runtimes
from sepdeploy.errors import BadInput
from sepdeploy.exporters.tflite_file import read_metadata
from sepdeploy.flatbuffer import BUFFER_DATA, MODEL_BUFFERS, DamagedError, Table, metadata

TEXT = '{"input": {"shape": [3]}} σ'


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("flat") / "m.tflite"
    tflite_builder.linear(path, np.ones((2, 3), np.float32), np.ones(2, np.float32), entry=TEXT)
    return path.read_bytes()


def test_an_entry_is_found_by_its_name(file):
    assert metadata(file, "sepdeploy") == TEXT
    assert metadata(file, "other") is None


def test_a_file_without_metadata(tmp_path):
    path = tmp_path / "m.tflite"
    tflite_builder.linear(path, np.ones((2, 3), np.float32), np.ones(2, np.float32))
    assert metadata(path.read_bytes(), "sepdeploy") is None


def test_our_own_writer_is_understood(tmp_path):
    from onnx import TensorProto, helper

    from sepdeploy.exporters.tflite_file.write import write_tflite

    infos = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", 3]) for n in "xy"]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", infos[:1], infos[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    path = tmp_path / "ours.tflite"
    write_tflite(model, path, entry=TEXT)
    assert metadata(path.read_bytes(), "sepdeploy") == TEXT
    assert runtimes.file_format(path) == "tflite"


FOREIGN = [b"", b"TFL3", b"\0\0\0\0TFL3", b"\xff" * 4 + b"TFL3" + b"\xff" * 60]


@pytest.mark.parametrize("data", FOREIGN)
def test_what_is_no_tflite_file(data):
    with pytest.raises(DamagedError):
        metadata(data, "sepdeploy")


@given(st.data())
@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
def test_damage_is_refused_or_harmless(file, data):
    """Cut anywhere, or any bytes changed: a text, nothing, or DamagedError; never anything else."""
    damaged = bytearray(file[: data.draw(st.integers(0, len(file)))])
    if damaged:
        for _ in range(data.draw(st.integers(0, 6))):
            at = data.draw(st.integers(0, len(damaged) - 1))
            damaged[at] = data.draw(st.sampled_from([0, 1, 4, 127, 128, 255]))
    try:
        found = metadata(bytes(damaged), "sepdeploy")
    except DamagedError:
        return
    assert found is None or isinstance(found, str)


def test_damaged_tables_are_one_line(tmp_path, file):
    root = int.from_bytes(file[:4], "little")
    damaged = bytearray(file)
    damaged[root : root + 4] = b"\xff\xff\xff\x7f"  # the root table's list of fields lies outside
    path = tmp_path / "m.tflite"
    path.write_bytes(bytes(damaged))
    with pytest.raises(BadInput, match="its tables are damaged"):
        runtimes.open(path)


def odd_fields(file):
    """The root table's list of fields is one byte longer than its entries."""
    root = int.from_bytes(file[:4], "little")
    fields = root - int.from_bytes(file[root : root + 4], "little", signed=True)
    return file[:fields] + bytes([file[fields] + 1]) + file[fields + 1 :]


def no_text(file):
    at = file.index(TEXT.encode())
    return file[:at] + b"\xff" + file[at + 1 :]


def no_name(file):
    at = file.index(b"sepdeploy\0")
    return file[:at] + b"\xff" + file[at + 1 :]


@pytest.mark.parametrize("damage", [odd_fields, no_text, no_name])
def test_a_session_and_an_inspection_refuse_the_same_damage(file, damage, tmp_path):
    damaged = damage(file)
    assert damaged != file
    path = tmp_path / "m.tflite"
    path.write_bytes(damaged)
    with pytest.raises(DamagedError):
        metadata(damaged, "sepdeploy")
    with pytest.raises(BadInput, match="its tables are damaged"):
        runtimes.open(path)
    with pytest.raises(BadInput, match="not a usable"):
        read_metadata(path, "sepdeploy")


def test_a_table_that_nobody_asked_for_must_hold_as_well(tmp_path):
    """A whole vector of tables is read at once, so all of them are looked at."""
    flat = tflite_builder.Tflite()
    x = flat.tensor("input", (1, 3))
    flat.metadata("sepdeploy", TEXT)
    file = flat.save(tmp_path / "m.tflite", [x], [x]).read_bytes()
    unused, used = Table.root(file).tables(MODEL_BUFFERS)
    assert metadata(file, "sepdeploy") == TEXT == used.text(BUFFER_DATA)
    damaged = file[: unused.at] + b"\xff\xff\xff\x7f" + file[unused.at + 4 :]
    with pytest.raises(DamagedError):
        metadata(damaged, "sepdeploy")


def test_an_entry_that_points_to_no_buffer(tmp_path):
    file = tflite_builder.Tflite()
    x = file.tensor("input", (1, 3))
    file.metadata("sepdeploy", TEXT)
    file.model.metadata[0].buffer = 999
    path = file.save(tmp_path / "m.tflite", [x], [x])
    with pytest.raises(DamagedError):
        metadata(path.read_bytes(), "sepdeploy")
