"""The activations of an artifact, by the names that its file gives them."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import ModelProto, TensorProto, helper

from sepdeploy import runtimes
from sepdeploy.exporters.formats import PROTOBUF_LIMIT
from sepdeploy.measure.child import run_job, scratch

Array = npt.NDArray[np.float32]


def runtime_values(
    path: str | os.PathLike[str], runtime: str, images: Array, names: list[str]
) -> dict[str, Array]:
    """Return values of an artifact by name, as far as its file names them.

    Raises:
        BadInput: The file is not usable.
        Missing: The runtime is not installed.
    """
    with scratch() as folder:
        model = Path(path)
        if runtimes.file_format(path) == "onnx":
            proto = onnx.load(str(path))
            declare_outputs(proto, names)
            model = folder / "declared.onnx"
            onnx.save(proto, str(model))
        np.save(folder / "inputs.npy", images, allow_pickle=False)
        job = {
            "mode": "values",
            "runtime": runtime,
            "model": str(model),
            "inputs": str(folder / "inputs.npy"),
            "names": names,
            "output": str(folder / "values.npz"),
        }
        found = run_job(job)["found"]
        with np.load(folder / "values.npz", allow_pickle=False) as arrays:
            return {name: arrays[f"value{names.index(name)}"] for name in found}


def declare_outputs(model: ModelProto, names: list[str]) -> None:
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
