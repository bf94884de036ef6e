"""A session, and what opening a file of either format shares."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from threading import Lock
from typing import Any, Self, overload
from weakref import WeakSet

import numpy as np
import numpy.typing as npt

from sepdeploy.codec import from_json, parse_json
from sepdeploy.errors import RUN_IT, BadInput, Missing, SepdeployError
from sepdeploy.records import InputSpec, RuntimeRef
from sepdeploy.runtimes.runner.contract import Model, RunnerError
from sepdeploy.runtimes.runner.ports import Port

Logits = npt.NDArray[np.float32]
ENTRY_KEY = "sepdeploy"  # name of the embedded entry, in ONNX and TFLite alike


def translate(error: RunnerError) -> SepdeployError:
    """Return the runner's error as one of sepdeploy's own."""
    family = Missing if error.kind == "missing" else BadInput
    return family(str(error), hint=error.hint or RUN_IT)


class Session:
    """A loaded artifact. Use it as a context manager; calls from several threads take turns.

    ``inputs`` and ``outputs`` are all it has, by name, in the file's own order of axes;
    ``runtime`` is which runtime runs it, ``path`` the file. ``note`` is one line on what runs the
    file's custom nodes, "" where it has none.
    """

    def __init__(
        self, path: Path, model: Model, threads: int, entry: str | None, note: str = ""
    ) -> None:
        self.path = path
        self.note = note
        self._model: Model | None = model
        self.runtime = RuntimeRef(model.name, model.version, threads)
        self.inputs: tuple[Port, ...] = tuple(getattr(model, "inputs", ()))
        self.outputs: tuple[Port, ...] = tuple(getattr(model, "outputs", ()))
        self._refusal = model.refusal
        if self._refusal is not None and entry is not None:
            raise translate(self._refusal)
        self._input = None if self._refusal else input_spec(path, entry, model.sample)
        self._run: Callable[[Any], Any] | None = model.run
        self._turn = Lock()  # input and output memory is bound once, and the runtimes free the GIL
        self._closed = "the session is closed"
        _OPEN.add(self)

    @property
    def native_calls(self) -> int:
        """How often native kernels ran in one run, counted in the first one (0 before it)."""
        return 0 if self._model is None else self._model.native_calls

    @property
    def input(self) -> InputSpec:
        """What the one sample looks like that ``run`` takes.

        Raises:
            BadInput: The file takes something else.
        """
        if self._input is None:
            assert self._refusal is not None
            raise translate(self._refusal)
        return self._input

    @overload
    def run(self, batch: dict[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]: ...

    @overload
    def run(self, batch: npt.NDArray[np.float32]) -> Logits: ...

    def run(
        self, batch: npt.NDArray[np.float32] | dict[str, npt.NDArray[Any]]
    ) -> Logits | dict[str, npt.NDArray[Any]]:
        """Return the logits (N, classes) of a float32 batch (N, *input.shape), NCHW or NF.

        A dictionary of all inputs by name gives one of all outputs; images of a .tflite file are
        N,C,H,W there as well, and numbers of a quantised input may be real ones.

        Raises:
            BadInput: The batch has another shape or dtype (both are named), the graph fails, or
                the session is closed.
        """
        if isinstance(batch, dict):
            return self._run_named(batch)
        with self._turn:
            run = self._run
            if run is None:
                raise BadInput(f"{self.path}: {self._closed}", hint="open the artifact again")
            try:
                logits: Logits = run(batch)
            except RunnerError as error:
                raise translate(error) from error
            return logits

    def _run_named(self, feeds: dict[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
        with self._turn:
            if self._model is None or self._run is None:
                raise BadInput(f"{self.path}: {self._closed}", hint="open the artifact again")
            try:
                return self._model.run_named(feeds)
            except RunnerError as error:
                raise translate(error) from error

    def forked(self) -> None:
        """Give up what a forked child does not have: the threads of the runtime."""
        if self.runtime.threads > 1 and self._run is not None:
            self._run, self._closed = None, "a forked process lacks the session's threads"

    def close(self) -> None:
        """Free the model; a closed session cannot run."""
        with self._turn:
            self._run = self._model = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


_OPEN: WeakSet[Session] = WeakSet()
_FORK = Lock()
_HELD: list[Session] = []  # by the fork that goes on


def _before_fork() -> None:
    """Wait until no session runs: a child forked in the middle of a run would wait for ever."""
    _FORK.acquire()
    _HELD[:] = list(_OPEN)
    for session in _HELD:
        session._turn.acquire()


def _after_fork(*, child: bool = False) -> None:
    for session in _HELD:
        session._turn.release()
        if child:
            session.forked()
    _HELD.clear()
    _FORK.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork,
        after_in_parent=_after_fork,
        after_in_child=lambda: _after_fork(child=True),
    )


def input_spec(path: Path, entry: str | None, sample: tuple[int, ...]) -> InputSpec:
    """Return the input of a file: from its embedded entry, else from its own input's shape.

    Raises:
        BadInput: The entry is not readable or contradicts the file.
    """
    if entry is None:
        return InputSpec(shape=sample)
    where = f"{path}: embedded entry"
    try:
        spec = from_json(InputSpec, parse_json(entry, where=where).get("input"), where=where)
    except BadInput as error:
        raise BadInput(error.message, hint="export the model again") from error
    if spec.shape != sample:
        raise BadInput(
            f"{path}: its entry says samples are {spec.shape}, the graph takes {sample}",
            hint="export the model again",
        )
    return spec
