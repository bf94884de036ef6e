"""Reading a job: its models, its inputs, and what ran its custom nodes."""

from __future__ import annotations

from typing import Any

import numpy as np

from sepdeploy.runtimes.runner.contract import Array, Model, Result, RunnerError, one_line
from sepdeploy.runtimes.runner.table import load


def load_model(job: dict[str, Any], path: str, *, keep_values: bool = False) -> Model:
    """Return a model of a job."""
    native = _library(job, path)
    return load(job["runtime"], path, job.get("threads", 1), native, keep_values=keep_values)


def _library(job: dict[str, Any], path: str) -> str:
    """Return what runs a model's custom nodes."""
    return str((job.get("native") or {}).get(path, ""))


def native_calls(job: dict[str, Any], models: list[Any]) -> Result:
    """Return what a result says about native kernels."""
    if not job.get("native"):
        return {}
    return {"native_calls": sum(getattr(model, "native_calls", 0) for model in models)}


def kernels(job: dict[str, Any], entry: dict[str, Any], model: Any) -> Result:
    """Return which kernels ran a model's custom nodes, nothing where none did."""
    if not getattr(model, "native_calls", 0):
        return {}
    return {"kernels": "reference" if _library(job, entry["path"]) == "reference" else "native"}


def read_inputs(job: dict[str, Any]) -> Array:
    """Return the samples that a job is about.

    Raises:
        RunnerError: They cannot be read.
    """
    try:
        inputs: Array = np.load(job["inputs"], allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise RunnerError("bad-input", f"inputs cannot be read: {one_line(error)}") from error
    return inputs
