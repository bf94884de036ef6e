"""Reading files that others wrote, damaged files, and files that are something else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from test_tflite_writer import small

from sepdeploy.errors import BadInput
from sepdeploy.exporters.tflite_file import read_metadata, read_tflite
from sepdeploy.exporters.tflite_file.write import write_tflite
from sepdeploy.flatbuffer import is_tflite

MUTANTS = 400


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("good") / "m.tflite"
    write_tflite(small()[0], path, entry='{"entry": true}')
    return path.read_bytes()


def read_all(data: bytes) -> bool:
    """Return whether a file reads; anything but `BadInput` escapes."""
    try:
        file = read_tflite(data)
        file.op_counts()
        read_metadata(data, "sepdeploy")
    except BadInput as error:
        return "\n" in error.message  # a message of several lines would fail the callers' checks
    return True


def test_truncated_files_are_refused_in_one_line(good: bytes) -> None:
    assert read_all(good)
    head = good.index(b"serving_default")
    results = [read_all(good[:size]) for size in range(0, min(head, len(good)), 7)]
    assert not any(results)


def test_mutants_never_escape(good: bytes) -> None:
    rng = np.random.default_rng(11)
    head = good.index(b"serving_default") + 4000
    for _ in range(MUTANTS):
        data = bytearray(good)
        for position in rng.integers(0, min(head, len(good)), rng.integers(1, 6)):
            data[position] = rng.integers(0, 256)
        read_all(bytes(data))


@pytest.mark.slow
def test_offsets_replaced_by_extremes_never_escape(good: bytes) -> None:
    for position in range(0, min(len(good) - 4, 6000), 4):
        for word in (b"\xff\xff\xff\xff", b"\x00\x00\x00\x80", b"\xff\xff\xff\x7f"):
            read_all(good[:position] + word + good[position + 4 :])


@pytest.mark.parametrize("content", [b"", b"TFL3", b"\x08\x00\x00\x00ONNX" + bytes(64), bytes(200)])
def test_other_files_are_refused(content: bytes, tmp_path: Path) -> None:
    assert not is_tflite(content)
    path = tmp_path / "other"
    path.write_bytes(content)
    for read in (read_tflite, lambda p: read_metadata(p, "sepdeploy")):
        with pytest.raises(BadInput, match="not a usable"):
            read(path)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(BadInput, match=r"cannot read|not a usable"):
            read_tflite(path)


def test_a_file_that_another_writer_made(tmp_path: Path) -> None:
    """Built through generated code: vtables shared, buffers inline, custom operator, no bias."""
    schema = pytest.importorskip("ai_edge_litert.schema_py_generated")
    flatbuffers = pytest.importorskip("flatbuffers")
    model = schema.ModelT()
    model.version = 3
    code = schema.OperatorCodeT()
    code.deprecatedBuiltinCode = code.builtinCode = schema.BuiltinOperator.CUSTOM
    code.customCode = "KronLinear"
    gelu = schema.OperatorCodeT()
    gelu.deprecatedBuiltinCode, gelu.builtinCode = 127, schema.BuiltinOperator.GELU
    gelu.version = 2
    unknown = schema.OperatorCodeT()
    unknown.deprecatedBuiltinCode, unknown.builtinCode = 127, 199
    model.operatorCodes = [code, gelu, unknown]
    empty, data = schema.BufferT(), schema.BufferT()
    data.data = np.arange(24, dtype=np.uint8)
    model.buffers = [empty, data]
    tensors = []
    for i, (name, shape, buffer) in enumerate(
        [("x", [1, 2], 0), ("w", [2, 3], 1), ("y", [1, 3], 0)]
    ):
        tensor = schema.TensorT()
        tensor.name, tensor.shape, tensor.buffer, tensor.type = name, shape, buffer, 0
        tensor.shapeSignature = [-1, 2] if i == 0 else None
        tensors.append(tensor)
    operators = []
    for index, inputs in enumerate([[0, 1, -1], [2], [2]]):
        operator = schema.OperatorT()
        operator.opcodeIndex, operator.inputs, operator.outputs = index, inputs, [2]
        operators.append(operator)
    subgraph = schema.SubGraphT()
    subgraph.tensors, subgraph.operators = tensors, operators
    subgraph.inputs, subgraph.outputs = [0], [2]
    model.subgraphs = [subgraph]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    path = tmp_path / "m.tflite"
    path.write_bytes(bytes(builder.Output()))

    file = read_tflite(path)
    assert [(op.kind, op.version, op.custom) for op in file.ops] == [
        ("KronLinear", 1, True),
        ("GELU", 2, False),
        ("STABLEHLO_SORT", 1, False),
    ]
    assert file.ops[0].inputs == (0, 1, -1)
    assert [t.shape for t in file.tensors] == [(-1, 2), (2, 3), (1, 3)]
    assert [t.constant_bytes for t in file.tensors] == [0, 24, 0]
    assert file.metadata == ()
    assert read_metadata(path, "sepdeploy") is None
