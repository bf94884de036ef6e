"""TFLite files in LiteRT or in the older tflite-runtime."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from sepdeploy.runtimes.runner.contract import (
    F32,
    Array,
    RunnerError,
    Shape,
    check_counts,
    fits,
    known_feeds,
    no_calls,
    one_line,
    wrong_batch,
)
from sepdeploy.runtimes.runner.ports import main_output, random_feeds, with_shapes
from sepdeploy.runtimes.runner.table import RUNTIMES
from sepdeploy.runtimes.runner.tflite_ports import (
    TO_CALLER,
    TO_FILE,
    as_own,
    named_tensors,
    port_of,
    turned,
)


def prepare(runtime: str) -> tuple[Any, str]:
    """Return a runtime's interpreter and version.

    Raises:
        RunnerError: It is not installed, or cannot work with this numpy.
    """
    row = RUNTIMES[runtime]
    if row.numpy_below is not None and int(np.__version__.split(".")[0]) >= row.numpy_below:
        raise RunnerError(
            "missing",
            f"{runtime} needs numpy < {row.numpy_below}, found numpy {np.__version__}",
            f"pip install 'numpy<{row.numpy_below}', or use LiteRT: pip install ai-edge-litert",
        )
    try:
        interpreter = import_module(f"{row.module}.interpreter").Interpreter
    except ImportError as error:
        raise RunnerError("missing", f"{runtime} is not installed", row.hint) from error
    return interpreter, version(row.distribution)


def open_model(
    runtime: str, path: str, threads: int, native: str, keep_values: bool
) -> TfliteModel:
    """Return a TFLite file in one of the two runtimes."""
    return TfliteModel(path, threads, runtime, keep_values, native)


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
        self._count = no_calls
        interpreter, self.version = prepare(name)
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
        self._ins, self._outs = named_tensors(self._interpreter, inputs, outputs)
        self.inputs = tuple(port_of(name, tensor) for name, tensor in self._ins.items())
        self.outputs = tuple(port_of(name, tensor) for name, tensor in self._outs.items())
        self._own_inputs = self.inputs
        self.sample: Shape = ()
        self.fixed: int | None = None
        self._own: Shape = ()  # of a sample, as the file has it
        self.images = False
        self._quantize: tuple[float, int] | None = None
        self._dequantize: tuple[float, int] | None = None
        self._in = self._out = 0
        self._type = np.dtype(F32)
        self.refusal: RunnerError | None = self._plainly()
        shape = [int(n) for n in inputs[0]["shape"]] if inputs else [0]
        self._rows = shape[0] if shape else 0  # what the graph is laid out for
        self._shape: Shape | None = None  # the batch that may run at once
        self._laid_out: dict[str, list[int]] = {}  # what ``run_named`` laid the graph out for
        self._set, self._invoke, self._get = self._calls()

    def _plainly(self) -> RunnerError | None:
        """Find the one sample that ``run`` takes; return why there is none."""
        path = self.path
        try:
            check_counts(path, len(self.inputs), len(self.outputs))
            given = self._ins[self.inputs[0].name]
            named = [t for t in self._outs.values() if t["name"] == "logits"]
            output = named[0] if named else self._outs[self._main()]
            self._quantize, self._dequantize = _affine(path, given), _affine(path, output)
            self._in, self._out = int(given["index"]), int(output["index"])
            self._type = np.dtype(given["dtype"])
            shape = [-1 if isinstance(n, str) else n for n in self.inputs[0].shape]
            if len(shape) < 2 or any(n < 1 for n in shape[1:]):
                raise RunnerError(
                    "bad-input", f"{path}: expected an input (N, ...) of known size, found {shape}",
                    f"fix its sizes: --input-shape {self.inputs[0].name}=1,...",
                )  # fmt: skip
            self._own = own = tuple(shape[1:])
            self.images = len(own) == 3
            self.sample = (own[2], own[0], own[1]) if self.images else own
            self.fixed = None if shape[0] == -1 else shape[0]
            self._plain = self._quantize is None and self._dequantize is None and not self.images
        except RunnerError as error:
            return error.with_traceback(None)  # which holds this model
        return None

    def _main(self) -> str:
        """Return the name of the output that ``run`` gives; scaled integers are real numbers."""
        ports = [
            p._replace(dtype="float32") if self._outs[p.name]["quantization"][0] > 0 else p
            for p in self.outputs
        ]
        return main_output(ports).name

    def fix(self, shapes: Mapping[str, Shape]) -> None:
        """Fix open sizes of inputs, by their names; an open batch of a single one stays open."""
        own = self._own_inputs
        self.inputs = with_shapes(self.path, own, shapes)
        if len(own) == 1 and own[0].shape and isinstance(own[0].shape[0], str):
            first = self.inputs[0]
            self.inputs = (first._replace(shape=(own[0].shape[0], *first.shape[1:])),)
        if self.inputs != own:
            self._rows = 0  # laid out for other sizes
        self.refusal = self._plainly()

    def feeds(self, batch: int, seed: int) -> dict[str, Array]:
        """Return random inputs by their names, images as N,C,H,W."""
        found = random_feeds(self.path, self.inputs, batch, seed)
        return {name: turned(array, TO_CALLER) for name, array in found.items()}

    def run_named(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Return every output by its name; rank-4 inputs are N,C,H,W, quantised ones float32 too.

        Raises:
            RunnerError: The inputs are not those of the file, or the graph fails.
        """
        known_feeds(self.path, list(self._ins), feeds)
        own = {name: turned(np.asarray(feeds[name]), TO_FILE) for name in self._ins}
        self._shape, self._rows = None, 0  # ``run`` lays the graph out anew
        try:
            self._lay_out_all({name: list(array.shape) for name, array in own.items()})
            for name, array in own.items():
                self._set(int(self._ins[name]["index"]), as_own(array, self._ins[name]), 0)
            calls = self._count()
            self._invoke()
            self.native_calls = self._count() - calls
            return {name: self._value(tensor) for name, tensor in self._outs.items()}
        except Exception as error:
            raise RunnerError("bad-input", f"{self.path}: fails: {one_line(error)}") from error

    def _lay_out_all(self, shapes: dict[str, list[int]]) -> None:
        if shapes == self._laid_out:
            return
        self._laid_out = {}
        self._set = self._invoke = self._get = None  # see ``_lay_out``
        try:
            for name, shape in shapes.items():
                self._interpreter.resize_tensor_input(int(self._ins[name]["index"]), shape)
            self._interpreter.allocate_tensors()
        finally:
            self._set, self._invoke, self._get = self._calls()
        self._laid_out = shapes

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
            limits: Any = np.iinfo(self._type)
            own = np.clip(np.rint(own / scale) + zero, limits.min, limits.max).astype(self._type)
        return own

    def _to_logits(self, result: Array) -> Array:
        scale, zero = self._dequantize or (1.0, 0)
        logits: Array = (result.astype(np.float32) - np.float32(zero)) * np.float32(scale)
        return logits

    def _prepare(self, batch: Any) -> None:
        if self.refusal is not None:
            raise self.refusal
        if not fits(batch, self.sample, self.fixed):
            raise wrong_batch(self.path, batch, self.sample, self.fixed)
        self._shape = None
        own = [len(batch), *self._own]
        try:
            if len(batch) != self._rows:
                self._rows = 0  # whatever happens between here and there, lay it out again
                self._laid_out = {}
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
        value: Array = np.asarray(self._get(int(tensor["index"]), 0))  # one number is no array
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
