"""Run .tflite files in every installed runtime and compare with an oracle."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from sepdeploy.exporters.tflite_file import TfliteFile, read_tflite
from sepdeploy.exporters.tflite_file.write import write_tflite

Array = NDArray[Any]
BATCHES = (1, 3, 32)
TOLERANCE = 1e-5
DOMAIN = "ai.sepdeploy"


def _interpreters() -> dict[str, Any]:
    found = {}
    for name, module in {
        "litert": "ai_edge_litert.interpreter",
        "tflite-runtime": "tflite_runtime.interpreter",
    }.items():
        try:
            found[name] = importlib.import_module(module).Interpreter
        except ImportError:
            continue
    return found


INTERPRETERS = _interpreters()


def run(path: Path, batch: Array, runtime: str) -> list[Array]:
    """Run a batch as it stands in the file's own input layout."""
    interpreter = INTERPRETERS[runtime](model_path=str(path), num_threads=1)
    (details,) = interpreter.get_input_details()
    interpreter.resize_tensor_input(details["index"], batch.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(details["index"], batch)
    interpreter.invoke()
    return [interpreter.get_tensor(o["index"]) for o in interpreter.get_output_details()]


def graph(
    nodes: Sequence[onnx.NodeProto],
    shape: Sequence[int | str | None],
    constants: Mapping[str, Array] | None = None,
    *,
    opset: int = 20,
    dtype: int = onnx.TensorProto.FLOAT,
    outputs: Sequence[str] = ("y",),
) -> onnx.ModelProto:
    """Return a model with input "x" of (batch, *shape)."""
    info = helper.make_tensor_value_info("x", dtype, ["batch", *shape])
    outs = [helper.make_value_info(o, onnx.TypeProto()) for o in outputs]
    weights = [numpy_helper.from_array(v, k) for k, v in (constants or {}).items()]
    proto = helper.make_graph(list(nodes), "g", [info], outs, weights)
    domains = [helper.make_opsetid("", opset), helper.make_opsetid(DOMAIN, 1)]
    return helper.make_model(proto, opset_imports=domains, ir_version=10)


def onnxruntime_oracle(model: onnx.ModelProto) -> Callable[[Array], list[Array]]:
    """Return the function that a model is, computed by ONNX Runtime as it is written."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    inferred = onnx.shape_inference.infer_shapes(model)
    session = ort.InferenceSession(inferred.SerializeToString(), options)
    return lambda x: list(session.run(None, {session.get_inputs()[0].name: x}))


def check(
    model: onnx.ModelProto,
    shape: Sequence[int],
    folder: Path,
    *,
    oracle: Callable[[Array], list[Array]] | None = None,
    tolerance: float = TOLERANCE,
    dtype: Any = np.float32,
    low: float = -1.0,
    high: float = 1.0,
    **options: Any,
) -> TfliteFile:
    """Assert that the written file equals the oracle in every runtime, for several batches."""
    oracle = oracle or onnxruntime_oracle(model)
    path = folder / "model.tflite"
    write_tflite(model, path, **options)
    rng = np.random.default_rng(0)
    for size in BATCHES:
        x = rng.uniform(low, high, (size, *shape)).astype(dtype)
        wanted = oracle(x)
        own = x.transpose(0, 2, 3, 1) if x.ndim == 4 else x
        for runtime in INTERPRETERS:
            found = run(path, np.ascontiguousarray(own), runtime)
            assert len(found) == len(wanted)
            for got, want in zip(found, wanted, strict=True):
                assert got.shape == want.shape
                scale = max(float(np.abs(want).max()), 1e-9)
                error = float(np.abs(got.astype(np.float64) - want).max()) / scale
                assert error <= tolerance, (runtime, size, error)
    return read_tflite(path)


def kron_matrix(factors: Sequence[Array]) -> Array:
    """Return sum_k A_1k ⊗ ... ⊗ A_dk in float64 from factors (K, o, i)."""
    wide = [f.astype(np.float64) for f in factors]
    terms = range(wide[0].shape[0])
    total = [reduce(np.kron, [f[k] for f in wide]) for k in terms]
    return np.asarray(sum(total))
