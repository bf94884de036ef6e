"""The runtimes there are: a row of the table and an adapter file each."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any

import numpy as np

from sepdeploy.runtimes.runner.contract import Model, RunnerError


@dataclass(frozen=True)
class Runtime:
    """One row of the table of runtimes.

    Attributes:
        name: As written on the command line and in results.
        format: "onnx" or "tflite".
        adapter: The module that opens files in it. It offers ``prepare(runtime)``, which imports
            the runtime, and ``open_model(runtime, path, threads, native, keep_values)``, which
            returns a ``Model``; where the runtime writes the graph as it optimises it, also
            ``optimize(runtime, path, threads, target)``. Its file is sent to devices, so it
            needs Python 3.9, numpy and the runtime alone.
        module: The runtime's import name.
        distribution: Its name on the package index.
        hint: The command that installs it.
        numpy_below: First major version of numpy that it cannot work with; None: any works.
    """

    name: str
    format: str
    adapter: str
    module: str
    distribution: str
    hint: str
    numpy_below: int | None = None

    def version(self) -> str | None:
        """Return the installed version; None when absent or unable to work with this numpy."""
        if find_spec(self.module) is None:
            return None
        if self.numpy_below is not None and int(np.__version__.split(".")[0]) >= self.numpy_below:
            return None
        try:
            return version(self.distribution)
        except PackageNotFoundError:  # a nightly build goes by another name
            return "unknown"


# In the order of preference within a format.
RUNTIMES: dict[str, Runtime] = {
    row.name: row
    for row in (
        Runtime(
            "onnxruntime",
            "onnx",
            "sepdeploy.runtimes.runner.ort",
            "onnxruntime",
            "onnxruntime",
            "pip install onnxruntime",
        ),
        Runtime(
            "litert",
            "tflite",
            "sepdeploy.runtimes.runner.tflite",
            "ai_edge_litert",
            "ai-edge-litert",
            "pip install ai-edge-litert",
        ),
        Runtime(
            "tflite-runtime",
            "tflite",
            "sepdeploy.runtimes.runner.tflite",
            "tflite_runtime",
            "tflite-runtime",
            "pip install 'tflite-runtime==2.14.0' 'numpy<2' (Python 3.11), or ai-edge-litert",
            numpy_below=2,
        ),
    )
}
EVALUATOR = "onnx.reference"  # the slow evaluator of the onnx package proves files, no more
EVALUATOR_ADAPTER = "sepdeploy.runtimes.runner.evaluator"


def adapter(runtime: str) -> Any:
    """Return the module that opens files in a runtime.

    Raises:
        RunnerError: No such runtime.
    """
    if runtime == EVALUATOR:
        return import_module(EVALUATOR_ADAPTER)
    if runtime not in RUNTIMES:
        raise RunnerError("bad-input", f"unknown runtime '{runtime}'")
    return import_module(RUNTIMES[runtime].adapter)


def load(
    runtime: str, path: str, threads: int = 1, native: str = "", *, keep_values: bool = False
) -> Model:
    """Return a file in a runtime.

    Args:
        runtime: A name of ``RUNTIMES``, or ``EVALUATOR``.
        path: The file.
        threads: Threads of the runtime.
        native: The library for its custom nodes.
        keep_values: Whether intermediate values can be asked for.

    Raises:
        RunnerError: "missing" when the runtime is absent, "bad-input" when the file is not usable.
    """
    if not isinstance(threads, int) or threads < 1:
        raise RunnerError("bad-input", f"threads must be at least 1, found {threads}")
    model: Model = adapter(runtime).open_model(runtime, path, threads, native, keep_values)
    return model
