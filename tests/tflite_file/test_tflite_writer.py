"""The file itself: bytes, alignment, versions, names, metadata, for an independent reader too."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper
from op_cases import ints, rand
from tflite_oracles import DOMAIN, Array, graph

from sepdeploy.errors import BadInput
from sepdeploy.exporters.tflite_file import read_metadata, read_tflite
from sepdeploy.exporters.tflite_file.format import serialize
from sepdeploy.exporters.tflite_file.format.graph import BATCH, Tensor, describe, runtime_shape
from sepdeploy.exporters.tflite_file.format.schema import OPS
from sepdeploy.exporters.tflite_file.format.versions import op_version
from sepdeploy.exporters.tflite_file.values.builder import Builder
from sepdeploy.exporters.tflite_file.write import METADATA_NAME, write_tflite


def n(op: str, inputs: str, output: str, **attributes: object) -> helper.NodeProto:
    return helper.make_node(op, inputs.split(), [output], **attributes)


def small() -> tuple[Any, dict[str, Array]]:
    """A convolution, a flatten and two layers, named as an exporter names them."""
    constants = {
        "features.0.weight": rand(6, 3, 3, 3),
        "features.0.bias": rand(6),
        "head.weight": rand(5, 6 * 36),
        "head.bias": rand(5),
        "low.u": rand(5, 2),
        "low.v": rand(4, 2),
        "low.bias": rand(4),
    }
    nodes = [
        n("Conv", "x features.0.weight features.0.bias", "c", pads=[1, 1, 1, 1], strides=[2, 2]),
        n("Relu", "c", "r"),
        n("Flatten", "r", "f"),
        n("Gemm", "f head.weight head.bias", "h", transB=1),
        n("LowRankLinear", "h low.u low.v low.bias", "y", domain=DOMAIN, name="low"),
    ]
    return graph(nodes, [3, 12, 12], constants), constants


def object_model(path: Path) -> Any:
    """Parse a file with the generated code of another package."""
    schema = pytest.importorskip("ai_edge_litert.schema_py_generated")
    return schema.ModelT.InitFromObj(schema.Model.GetRootAs(path.read_bytes()))


SHARED_OPTIONS = {
    "Pool2DOptions": "AVERAGE_POOL_2D MAX_POOL_2D",
    "ReducerOptions": "MEAN SUM REDUCE_PROD REDUCE_MAX REDUCE_MIN",
    "MaximumMinimumOptions": "MAXIMUM MINIMUM",
}


def test_every_operator_and_its_options_have_the_numbers_of_the_schema() -> None:
    schema = pytest.importorskip("ai_edge_litert.schema_py_generated", reason="needs LiteRT")
    options = {k: v for k, v in vars(schema.BuiltinOptions).items() if not k.startswith("_")}
    by_name = {name.lower(): number for name, number in options.items()}
    shared = {op: options[name] for name, ops in SHARED_OPTIONS.items() for op in ops.split()}
    for name, row in OPS.items():
        assert row.code == getattr(schema.BuiltinOperator, name), name
        own = by_name.get(f"{name.replace('_', '')}options".lower(), 0)
        # A table of no fields may as well be left out.
        assert row.options == shared.get(name, own) or not (row.options or row.fields), name


def test_an_independent_reader_finds_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "m.tflite"
    write_tflite(small()[0], path, entry='{"a": 1}')
    model = object_model(path)
    (subgraph,) = model.subgraphs
    assert model.version == 3
    codes = [model.operatorCodes[op.opcodeIndex] for op in subgraph.operators]
    ours = read_tflite(path)
    assert [c.builtinCode for c in codes] == [OPS[op.kind].code for op in ours.ops]
    assert [c.version for c in codes] == [op.version for op in ours.ops]
    assert [tuple(op.inputs) for op in subgraph.operators] == [op.inputs for op in ours.ops]
    names = [t.name.decode() for t in subgraph.tensors]
    assert names == [t.name for t in ours.tensors]
    for tensor, info in zip(subgraph.tensors, ours.tensors, strict=True):
        data = model.buffers[tensor.buffer].data
        assert (0 if data is None else len(data)) == info.constant_bytes
    (signature,) = model.signatureDefs
    assert signature.signatureKey == b"serving_default"
    assert [(m.name, names[m.tensorIndex]) for m in signature.inputs] == [(b"x", "x")]
    assert [(m.name, names[m.tensorIndex]) for m in signature.outputs] == [(b"y", "y")]
    (entry,) = model.metadata
    assert entry.name == METADATA_NAME.encode()
    assert bytes(model.buffers[entry.buffer].data) == b'{"a": 1}'
    assert list(subgraph.tensors[subgraph.inputs[0]].shape) == [1, 12, 12, 3]
    assert list(subgraph.tensors[subgraph.inputs[0]].shapeSignature) == [-1, 12, 12, 3]


def test_constants_start_at_multiples_of_64_bytes(tmp_path: Path) -> None:
    model, constants = small()
    path = tmp_path / "m.tflite"
    write_tflite(model, path, entry="{}")
    data = path.read_bytes()
    for name in ("low.u", "head.bias"):
        stored = np.ascontiguousarray(constants[name].T if name == "low.u" else constants[name])
        assert data.index(stored.tobytes()) % 64 == 0


def test_every_layer_has_a_bias_and_constants_carry_its_name(tmp_path: Path) -> None:
    model, constants = small()
    path = tmp_path / "m.tflite"
    write_tflite(model, path)
    file = read_tflite(path)
    for op in file.ops:
        if op.kind in ("FULLY_CONNECTED", "CONV_2D"):
            assert len(op.inputs) == 3
            assert file.tensors[op.inputs[2]].constant_bytes > 0
    floats: Counter[str] = Counter()
    for tensor in file.tensors:
        if tensor.dtype.startswith("float"):
            floats[tensor.name.partition("/")[0]] += tensor.constant_bytes
    assert floats["head"] == 4 * (5 * 216 + 5)
    assert floats["features.0"] == 4 * (6 * 27 + 6)
    assert floats["low"] == 4 * (10 + 8 + 2 + 4)
    assert floats.total() >= sum(v.nbytes for v in constants.values() if v.dtype.kind == "f")


def test_the_same_model_gives_the_same_bytes(tmp_path: Path) -> None:
    model, _ = small()
    for name in ("a", "b"):
        write_tflite(model, tmp_path / name, entry="{}")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_equal_constants_are_stored_once(tmp_path: Path) -> None:
    weight = rand(64, 64)
    nodes = [n("MatMul", "x a", "h"), n("MatMul", "h b", "y")]
    path = tmp_path / "m.tflite"
    write_tflite(graph(nodes, [64], {"a": weight, "b": weight.copy()}), path)
    assert path.stat().st_size < 1.5 * weight.nbytes


def test_metadata_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "m.tflite"
    entry = json.dumps({"text": "äöü" * 1000})
    write_tflite(small()[0], path, entry=entry)
    assert read_metadata(path, METADATA_NAME) == entry.encode()
    assert read_metadata(path.read_bytes(), METADATA_NAME) == entry.encode()
    assert read_metadata(path, "other") is None
    write_tflite(small()[0], path)
    assert read_metadata(path, METADATA_NAME) is None


def test_a_failed_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "m.tflite"
    path.write_bytes(b"old")
    monkeypatch.setattr(serialize, "MAX_FILE_BYTES", 2000)
    with pytest.raises(BadInput, match="2 GiB"):
        write_tflite(small()[0], path)
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["m.tflite"]


def test_an_unwritable_folder_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput) as caught:
        write_tflite(small()[0], tmp_path / "file" / "m.tflite")
    assert "\n" not in caught.value.message


def test_versions_are_the_lowest_that_cover_the_use() -> None:
    b = Builder()
    x = Tensor("x", (BATCH, 4, 4, 6), np.dtype(np.float32))
    weight = b.constant(rand(8, 3, 3, 6), "w")
    bias = b.constant(rand(8), "b")
    b.op("CONV_2D", [x, weight, bias], (BATCH, 4, 4, 8), stride_w=1, stride_h=1)
    b.op("CONV_2D", [x, b.constant(rand(8, 3, 3, 2), "g"), bias], (BATCH, 4, 4, 8))
    b.op("DEPTHWISE_CONV_2D", [x, weight, bias], (BATCH, 4, 4, 8), dilation_w=2)
    b.op("FULLY_CONNECTED", [x, weight, bias], (BATCH, 8))
    b.op("FULLY_CONNECTED", [x, weight, bias], (BATCH, 4, 4, 8), keep_num_dims=True)
    five = b.reshape(x, (BATCH, 4, 4, 2, 3))
    b.transpose(five, (0, 1, 2, 4, 3))
    b.op("RESIZE_BILINEAR", [x, bias], (BATCH, 8, 8, 6), half_pixel_centers=True)
    b.op("MEAN", [x, bias], (BATCH, 1, 1, 6), keep_dims=True)
    found = [(op.kind, op_version(op, "tflite-runtime-2.14")) for op in b.graph.ops]
    assert found == [
        ("CONV_2D", 1),
        ("CONV_2D", 6),
        ("DEPTHWISE_CONV_2D", 2),
        ("FULLY_CONNECTED", 1),
        ("FULLY_CONNECTED", 5),
        ("RESHAPE", 1),
        ("TRANSPOSE", 4),
        ("RESIZE_BILINEAR", 3),
        ("MEAN", 1),
    ]


def test_an_option_that_the_schema_lacks_is_a_mistake_of_ours() -> None:
    b = Builder()
    x = Tensor("x", (1, 4), np.dtype(np.float32))
    b.graph.inputs["x"] = x
    b.graph.outputs["y"] = b.op("RELU", [x], (1, 4), slope=0.1)
    with pytest.raises(KeyError, match="slope"):
        serialize.lay_out(b.graph, metadata={}, runtime="litert")


def test_only_one_dimension_may_stay_open() -> None:
    assert runtime_shape((2 * BATCH, 3), "here").tolist() == [-1, 3]
    with pytest.raises(BadInput, match="two dimensions"):
        runtime_shape((BATCH, BATCH), "here")
    assert describe((BATCH, 3, 2 * BATCH)) == "(batch, 3, 2*batch)"


def test_a_fixed_batch_stays_fixed(tmp_path: Path) -> None:
    model = graph([n("Reshape", "x s", "y")], [6], {"s": ints(4, 3)})
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2
    path = tmp_path / "m.tflite"
    write_tflite(model, path)
    file = read_tflite(path)
    assert file.tensors[file.inputs[0]].shape == (2, 6)
    assert file.tensors[file.outputs[0]].shape == (4, 3)
