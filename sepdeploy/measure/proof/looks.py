"""How the files of each format are looked into; one row a format."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import ModelProto, TensorProto, helper

from sepdeploy import runtimes
from sepdeploy.errors import NEW_FILE, BadInput
from sepdeploy.exporters.formats import ONNX, PROTOBUF_LIMIT, TFLITE
from sepdeploy.exporters.tflite_file import read_tflite
from sepdeploy.measure.proof.resident_graph import ResidentGraph, optimized_onnx, tflite_file

REDUCED = {"float16", "int8", "uint8", "int4", "int16"}
ONNX_REDUCED = (TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.INT8, TensorProto.UINT8)


@dataclass(frozen=True)
class Shown:
    """A file that gives values back, and the name of its input where it does not give that."""

    path: Path
    given: str = ""


@dataclass(frozen=True)
class Look:
    """One row: what can be learnt of a format's files, and how.

    Attributes:
        resident: The graph as a runtime keeps it.
        show: Makes a file that gives values back by their names, in a folder.
        keeps_names: Values keep the names of the canonical graph; else they are found by place.
        reduced: Whether weights are kept in less than float32.
        graph: Reads the file's own ONNX graph without weights; None where it holds no such.
    """

    resident: Callable[[Path], ResidentGraph]
    show: Callable[[Path, Sequence[str], Path], Shown]
    keeps_names: bool
    reduced: Callable[[Path], bool]
    graph: Callable[[Path], ModelProto] | None


def look(path: str | os.PathLike[str]) -> Look:
    """Return how a file is looked into.

    Raises:
        BadInput: No such file, or of another format.
    """
    return LOOKS[runtimes.file_format(path)]


def declare_outputs(model: ModelProto, names: Sequence[str]) -> None:
    """Declare values of the graph as outputs; those that it lacks are passed over."""
    known = {output for node in model.graph.node for output in node.output}
    present = {output.name for output in model.graph.output}
    types = _element_types(model)
    for name in names:
        if name in known - present:
            kind = types.get(name, TensorProto.FLOAT)
            model.graph.output.append(helper.make_tensor_value_info(name, kind, None))
            present.add(name)


def _element_types(model: ModelProto) -> dict[str, int]:
    """Return the element types that can be told; nothing for graphs of float32 alone."""
    kinds = {tensor.data_type for tensor in model.graph.initializer}
    if not kinds - {TensorProto.FLOAT, TensorProto.INT64} or model.ByteSize() > PROTOBUF_LIMIT:
        return {}
    inferred = onnx.shape_inference.infer_shapes(model).graph.value_info
    return {v.name: v.type.tensor_type.elem_type for v in inferred if v.type.tensor_type.elem_type}


def _show_onnx(path: Path, names: Sequence[str], folder: Path) -> Shown:
    model = onnx.load(str(path))
    declare_outputs(model, names)
    large = model.ByteSize() > PROTOBUF_LIMIT
    onnx.save(model, str(folder / "declared.onnx"), save_as_external_data=large)
    return Shown(folder / "declared.onnx", model.graph.input[0].name)


def _reduced_onnx(path: Path) -> bool:
    model = onnx.load(str(path), load_external_data=False)
    return any(t.data_type in ONNX_REDUCED and len(t.dims) > 1 for t in model.graph.initializer)


def _reduced_tflite(path: Path) -> bool:
    kinds = {t.dtype for t in read_tflite(path).tensors if t.constant_bytes > 4}
    return bool(kinds & REDUCED)


def _graph_onnx(path: Path) -> ModelProto:
    try:
        return onnx.load(str(path), load_external_data=False)
    except Exception as error:  # protobuf has no common base class for what it raises
        raise BadInput(f"{path}: cannot be read as ONNX", hint=NEW_FILE) from error


LOOKS: dict[str, Look] = {
    ONNX.name: Look(optimized_onnx, _show_onnx, True, _reduced_onnx, _graph_onnx),
    TFLITE.name: Look(tflite_file, lambda path, *_: Shown(path), False, _reduced_tflite, None),
}
