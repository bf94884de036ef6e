"""Tries a native library out: ``python -m sepdeploy.runtimes.native.selftest LIBRARY WHAT``.

LIBRARY may be "reference", the kernels in Python. WHAT is "kernels" (the layers by themselves, in
the kernel set that this processor gets) or the name of a runtime (the ops inside it). Meant for a
child process: a library that does not fit its runtime may crash. Exit code 0 if all results are
right; else the last line says what is wrong.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sepdeploy.files import scratch

Array = NDArray[np.float32]
TOLERANCE = 1e-5
FLOATS = ctypes.POINTER(ctypes.c_float)
# in_shape, out_shape, terms: every form of step, sums of terms, sizes that fill no vector
KRON = (
    ((64, 64), (64, 64), 1),
    ((28, 28), (16, 32), 1),
    ((3, 5), (7, 2), 3),
    ((40, 4), (33, 4), 1),
    ((9, 16), (21, 16), 2),
    ((8, 4, 6), (5, 8, 3), 2),
    ((1, 130), (1, 70), 1),
    ((3, 700), (5, 90), 2),
)
LOWRANK = ((100, 70, 5), (64, 128, 40), (7, 3, 1), (1100, 50, 9))  # inputs, outputs, rank
SAMPLES = (1, 3, 17)


class WrongError(Exception):
    """A result that differs from the reference."""


def dense_kron(factors: list[Array]) -> NDArray[np.float64]:
    """Return Σ_k F_1k ⊗ … ⊗ F_dk."""
    total = 0
    for term in zip(*factors, strict=True):
        matrix = term[0].astype(np.float64)
        for factor in term[1:]:
            matrix = np.kron(matrix, factor)
        total = total + matrix
    return np.asarray(total)


def compare(found: Array, wanted: NDArray[np.float64], what: str) -> None:
    """Raise `WrongError` where results differ by more than rounding."""
    if found.shape != wanted.shape:
        raise WrongError(f"{what}: shape {found.shape} in place of {wanted.shape}")
    error = float(np.abs(found - wanted).max() / max(1e-30, np.abs(wanted).max()))
    if not error <= TOLERANCE:
        raise WrongError(f"{what}: relative error {error:.1e}")


class Direct:
    """The layers of a library as C functions."""

    def __init__(self, path: str) -> None:
        self.library = library = ctypes.CDLL(path)
        longs = ctypes.POINTER(ctypes.c_long)
        library.sepdeploy_native_kron.argtypes = [
            ctypes.c_long, longs, longs, ctypes.c_long, ctypes.POINTER(FLOATS), FLOATS,
        ]  # fmt: skip
        library.sepdeploy_native_kron.restype = ctypes.c_void_p
        library.sepdeploy_native_lowrank.argtypes = [ctypes.c_long] * 3 + [FLOATS] * 3
        library.sepdeploy_native_lowrank.restype = ctypes.c_void_p
        library.sepdeploy_native_run.argtypes = [ctypes.c_void_p, FLOATS, FLOATS, ctypes.c_long]
        library.sepdeploy_native_free.argtypes = [ctypes.c_void_p]
        library.sepdeploy_native_set.restype = ctypes.c_char_p
        library.sepdeploy_native_calls.restype = ctypes.c_ulonglong

    @property
    def kernel_set(self) -> str:
        """Name of the kernel set in use."""
        return str(self.library.sepdeploy_native_set().decode())

    def kron(self, factors: list[Array], bias: Array, x: Array) -> Array:
        """Run a Kronecker layer on rows of ``x``."""
        d = len(factors)
        sizes = [(ctypes.c_long * d)(*(f.shape[axis] for f in factors)) for axis in (2, 1)]
        pointers = (FLOATS * d)(*(_pointer(f) for f in factors))
        terms = factors[0].shape[0]
        layer = self.library.sepdeploy_native_kron(d, *sizes, terms, pointers, _pointer(bias))
        return self._run(layer, x, len(bias))

    def lowrank(self, u: Array, v: Array, bias: Array, x: Array) -> Array:
        """Run a low-rank layer on rows of ``x``."""
        sizes = (len(u), len(v), u.shape[1])
        pointers = (_pointer(u), _pointer(v), _pointer(bias))
        layer = self.library.sepdeploy_native_lowrank(*sizes, *pointers)
        return self._run(layer, x, len(bias))

    def _run(self, layer: Any, x: Array, outputs: int) -> Array:
        if not layer:
            raise WrongError("a layer could not be made")
        try:
            y = np.full((len(x), outputs), np.nan, np.float32)
            if self.library.sepdeploy_native_run(layer, _pointer(x), _pointer(y), len(x)):
                raise WrongError("a layer could not run")
            return y
        finally:
            self.library.sepdeploy_native_free(layer)


def _pointer(array: Array) -> Any:
    if array.dtype != np.float32 or not array.flags.c_contiguous:
        raise WrongError("arrays must be contiguous float32")
    return array.ctypes.data_as(FLOATS)


def try_kernels(path: str) -> None:
    """Compare the layers with dense matrices.

    Raises:
        WrongError: They differ.
    """
    direct, rng = Direct(path), np.random.default_rng(0)
    for in_shape, out_shape, terms in KRON:
        sizes = zip(out_shape, in_shape, strict=True)
        factors = [rng.standard_normal((terms, o, i), dtype=np.float32) for o, i in sizes]
        matrix = dense_kron(factors)
        bias = rng.standard_normal(len(matrix), dtype=np.float32)
        for n in SAMPLES:
            x = rng.standard_normal((n, matrix.shape[1]), dtype=np.float32)
            what = f"{direct.kernel_set}: Kronecker {in_shape} to {out_shape}, {terms} terms, {n}"
            compare(direct.kron(factors, bias, x), x @ matrix.T + bias, what)
    for inputs, outputs, rank in LOWRANK:
        u = rng.standard_normal((inputs, rank), dtype=np.float32)
        v = rng.standard_normal((outputs, rank), dtype=np.float32)
        bias = rng.standard_normal(outputs, dtype=np.float32)
        for n in SAMPLES:
            x = rng.standard_normal((n, inputs), dtype=np.float32)
            wanted = (x.astype(np.float64) @ u) @ v.T + bias
            what = f"{direct.kernel_set}: low rank {inputs}, {outputs}, {rank}, {n}"
            compare(direct.lowrank(u, v, bias, x), wanted, what)


def try_onnxruntime(path: str) -> None:
    """Run a graph of both ops, without function bodies, and compare with dense matrices.

    Raises:
        WrongError: The results differ, or the kernels were not called.
    """
    import onnx

    from sepdeploy.runtimes.runner.ort import OrtModel

    factors, u, v, biases = _weights()
    with scratch() as folder:
        file = folder / "ops.onnx"
        onnx.save(_graph(factors, u, v, *biases), str(file))
        _compare_model(OrtModel(str(file), native=path), "onnxruntime")


def try_tflite(path: str, runtime: str) -> None:
    """Run a file of both custom nodes in a TFLite runtime and compare with dense matrices.

    Raises:
        WrongError: The results differ, or the kernels were not called.
    """
    from sepdeploy.runtimes.native.tiny_tflite import two_nodes
    from sepdeploy.runtimes.runner.tflite import TfliteModel

    factors, u, v, biases = _weights()
    with scratch() as folder:
        file = folder / "ops.tflite"
        first = {"F1": factors[0], "F2": factors[1], "b1": biases[0]}
        file.write_bytes(two_nodes(first, {"U": u, "V": v, "b2": biases[1]}))
        _compare_model(TfliteModel(str(file), name=runtime, native=path), runtime)


def _weights() -> tuple[list[Array], Array, Array, tuple[Array, Array]]:
    rng = np.random.default_rng(0)
    factors = [rng.standard_normal((2, o, i), dtype=np.float32) for o, i in ((5, 4), (6, 9))]
    u, v = rng.standard_normal((30, 3), np.float32), rng.standard_normal((11, 3), np.float32)
    return factors, u, v, (rng.standard_normal(30, np.float32), rng.standard_normal(11, np.float32))


def _compare_model(model: Any, runtime: str) -> None:
    factors, u, v, biases = _weights()
    rng = np.random.default_rng(1)
    for n in SAMPLES:
        x = rng.standard_normal((n, 36), dtype=np.float32)
        inner = x @ dense_kron(factors).T + biases[0]
        compare(model.run(x), (inner @ u) @ v.T + biases[1], f"{runtime}, {n}")
        if model.native_calls != 2:
            raise WrongError(f"{runtime} called the kernels {model.native_calls} times, not 2")


def _graph(factors: list[Array], u: Array, v: Array, first: Array, second: Array) -> Any:
    from onnx import TensorProto, helper, numpy_helper

    arrays = {"F1": factors[0], "F2": factors[1], "b1": first, "U": u, "V": v, "b2": second}
    nodes = [
        helper.make_node(
            "KronLinear", ["input", "F1", "F2", "b1"], ["inner"], domain="ai.sepdeploy",
            in_shape=[f.shape[2] for f in factors], out_shape=[f.shape[1] for f in factors],
            terms=len(factors[0]),
        ),
        helper.make_node(
            "LowRankLinear", ["inner", "U", "V", "b2"], ["logits"], domain="ai.sepdeploy"
        ),
    ]  # fmt: skip
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", size])
        for name, size in (("input", 36), ("logits", len(v)))
    ]
    tensors = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    graph = helper.make_graph(nodes, "ops", ends[:1], ends[1:], tensors)
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("ai.sepdeploy", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


TESTS: dict[str, Callable[[str], None]] = {
    "kernels": try_kernels,
    "onnxruntime": try_onnxruntime,
    "litert": partial(try_tflite, runtime="litert"),
    "tflite-runtime": partial(try_tflite, runtime="tflite-runtime"),
}


def main(arguments: list[str]) -> int:
    """Run one test; return the exit code."""
    path, what = arguments
    if what not in TESTS:
        print(f"no kernels for {what}", file=sys.stderr)
        return 1
    try:
        TESTS[what](path)
    except WrongError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
