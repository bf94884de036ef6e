"""What an adapter of a runtime gives, and the errors that it raises."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

F32 = np.dtype(np.float32)
MOST_VALUES = 1 << 31  # of one input

Array = np.ndarray[Any, Any]
Shape = tuple[int, ...]
Result = dict[str, Any]


class Model(Protocol):
    """A file in its runtime.

    ``sample`` is the shape of one sample, ``fixed`` the batch size that the file insists on (None:
    any). ``native_calls`` tells how often native kernels did in a run, counted in the first one.
    """

    name: str
    version: str
    sample: Shape
    fixed: int | None
    native_calls: int

    def run(self, batch: Any) -> Any:
        """Return the logits (N, classes) of a float32 batch (N, *sample)."""
        ...

    def values(self, batch: Any, names: list[str]) -> dict[str, Any]:
        """Return intermediate values of one run by name, those that the file has."""
        ...


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


def check_counts(path: str, inputs: int, outputs: int) -> None:
    """Refuse a file of several inputs, or without an output.

    Raises:
        RunnerError: It is one.
    """
    if inputs != 1 or not outputs:
        raise RunnerError(
            "bad-input",
            f"{path}: expected one input and at least one output, found {inputs} and {outputs}",
        )


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


def no_calls() -> int:
    """Return how often no kernels ran."""
    return 0
