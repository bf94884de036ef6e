"""ONNX files in onnx's own evaluator: slow, made of Python, independent of ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sepdeploy.runtimes.runner.contract import (
    Array,
    RunnerError,
    Shape,
    fits,
    known_feeds,
    one_line,
    wrong_batch,
)
from sepdeploy.runtimes.runner.ports import UNNAMED, Port, main_output, random_feeds, with_shapes
from sepdeploy.runtimes.runner.table import EVALUATOR


def prepare(runtime: str = EVALUATOR) -> tuple[Any, str]:
    """Return the evaluator's class and version.

    Raises:
        RunnerError: onnx is not installed.
    """
    try:
        import onnx
        from onnx.reference import ReferenceEvaluator
    except ImportError as error:
        raise RunnerError("missing", "onnx is not installed", "pip install onnx") from error
    return ReferenceEvaluator, str(onnx.__version__)


def open_model(
    runtime: str, path: str, threads: int, native: str, keep_values: bool
) -> ReferenceModel:
    """Return an ONNX file; one thread evaluates it."""
    return ReferenceModel(path)


class ReferenceModel:
    """An ONNX file in onnx's own evaluator: slow, made of Python, independent of ONNX Runtime."""

    name = EVALUATOR
    native_calls = 0
    refusal: RunnerError | None = None

    def __init__(self, path: str) -> None:
        self.path = path
        reference, self.version = prepare()
        try:
            evaluator: Any = reference(path)
            dims = [d.dim_value for d in evaluator.input_types_[0].tensor_type.shape.dim]
        except Exception as error:  # of many kinds, from several parsers
            raise RunnerError(
                "bad-input", f"{path}: cannot be loaded: {one_line(error)}"
            ) from error
        self._session = evaluator
        self.inputs = _ports(evaluator.input_names, evaluator.input_types_)
        self.sample: Shape = tuple(dims[1:])
        self.fixed: int | None = dims[0] or None

    def fix(self, shapes: Mapping[str, Shape]) -> None:
        """Fix open sizes of inputs, by their names."""
        self.inputs = with_shapes(self.path, self.inputs, shapes)

    def feeds(self, batch: int, seed: int) -> dict[str, Array]:
        """Return random inputs by their names."""
        return random_feeds(self.path, self.inputs, batch, seed)

    def run_named(self, feeds: Mapping[str, Array]) -> dict[str, Any]:
        """Return every output by its name."""
        known_feeds(self.path, list(self._session.input_names), feeds)
        try:
            found = self._session.run(None, dict(feeds))
        except Exception as error:
            raise RunnerError("bad-input", f"{self.path}: fails: {one_line(error)}") from error
        return dict(zip(self._session.output_names, found))  # noqa: B905

    def values(self, batch: Array, names: list[str]) -> dict[str, Array]:
        """Return nothing: the evaluator is asked for logits alone."""
        return {}

    def run(self, batch: Array) -> Array:
        """Return the logits (N, classes) of a float32 batch (N, *sample)."""
        if not fits(batch, self.sample, self.fixed):
            raise wrong_batch(self.path, batch, self.sample, self.fixed)
        try:
            found = self._session.run(None, {self._session.input_names[0]: batch})
        except Exception as error:
            raise RunnerError("bad-input", f"{self.path}: fails: {one_line(error)}") from error
        ports = [Port(n, a.dtype.name, ()) for n, a in zip(self._session.output_names, found)]  # noqa: B905
        result: Array = found[ports.index(main_output(ports))]
        return result


def _ports(names: list[str], types: list[Any]) -> tuple[Port, ...]:
    from onnx import helper

    found = []
    for name, said in zip(names, types):  # noqa: B905  # Python 3.9
        tensor = said.tensor_type
        kind = helper.tensor_dtype_to_np_dtype(tensor.elem_type).name if tensor.elem_type else ""
        sizes = tuple(d.dim_value or d.dim_param or UNNAMED for d in tensor.shape.dim)
        found.append(Port(name, kind, sizes))
    return tuple(found)
