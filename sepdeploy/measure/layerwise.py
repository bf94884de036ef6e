"""Which layer makes an artifact deviate from the canonical graph?"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import ModelProto, TensorProto, helper
from onnx.reference import ReferenceEvaluator

from sepdeploy import runtimes
from sepdeploy.exporters.bodies import with_bodies
from sepdeploy.exporters.plan import plan
from sepdeploy.measure.child import run_job, scratch
from sepdeploy.measure.resident_graph import tflite_file

Array = npt.NDArray[np.float32]
PROTOBUF_LIMIT = 2**31 - 1
SAMPLES = 2  # enough to find a wrong layer; the reference evaluates slowly


def value_deviations(
    path: str | os.PathLike[str], runtime: str, images: Array, canonical: ModelProto
) -> dict[str, float]:
    """Compare every activation that both graphs name with the reference evaluator's.

    Args:
        path: The artifact.
        runtime: A name of ``runtimes.RUNTIMES``.
        images: float32 (N, *shape); the first two are used.
        canonical: The canonical graph with its weights.

    Returns:
        Value name to max|Δ| / max|reference|, in graph order.

    Raises:
        BadInput: The file is not usable.
        Missing: The runtime is not installed.
    """
    names = [output for node in canonical.graph.node for output in node.output if output]
    images = images[:SAMPLES]
    expected = reference_values(canonical, images, names)
    named = file_names(path, canonical)
    held = runtime_values(path, runtime, images, sorted(set(named.values())))
    found = {name: held[own] for name, own in named.items() if own in held}
    deviations = {}
    for name, reference in expected.items():
        value = found.get(name)
        if value is None or reference.dtype != np.float32 or len(reference) != len(images):
            continue
        if value.size == reference.size:
            deviations[name] = _deviation(value, reference)
    return deviations


def _deviation(value: Array, reference: Array) -> float:
    """Return max|Δ| / max|reference|, whatever the order of the values within a sample.

    A file may keep an activation transposed; sorting hides a wrong order, but not from the next
    layer's values.
    """
    scale = float(np.abs(reference).max()) or 1.0
    rows = [np.sort(a.astype(np.float64).reshape(len(reference), -1)) for a in (value, reference)]
    worst = float(np.abs(rows[0] - rows[1]).max()) / scale
    return worst if np.isfinite(worst) else float("inf")


def file_names(path: str | os.PathLike[str], canonical: ModelProto) -> dict[str, str]:
    """Return the name in the file of each canonical activation that it names.

    An .onnx file keeps the names. In a .tflite file a tensor "<node>/..." is that node's result if
    no operator that reads it reads the node's constants as well.

    Raises:
        BadInput: The file is not usable.
    """
    outputs = {output: node for node in canonical.graph.node for output in node.output if output}
    if runtimes.file_format(path) == "onnx":
        return {name: name for name in outputs}
    graph = tflite_file(path)
    computed = {output for node in graph.nodes for output in node.outputs}
    found = {}
    for value, node in outputs.items():
        prefix = f"{node.name}/"
        inner = {
            name
            for reader in graph.nodes
            if any(c.startswith(prefix) and c not in computed for c in reader.inputs)
            for name in reader.inputs
        }
        own = [t for n in graph.nodes for t in n.outputs if t.startswith(prefix)]
        results = [value] if value in computed else [t for t in own if t not in inner]
        if results:
            found[value] = results[-1]
    return found


def faulty_layer(
    path: str | os.PathLike[str],
    runtime: str,
    images: Array,
    canonical: ModelProto,
    tolerance: float,
) -> str:
    """Return the name of the layer where an artifact begins to deviate, "" where none is found.

    An error travels on through the layers behind, so the first value beyond the tolerance tells
    where it arises: in the layer between that value and those known to be right.

    Raises:
        BadInput: The file is not usable.
        Missing: The runtime is not installed.
    """
    deviations = value_deviations(path, runtime, images, canonical)
    first = next((name for name, d in deviations.items() if not d <= tolerance), None)
    if first is None:
        return ""
    weights = {tensor.name for tensor in canonical.graph.initializer}
    source = {output: node for node in canonical.graph.node for output in node.output}
    queue, candidates = [first], []
    while queue:
        node = source[queue.pop(0)]
        candidates.append(node)
        queue += [name for name in node.input if name in source and name not in deviations]
    holding = [node for node in candidates if node.domain or weights.intersection(node.input)]
    return str((holding or candidates)[0].name)


def reference_values(canonical: ModelProto, images: Array, names: list[str]) -> dict[str, Array]:
    """Return values of the canonical graph by name, from the slow reference evaluator."""
    model = with_bodies(canonical, plan(canonical, "onnx"))
    declare_outputs(model, names)
    (source,) = (i.name for i in model.graph.input)
    values = ReferenceEvaluator(model).run(names, {source: images})
    return dict(zip(names, values, strict=True))


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
