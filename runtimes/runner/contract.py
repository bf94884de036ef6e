"""What an adapter of a runtime gives, and the errors that it raises."""

from __future__ import annotations

from collections.abc import Mapping
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
    any). ``refusal`` says why there is no such sample, and ``run`` raises it: a file may have
    several inputs, open sizes or other types. ``native_calls`` tells how often native kernels did
    in a run, counted in the first one.
    """

    name: str
    version: str
    sample: Shape
    fixed: int | None
    refusal: RunnerError | None
    inputs: Any  # a tuple of ``ports.Port``, as ``feeds`` names them
    native_calls: int

    def fix(self, shapes: Mapping[str, Shape]) -> None:
        """Fix open sizes of inputs, by their names."""
        ...

    def feeds(self, batch: int, seed: int) -> dict[str, Any]:
        """Return random inputs by their names."""
        ...

    def run(self, batch: Any) -> Any:
        """Return the logits (N, classes) of a float32 batch (N, *sample)."""
        ...

    def run_named(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
        """Return every output by its name; rank-4 inputs are N,C,H,W as in ``run``."""
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


def known_feeds(path: str, names: list[str], feeds: Mapping[str, Any]) -> None:
    """Refuse inputs that are not those of a file.

    Raises:
        RunnerError: One is missing or unknown.
    """
    if set(feeds) != set(names):
        raise RunnerError(
            "bad-input",
            f"{path}: expected inputs {', '.join(names)}, found {', '.join(map(str, feeds))}",
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
