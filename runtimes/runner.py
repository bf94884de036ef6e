"""The one runner: loads a model in its runtime and runs, times or weighs it.

This file stands alone (standard library, numpy and one runtime; Python 3.9 or newer), so that the
very same text works as a module of sepdeploy, as a child process on this machine, and sent to a
device over ssh or into an emulator::

    python runner.py < job.json          # the result is the last line of standard output

A job is a JSON object; a result is one too. Common keys of a job:

    mode      "run" | "latency" | "memory" | "values" | "ranges" | "optimize"
    runtime   "onnxruntime" | "litert" | "tflite-runtime"; for "run" also "onnx.reference",
              the slow evaluator of the onnx package
    threads   1 by default
    memory_limit   bytes of address space the process may take, 0 = no limit
    native    {model path: native library that runs its custom nodes}, by default none;
              "reference" in its place: slow kernels in Python, for .tflite files only

``run``: ``model`` (path), ``inputs`` (.npy, float32, (N, *shape) as NCHW or NF), ``batches`` (list
of batch sizes: all N samples are run once per size), ``output`` (.npy to write, (sizes, N,
classes)); without ``output`` the logits stand in the result.

``latency``: ``models`` (list of {"name", "path"}), ``batch``, ``warmup``, ``min_rounds``,
``min_seconds``, ``max_seconds``, ``samples_per_round``, ``seed``. The models take turns in every
round, in an order that reverses from round to round. One sample is the mean of a block of runs
long enough for the clock to resolve it (``block_us``), in milliseconds.

``memory``: ``model``, ``batch``, ``runs``: time to load, and the resident memory before, after
loading and at its peak.

``values``: ``model``, ``inputs``, ``names``, ``output`` (.npz to write: "value0" is the first
name's): intermediate values of one run, quantised ones as what they stand for; an .onnx file must
declare them as outputs.

``ranges``: ``model``, ``inputs``, ``names``, ``batch``: the smallest and largest value that each
intermediate value takes over all inputs; an .onnx file must declare them as outputs.

``optimize``: ``model``, ``output``: writes the graph as ONNX Runtime optimises it.

Where native kernels may run, a result has ``native_calls``: how often they did in one run of each
model, summed up. Every result has ``ok``; when false, ``error`` (one line) and ``kind``:
"bad-input" (exit code 2), "missing" (4) or "internal" (70).
"""

from __future__ import annotations

import ctypes
import gc
import json
import math
import os
import platform
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

EXIT_CODES = {"bad-input": 2, "missing": 4, "internal": 70}
F32 = np.dtype(np.float32)
WEIGHTS_FILE = "optimized.weights"  # constants of an optimised graph, beside it
MOST_RUNS = 1 << 16  # in one timed block
MOST_VALUES = 1 << 31  # of one input
BOUND_SIZES = 4  # batch sizes whose buffers are kept per model

Array = np.ndarray[Any, Any]
Shape = tuple[int, ...]
Result = dict[str, Any]


class RunnerError(Exception):
    """An expected failure.

    Args:
        kind: "bad-input" or "missing".
        message: One line, what and where.
        hint: Next step.
    """

    def __init__(self, kind: str, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.kind = kind
        self.hint = hint


def one_line(error: object, limit: int = 300) -> str:
    """Return the text of an error as one line of at most ``limit`` characters."""
    text = " ".join(str(error).split())
    return text if len(text) <= limit else text[: limit - 1] + "…"


def wrong_batch(path: str, batch: Any, sample: Shape, fixed: int | None) -> RunnerError:
    """Return the error for a batch that does not fit, naming what was expected and found."""
    wanted = ", ".join([str(fixed) if fixed else "N", *map(str, sample)])
    found = (
        f"{batch.dtype} {tuple(batch.shape)}"
        if isinstance(batch, np.ndarray)
        else type(batch).__name__
    )
    hint = ""
    if isinstance(batch, np.ndarray) and batch.shape == sample:
        hint = "add the batch axis: batch[None]"
    elif isinstance(batch, np.ndarray) and batch.shape[1:] == sample and batch.dtype != F32:
        hint = "convert it: batch.astype(np.float32), values in [0, 1]"
    return RunnerError(
        "bad-input", f"{path}: expected a float32 array ({wanted}), found {found}", hint
    )


def fits(batch: Any, sample: Shape, fixed: int | None) -> bool:
    """Whether ``batch`` is a float32 array (N, *sample), N >= 1, or N == ``fixed``."""
    return (
        isinstance(batch, np.ndarray)
        and batch.dtype == F32
        and batch.ndim == len(sample) + 1
        and batch.shape[1:] == sample
        and batch.shape[0] >= 1
        and (fixed is None or batch.shape[0] == fixed)
    )


def _onnxruntime() -> Any:
    """Return the module; it must not be imported in any other way."""
    # Builds from 1.29 on report their use to their maker unless told not to before they start.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        import onnxruntime
    except ImportError as error:
        raise RunnerError(
            "missing", "onnxruntime is not installed", "pip install onnxruntime"
        ) from error
    return onnxruntime


class OrtModel:
    """An ONNX file in ONNX Runtime on the CPU.

    Input and output memory is bound once per batch size, so that a run is a copy in, the graph and
    a copy out. ``sample`` is the shape of one sample, ``fixed`` the batch size that the file
    insists on (None: any), ``metadata`` the file's own key-value entries. ``native`` is the library
    whose kernels take over the custom nodes, ``native_calls`` how often they did in a run, counted
    in the first one (0 before it).
    """

    name = "onnxruntime"

    def __init__(self, path: str, threads: int = 1, optimized: str = "", native: str = "") -> None:
        onnxruntime = _onnxruntime()
        self.path = path
        self.version = str(onnxruntime.__version__)
        options = _ort_options(onnxruntime, threads)
        self._count = _register(options, native) if native else _no_calls
        self.native_calls = 0
        if optimized:
            options.optimized_model_filepath = optimized
            for key, value in (
                ("session.optimized_model_external_initializers_file_name", WEIGHTS_FILE),
                ("session.optimized_model_external_initializers_min_size_in_bytes", "256"),
            ):
                options.add_session_config_entry(key, value)
        try:
            # By path, never by bytes: reading from bytes doubles the peak memory.
            self.session = onnxruntime.InferenceSession(
                path, options, providers=["CPUExecutionProvider"]
            )
            inputs, outputs = self.session.get_inputs(), self.session.get_outputs()
            entries = self.session.get_modelmeta().custom_metadata_map
        except Exception as error:  # the runtime has no common base class for its errors
            raise RunnerError(
                "bad-input", f"{path}: cannot be loaded: {one_line(error)}"
            ) from error
        if len(inputs) != 1 or not outputs:
            raise RunnerError(
                "bad-input",
                f"{path}: expected one input and at least one output, found {len(inputs)} "
                f"and {len(outputs)}",
            )
        output = next((o for o in outputs if o.name == "logits"), outputs[0])
        if inputs[0].type != "tensor(float)" or output.type != "tensor(float)":
            raise RunnerError(
                "bad-input",
                f"{path}: expected float32 input and output, found {inputs[0].type} "
                f"and {output.type}",
            )
        self._input, self._output = str(inputs[0].name), str(output.name)
        shape = list(inputs[0].shape)
        if len(shape) < 2 or not all(isinstance(n, int) and n > 0 for n in shape[1:]):
            raise RunnerError(
                "bad-input",
                f"{path}: expected an input (N, ...) of known size, found {shape}",
                "export it again with fixed sizes except for the batch",
            )
        self.sample: Shape = tuple(int(n) for n in shape[1:])
        self.fixed: int | None = shape[0] if isinstance(shape[0], int) else None
        if math.prod(self.sample) * (self.fixed or 1) > MOST_VALUES:
            raise RunnerError("bad-input", f"{path}: an input of {shape} fits into no memory")
        self.metadata: dict[str, str] = dict(entries)
        self._options = onnxruntime.RunOptions()
        self._options.add_run_config_entry("disable_synchronize_execution_providers", "1")
        self._bound: dict[Shape, tuple[Any, Array, Callable[[], Array]]] = {}

    def run(self, batch: Array) -> Array:
        """Return the logits (N, classes) of a float32 batch (N, *sample)."""
        try:
            invoke, source, copy_out = self._bound[batch.shape]
            if batch.dtype is not F32 and batch.dtype != F32:
                raise KeyError
        except (KeyError, AttributeError):
            invoke, source, copy_out = self._bind(batch)
        source[...] = batch  # 0.15 µs less than np.copyto, which looks for overrides first
        try:
            invoke()
        except Exception as error:
            raise self._failed(batch, error) from error
        return copy_out()

    def values(self, batch: Array, names: list[str]) -> dict[str, Array]:
        """Return outputs of one run by name; intermediate ones the file must declare as such."""
        known = [o.name for o in self.session.get_outputs() if o.name in names]
        if not known:
            return {}
        return dict(zip(known, self.session.run(known, {self._input: batch})))  # noqa: B905

    def _failed(self, batch: Array, error: Exception) -> RunnerError:
        return RunnerError(
            "bad-input", f"{self.path}: fails at batch {len(batch)}: {one_line(error)}"
        )

    def _bind(self, batch: Any) -> tuple[Any, Array, Callable[[], Array]]:
        if not fits(batch, self.sample, self.fixed):
            raise wrong_batch(self.path, batch, self.sample, self.fixed)
        source = np.array(batch, dtype=np.float32, order="C")
        calls = self._count()
        try:  # a first run tells the output's shape, which the file may leave open
            result = self.session.run([self._output], {self._input: source})[0]
        except Exception as error:
            raise self._failed(source, error) from error
        self.native_calls = self._count() - calls
        if result.ndim < 1 or result.shape[0] != len(source):
            raise RunnerError(
                "bad-input",
                f"{self.path}: expected {len(source)} rows of logits, found {result.shape}",
            )
        result = np.ascontiguousarray(result)
        binding = self.session.io_binding()
        for bind, name, array in (
            (binding.bind_input, self._input, source),
            (binding.bind_output, self._output, result),
        ):
            bind(name, "cpu", 0, np.float32, array.shape, array.ctypes.data)
        while len(self._bound) >= BOUND_SIZES:
            del self._bound[next(iter(self._bound))]
        self._bound[source.shape] = (self._invoker(binding), source, result.copy)
        return self._bound[source.shape]

    def _invoker(self, binding: Any) -> Callable[[], object]:
        """Return what runs a binding at the least cost.

        The public method makes new options on every call, and parses options given to it at 20 µs
        a run (1.31); the object it wraps takes ready ones, and costs 0.7 µs less.
        """
        inner = getattr(self.session, "_sess", None)
        handle = getattr(binding, "_iobinding", None)
        if inner is None or handle is None:
            return partial(self.session.run_with_iobinding, binding)
        return partial(inner.run_with_iobinding, handle, self._options)


def _ort_options(onnxruntime: Any, threads: int) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = threads
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 4
    # Without it int8 saturates on x86 cores that lack VNNI and differs from every ARM core.
    options.add_session_config_entry("session.x64quantprecision", "1")
    return options


def _no_calls() -> int:
    return 0


def _register(options: Any, native: str) -> Callable[[], int]:
    """Let a native library take over the nodes it has kernels for; return its call counter."""
    try:
        options.register_custom_ops_library(native)
        counter = ctypes.CDLL(native).sepdeploy_native_calls
    except Exception as error:
        raise RunnerError(
            "missing", f"native kernels in {native} cannot be loaded: {one_line(error)}"
        ) from error
    counter.restype = ctypes.c_ulonglong
    return lambda: int(counter())


class ReferenceModel:
    """An ONNX file in onnx's own evaluator: slow, made of Python, independent of ONNX Runtime."""

    name = "onnx.reference"
    native_calls = 0

    def __init__(self, path: str) -> None:
        try:
            import onnx
            from onnx.reference import ReferenceEvaluator
        except ImportError as error:
            raise RunnerError("missing", "onnx is not installed", "pip install onnx") from error
        self.path = path
        self.version = str(onnx.__version__)
        try:
            evaluator: Any = ReferenceEvaluator(path)
            info = evaluator.input_types_[0].tensor_type
            dims = [d.dim_value for d in info.shape.dim]
        except Exception as error:  # of many kinds, from several parsers
            raise RunnerError(
                "bad-input", f"{path}: cannot be loaded: {one_line(error)}"
            ) from error
        self._session = evaluator
        self.sample: Shape = tuple(dims[1:])
        self.fixed: int | None = dims[0] or None

    def run(self, batch: Array) -> Array:
        """Return the logits (N, classes) of a float32 batch (N, *sample)."""
        if not fits(batch, self.sample, self.fixed):
            raise wrong_batch(self.path, batch, self.sample, self.fixed)
        try:
            result: Array = self._session.run(None, {self._session.input_names[0]: batch})[0]
        except Exception as error:
            raise RunnerError("bad-input", f"{self.path}: fails: {one_line(error)}") from error
        return result


class TfliteModel:
    """A TFLite file in LiteRT or tflite-runtime on the CPU.

    The caller's layout is NCHW or NF; a rank-4 file has NHWC and int8 files their own scale: both
    are converted here. The graph is laid out again only when the batch size changes. ``native`` is
    the library, or "reference", whose kernels run the custom nodes, ``native_calls`` how often
    they did in a run, counted in the first one of a batch size.
    """

    def __init__(
        self,
        path: str,
        threads: int = 1,
        name: str = "litert",
        keep_values: bool = False,
        native: str = "",
    ) -> None:
        self.path = path
        self.name = name
        self.native_calls = 0
        self._count = _no_calls
        interpreter, self.version = _tflite_interpreter(name)
        if not Path(path).is_file():
            raise RunnerError("bad-input", f"{path}: no such file")
        options = _keeping(interpreter, keep_values)
        if native:
            delegate, self._count = _delegate(interpreter, native)
            options["experimental_delegates"] = [delegate]
        try:
            self._interpreter = interpreter(model_path=path, num_threads=threads, **options)
            self._interpreter.allocate_tensors()
            inputs = self._interpreter.get_input_details()
            outputs = self._interpreter.get_output_details()
        except Exception as error:
            raise RunnerError(
                "bad-input", f"{path}: cannot be loaded: {one_line(error)}"
            ) from error
        if len(inputs) != 1 or not outputs:
            raise RunnerError(
                "bad-input",
                f"{path}: expected one input and at least one output, found {len(inputs)} "
                f"and {len(outputs)}",
            )
        named = [o for o in outputs if o["name"] == "logits"]
        self._quantize = _affine(path, inputs[0])
        self._dequantize = _affine(path, (named or outputs)[0])
        self._in = int(inputs[0]["index"])
        self._out = int((named or outputs)[0]["index"])
        self._type = np.dtype(inputs[0]["dtype"])
        shape = [int(n) for n in inputs[0]["shape"]]
        signature = [int(n) for n in inputs[0].get("shape_signature", shape)]
        if len(signature) != len(shape):
            signature = shape
        if len(shape) < 2 or any(n < 1 for n in signature[1:]):
            raise RunnerError(
                "bad-input", f"{path}: expected an input (N, ...) of known size, found {signature}"
            )
        own = tuple(shape[1:])
        self.images = len(own) == 3
        self.sample: Shape = (own[2], own[0], own[1]) if self.images else own
        self._own = own
        self.fixed: int | None = None if signature[0] == -1 else shape[0]
        self._plain = self._quantize is None and self._dequantize is None and not self.images
        self._rows = shape[0]  # what the graph is laid out for
        self._shape: Shape | None = None  # the batch that may run at once
        self._set, self._invoke, self._get = self._calls()

    def _calls(self) -> tuple[Any, Any, Any]:
        """Return what sets a tensor, runs the graph and reads a tensor at the least cost.

        The public methods first look whether an array points into the interpreter; none is ever
        handed out here. The object they wrap costs 0.3 µs less in a run.
        """
        public = self._interpreter
        inner = getattr(public, "_interpreter", None)
        try:
            inner.GetTensor(self._in, 0)  # type: ignore[union-attr]
            return inner.SetTensor, inner.Invoke, inner.GetTensor  # type: ignore[union-attr]
        except (AttributeError, TypeError, ValueError):
            return (
                lambda index, value, _: public.set_tensor(index, value),
                public.invoke,
                lambda index, _: public.get_tensor(index),
            )

    def run(self, batch: Array) -> Array:
        """Return the logits (N, classes) of a float32 batch (N, *sample)."""
        try:
            if batch.shape != self._shape or batch.dtype is not F32:
                self._prepare(batch)
        except AttributeError:
            self._prepare(batch)
        try:
            self._set(self._in, batch if self._plain else self._to_own(batch), 0)
            self._invoke()
            result: Array = self._get(self._out, 0)
        except Exception as error:
            raise self._failed(batch, error) from error
        return result if self._dequantize is None else self._to_logits(result)

    def _failed(self, batch: Array, error: Exception) -> RunnerError:
        return RunnerError(
            "bad-input", f"{self.path}: fails at batch {len(batch)}: {one_line(error)}"
        )

    def _to_own(self, batch: Array) -> Array:
        """Return a batch in the file's own layout and type."""
        own = batch
        if self.images and self.sample[0] == 1:
            own = batch.reshape(-1, *self._own)
        elif self.images:
            own = np.ascontiguousarray(batch.transpose(0, 2, 3, 1))
        if self._quantize is not None:
            scale, zero = self._quantize
            limits = np.iinfo(self._type)
            own = np.clip(np.rint(own / scale) + zero, limits.min, limits.max).astype(self._type)
        return own

    def _to_logits(self, result: Array) -> Array:
        scale, zero = self._dequantize or (1.0, 0)
        logits: Array = (result.astype(np.float32) - np.float32(zero)) * np.float32(scale)
        return logits

    def _prepare(self, batch: Any) -> None:
        if not fits(batch, self.sample, self.fixed):
            raise wrong_batch(self.path, batch, self.sample, self.fixed)
        self._shape = None
        own = [len(batch), *self._own]
        try:
            if len(batch) != self._rows:
                self._rows = 0  # whatever happens between here and there, lay it out again
                self._lay_out(own)
                self._rows = len(batch)
            self._set(self._in, np.zeros(own, self._type), 0)
            calls = self._count()
            self._invoke()
            self.native_calls = self._count() - calls
            rows: Shape = self._get(self._out, 0).shape
        except Exception as error:
            raise self._failed(batch, error) from error
        if not rows or rows[0] != len(batch):
            raise RunnerError(
                "bad-input", f"{self.path}: expected {len(batch)} rows of logits, found {rows}"
            )
        self._shape = batch.shape

    def _lay_out(self, shape: list[int]) -> None:
        # The public methods refuse while anything else refers to the object that they wrap.
        self._set = self._invoke = self._get = None
        try:
            self._interpreter.resize_tensor_input(self._in, shape)
            self._interpreter.allocate_tensors()
        finally:
            self._set, self._invoke, self._get = self._calls()

    def values(self, batch: Array, names: list[str]) -> dict[str, Array]:
        """Return intermediate values of one run by tensor name (with ``keep_values``)."""
        self.run(batch)
        found = {t["name"]: t for t in self._interpreter.get_tensor_details()}
        return {name: self._value(found[name]) for name in names if name in found}

    def _value(self, tensor: dict[str, Any]) -> Array:
        """Return a tensor's value, a quantised one as what it stands for."""
        value: Array = self._get(int(tensor["index"]), 0)
        scale, zero = tensor["quantization"]
        if value.dtype.kind not in "iu" or not scale > 0:
            return value
        real: Array = (value.astype(np.float32) - np.float32(zero)) * np.float32(scale)
        return real


def _keeping(interpreter: Any, keep_values: bool) -> dict[str, Any]:
    """Return the options that keep intermediate values readable: no delegate may swallow them."""
    if not keep_values:
        return {}
    resolver = sys.modules[interpreter.__module__].OpResolverType
    return {
        "experimental_preserve_all_tensors": True,
        "experimental_op_resolver_type": resolver.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    }


def _delegate(interpreter: Any, native: str) -> tuple[Any, Callable[[], int]]:
    """Return what runs custom nodes in an interpreter, and its call counter."""
    try:
        if native == "reference":
            from sepdeploy.runtimes.native.reference import ReferenceDelegate

            reference = ReferenceDelegate()
            return reference, reference.calls
        counter = ctypes.CDLL(native).sepdeploy_native_calls
        delegate = sys.modules[interpreter.__module__].load_delegate(native)
    except Exception as error:
        raise RunnerError(
            "missing", f"{native} kernels for custom nodes cannot be loaded: {one_line(error)}"
        ) from error
    counter.restype = ctypes.c_ulonglong
    return delegate, lambda: int(counter())


def _tflite_interpreter(name: str) -> tuple[Any, str]:
    from importlib.metadata import version

    if name == "litert":
        try:
            from ai_edge_litert.interpreter import Interpreter
        except ImportError as error:
            raise RunnerError(
                "missing", "LiteRT is not installed", "pip install ai-edge-litert"
            ) from error
        return Interpreter, version("ai-edge-litert")
    if int(np.__version__.split(".")[0]) >= 2:
        raise RunnerError(
            "missing",
            f"tflite-runtime needs numpy < 2, found numpy {np.__version__}",
            "pip install 'numpy<2', or use LiteRT: pip install ai-edge-litert",
        )
    try:
        from tflite_runtime.interpreter import Interpreter as Older
    except ImportError as error:
        raise RunnerError(
            "missing",
            "tflite-runtime is not installed",
            "pip install 'tflite-runtime==2.14.0' 'numpy<2' (Python 3.11), or ai-edge-litert",
        ) from error
    return Older, version("tflite-runtime")


def _affine(path: str, tensor: dict[str, Any]) -> tuple[float, int] | None:
    """Return (scale, zero point) of an integer tensor, None of a float32 one."""
    kind = np.dtype(tensor["dtype"])
    if kind == F32:
        return None
    scale, zero = tensor["quantization"]
    if kind not in (np.dtype(np.int8), np.dtype(np.uint8), np.dtype(np.int16)) or not scale > 0:
        raise RunnerError(
            "bad-input",
            f"{path}: tensor '{tensor['name']}' is {kind} with scale {scale}; expected float32 "
            "or quantised int8/uint8/int16",
        )
    return float(scale), int(zero)


def load(runtime: str, path: str, threads: int = 1, native: str = "") -> Any:
    """Return the model in that runtime; ``native`` is the library for its custom nodes.

    Raises:
        RunnerError: "missing" when the runtime is absent, "bad-input" when the file is not usable.
    """
    if not isinstance(threads, int) or threads < 1:
        raise RunnerError("bad-input", f"threads must be at least 1, found {threads}")
    if runtime == "onnxruntime":
        return OrtModel(path, threads, native=native)
    if runtime in ("litert", "tflite-runtime"):
        return TfliteModel(path, threads, runtime, native=native)
    if runtime == ReferenceModel.name:
        return ReferenceModel(path)
    raise RunnerError("bad-input", f"unknown runtime '{runtime}'")


def _load(job: dict[str, Any], path: str) -> Any:
    """Return a model of a job."""
    return load(job["runtime"], path, job.get("threads", 1), _native(job, path))


def _native(job: dict[str, Any], path: str) -> str:
    """Return what runs a model's custom nodes."""
    return str((job.get("native") or {}).get(path, ""))


def _calls(job: dict[str, Any], models: list[Any]) -> Result:
    """Return what a result says about native kernels."""
    if not job.get("native"):
        return {}
    return {"native_calls": sum(getattr(model, "native_calls", 0) for model in models)}


def _kernels(job: dict[str, Any], entry: dict[str, Any], model: Any) -> Result:
    """Return which kernels ran a model's custom nodes, nothing where none did."""
    if not getattr(model, "native_calls", 0):
        return {}
    return {"kernels": "reference" if _native(job, entry["path"]) == "reference" else "native"}


def run_in_batches(model: Any, inputs: Array, batch: int) -> Array:
    """Return the logits of all inputs, run ``batch`` samples at a time.

    A file with a fixed batch size is fed that size, the last batch padded with its own last sample.
    """
    size = model.fixed or batch
    parts = []
    for start in range(0, len(inputs), size):
        part = inputs[start : start + size]
        short = size - len(part)
        if model.fixed and short:
            part = np.concatenate([part, np.repeat(part[-1:], short, axis=0)])
        result = model.run(part)
        parts.append(result[: len(result) - short] if model.fixed and short else result)
    return np.concatenate(parts)


def _inputs(job: dict[str, Any]) -> Array:
    try:
        inputs: Array = np.load(job["inputs"], allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise RunnerError("bad-input", f"inputs cannot be read: {one_line(error)}") from error
    return inputs


def job_run(job: dict[str, Any]) -> Result:
    """Run all inputs once per batch size."""
    inputs = _inputs(job)
    model = _load(job, job["model"])
    batches = [int(b) for b in job.get("batches", [len(inputs)])]
    if not len(inputs) or not batches or min(batches) < 1:
        raise RunnerError(
            "bad-input", "run needs at least one sample and batch sizes of at least 1"
        )
    logits = np.stack([run_in_batches(model, inputs, b) for b in batches])
    result: Result = {"version": model.version, "batches": batches, "shape": list(logits.shape)}
    result.update(_calls(job, [model]))
    if job.get("output"):
        with Path(job["output"]).open("wb") as file:
            np.save(file, logits, allow_pickle=False)
    else:
        result["logits"] = logits.tolist()
    return result


def _block_size(run: Callable[[Any], Any], batch: Array, block_us: float) -> int:
    """Return how many runs make a block of about ``block_us`` microseconds.

    The least of several tries decides, so that an interruption does not make the block too short.
    """
    runs = 1
    while True:
        spent = min(_spent_us(run, batch, runs) for _ in range(3))
        if spent >= block_us / 2 or runs >= MOST_RUNS:
            return min(MOST_RUNS, max(1, round(runs * block_us / max(spent, 0.01))))
        runs *= 2


def _spent_us(run: Callable[[Any], Any], batch: Array, runs: int) -> float:
    start = time.perf_counter_ns()
    for _ in range(runs):
        run(batch)
    return (time.perf_counter_ns() - start) / 1000


def job_latency(job: dict[str, Any]) -> Result:
    """Time several models in turns; every sample is the mean of one block of runs."""
    entries = job["models"]
    models = [_load(job, e["path"]) for e in entries]
    batch = int(job.get("batch", 1))
    generator = np.random.default_rng(job.get("seed", 0))
    if len({m.sample for m in models}) != 1:
        shapes = ", ".join(str(m.sample) for m in models)
        raise RunnerError("bad-input", f"the models take different inputs: {shapes}")
    inputs = generator.random((batch, *models[0].sample), dtype=np.float32)
    warmup = int(job.get("warmup", 5))
    sizes: list[int] = []
    for model in models:
        for _ in range(max(1, warmup)):
            model.run(inputs)
        sizes.append(_block_size(model.run, inputs, float(job.get("block_us", 200.0))))
    samples: list[list[float]] = [[] for _ in models]
    rounds = _rounds(job, models, sizes, inputs, samples)
    timed = [
        {
            "name": e["name"],
            "path": e["path"],
            "samples_ms": s,
            "block_runs": k,
            **_kernels(job, e, m),
        }
        for e, s, k, m in zip(entries, samples, sizes, models)  # noqa: B905  # Python 3.9
    ]
    return {
        "version": models[0].version,
        "models": timed,
        "batch": batch,
        "rounds": rounds,
        "warmup": warmup,
        "timer": "perf_counter_ns",
        **_calls(job, models),
    }


def _rounds(
    job: dict[str, Any],
    models: list[Any],
    sizes: list[int],
    inputs: Array,
    samples: list[list[float]],
) -> int:
    """Fill ``samples`` round by round; return the number of rounds."""
    min_rounds, per_round = int(job.get("min_rounds", 30)), int(job.get("samples_per_round", 1))
    min_ns = float(job.get("min_seconds", 1.0)) * 1e9
    max_ns = float(job.get("max_seconds", 60.0)) * 1e9
    clock = time.perf_counter_ns
    order = list(range(len(models)))
    rounds = 0
    collecting = gc.isenabled()
    gc.disable()
    try:
        began = clock()
        while True:
            for i in order:
                run, repeat = models[i].run, range(sizes[i])
                # The other model has emptied the caches; these runs fill them again.
                for _ in range(min(3, sizes[i])):
                    run(inputs)
                for _ in range(per_round):
                    start = clock()
                    for _ in repeat:
                        run(inputs)
                    samples[i].append((clock() - start) / sizes[i] / 1e6)
            order.reverse()
            rounds += 1
            spent = clock() - began
            if (rounds >= min_rounds and spent >= min_ns) or (rounds >= 3 and spent >= max_ns):
                return rounds
    finally:
        if collecting:
            gc.enable()


def resident() -> tuple[int, int]:
    """Return (peak, current) resident bytes of this process.

    From ``/proc/self/status`` (VmHWM, VmRSS); elsewhere the peak comes from getrusage, twice.
    """
    try:
        text = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
        fields = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
        return (
            int(fields["VmHWM"].split()[0]) * 1024,
            int(fields["VmRSS"].split()[0]) * 1024,
        )
    except (OSError, KeyError, ValueError, IndexError):
        import resource

        unit = 1 if sys.platform == "darwin" else 1024
        peak = int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * unit
        return peak, peak


def job_memory(job: dict[str, Any]) -> Result:
    """Load the model once, run it, and report time to load and resident memory in bytes."""
    runtime = job["runtime"]
    if runtime == "onnxruntime":
        _onnxruntime()  # its import is not part of loading the model
    else:
        _tflite_interpreter(runtime)
    _, before = resident()
    start = time.perf_counter_ns()
    model = _load(job, job["model"])
    load_ms = (time.perf_counter_ns() - start) / 1e6
    _, loaded = resident()
    batch = model.fixed or int(job.get("batch", 1))
    inputs = np.random.default_rng(0).random((batch, *model.sample), dtype=np.float32)
    start = time.perf_counter_ns()
    model.run(inputs)
    first_ms = (time.perf_counter_ns() - start) / 1e6
    for _ in range(int(job.get("runs", 5)) - 1):
        model.run(inputs)
    peak, after = resident()
    return {
        "version": model.version,
        "load_ms": load_ms,
        "first_run_ms": first_ms,
        "peak_rss_bytes": peak,
        "rss_before_bytes": before,
        "rss_loaded_bytes": loaded,
        "rss_after_bytes": after,
        "batch": batch,
        **_calls(job, [model]),
    }


def job_values(job: dict[str, Any]) -> Result:
    """Write intermediate values of one run of all inputs."""
    inputs = _inputs(job)
    names = [str(name) for name in job["names"]]
    model = _keeping_values(job)
    found = model.values(inputs, names)
    with Path(job["output"]).open("wb") as file:
        np.savez(file, **{f"value{names.index(name)}": value for name, value in found.items()})
    return {"version": model.version, "found": list(found)}


def job_ranges(job: dict[str, Any]) -> Result:
    """Find the smallest and largest value of each named intermediate value over all inputs."""
    inputs = _inputs(job)
    names = [str(name) for name in job["names"]]
    model = _keeping_values(job)
    batch = model.fixed or int(job.get("batch", 16))
    ranges: dict[str, list[float]] = {}
    usable = len(inputs) - (len(inputs) % batch if model.fixed else 0)
    for start in range(0, usable, batch):
        for name, value in model.values(inputs[start : start + batch], names).items():
            low, high = float(value.min()), float(value.max())
            before = ranges.get(name, [low, high])
            ranges[name] = [min(low, before[0]), max(high, before[1])]
    return {"version": model.version, "ranges": ranges}


def _keeping_values(job: dict[str, Any]) -> Any:
    """Return the model in a form that keeps its intermediate values."""
    if job["runtime"] == "onnxruntime":
        return OrtModel(job["model"], job.get("threads", 1))
    return TfliteModel(
        job["model"],
        job.get("threads", 1),
        job["runtime"],
        keep_values=True,
        native=_native(job, job["model"]),  # a custom node has no other way to run
    )


def job_optimize(job: dict[str, Any]) -> Result:
    """Write the graph as ONNX Runtime optimises it, its constants in a file beside it."""
    if job["runtime"] != "onnxruntime":
        raise RunnerError("bad-input", f"{job['runtime']} does not write optimised graphs")
    model = OrtModel(job["model"], job.get("threads", 1), optimized=job["output"])
    return {"version": model.version}


MODES: dict[str, Callable[[dict[str, Any]], Result]] = {
    "run": job_run,
    "latency": job_latency,
    "memory": job_memory,
    "values": job_values,
    "ranges": job_ranges,
    "optimize": job_optimize,
}


def execute(job: Any) -> Result:
    """Do one job; every failure becomes a result with ``ok`` false."""
    try:
        if not isinstance(job, dict) or job.get("mode") not in MODES:
            raise RunnerError("bad-input", f"job needs a mode out of {', '.join(MODES)}")
        _limit_memory(int(job.get("memory_limit", 0)))
        result = MODES[job["mode"]](job)
    except RunnerError as error:
        return {"ok": False, "error": str(error), "kind": error.kind, "hint": error.hint}
    except ImportError as error:
        return {"ok": False, "error": one_line(error), "kind": "missing", "hint": ""}
    except MemoryError:
        return {"ok": False, "error": "out of memory", "kind": "bad-input", "hint": ""}
    except Exception as error:  # the reader of the JSON must always get an answer
        text = f"{type(error).__name__}: {one_line(error)}"
        return {"ok": False, "error": text, "kind": "internal", "hint": ""}
    facts = {
        "runtime": job["runtime"],
        "threads": job.get("threads", 1),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "machine": platform.machine(),
    }
    return {"ok": True, "mode": job["mode"], **facts, **result}


def _limit_memory(limit: int) -> None:
    """Keep a hostile file from taking all memory of the machine."""
    if limit > 0:
        import resource

        _, most = resource.getrlimit(resource.RLIMIT_AS)  # may only be lowered
        limit = limit if most == resource.RLIM_INFINITY else min(limit, most)
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def main() -> int:
    """Read a job from standard input, print the result as the last line of standard output."""
    try:
        job = json.load(sys.stdin)
    except ValueError as error:
        job = None
        sys.stderr.write(f"job is not JSON: {one_line(error)}\n")
    result = execute(job)
    sys.stdout.flush()
    sys.stdout.write("\n" + json.dumps(result) + "\n")
    sys.stdout.flush()
    return 0 if result["ok"] else EXIT_CODES.get(result["kind"], 70)


if __name__ == "__main__":
    code = main()
    # Runtimes may crash while tearing down threads; the answer is already out.
    os._exit(code)
