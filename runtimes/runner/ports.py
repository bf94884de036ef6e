"""Inputs and outputs of a file by name, and inputs made up for it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, Union

import numpy as np

from sepdeploy.runtimes.runner.contract import MOST_VALUES, Array, RunnerError

UNNAMED = "?"  # an open size that is like no other
Size = Union[int, str]  # a number, or the name of an open size  # noqa: UP007  # Python 3.9
Shapes = Mapping[str, "tuple[int, ...]"]


class Port(NamedTuple):
    """One input or output; ``dtype`` as numpy calls it, "" where it is no tensor."""

    name: str
    dtype: str
    shape: tuple[Size, ...]

    def told(self) -> str:
        """Return it as a person reads it."""
        return f"{self.name}: {self.dtype or 'no tensor'} [{', '.join(map(str, self.shape))}]"


def main_output(ports: Iterable[Port]) -> Port:
    """Return the output that ``run`` gives: "logits", else the first real one, else the first.

    A quantised output is a real one; whoever asks says so.
    """
    ports = tuple(ports)
    real = (p for p in ports if p.dtype == "float32")
    return next((p for p in ports if p.name == "logits"), next(real, ports[0]))


def with_shapes(path: str, ports: Iterable[Port], shapes: Shapes) -> tuple[Port, ...]:
    """Return inputs with open sizes fixed; a size of one name is the same everywhere.

    Raises:
        RunnerError: There is no such input, or its fixed sizes are other ones.
    """
    ports = tuple(ports)
    known: dict[str, int] = {}
    for name, wanted in shapes.items():
        port = next((p for p in ports if p.name == name), None)
        if port is None:
            named = ", ".join(p.name for p in ports)
            raise RunnerError("bad-input", f"{path}: no input '{name}'", f"its inputs: {named}")
        pairs = list(zip(port.shape, wanted))  # noqa: B905  # Python 3.9
        differs = any(isinstance(own, int) and own != given for own, given in pairs)
        if len(port.shape) != len(wanted) or differs or min(wanted, default=1) < 1:
            raise RunnerError(
                "bad-input",
                f"{path}: input '{name}' is {list(port.shape)}, not {list(wanted)}",
                "only its open sizes can be chosen",
            )
        known.update({own: given for own, given in pairs if isinstance(own, str)})
    known.pop(UNNAMED, None)

    def fixed(port: Port) -> Port:
        own = tuple(known.get(n, n) if isinstance(n, str) else n for n in port.shape)
        return port._replace(shape=shapes.get(port.name, own))

    return tuple(fixed(port) for port in ports)


def random_feeds(path: str, ports: Iterable[Port], batch: int, seed: int) -> dict[str, Array]:
    """Return random inputs of the stated types; open sizes are 1, open first ones ``batch``.

    Floats are in [0, 1], 8-bit integers over their range, other integers 0 or 1: they are mostly
    indices into a table of unknown length.

    Raises:
        RunnerError: An input is no tensor of numbers or fits into no memory, or none of them has
            room for the batch.
    """
    ports, generator = tuple(ports), np.random.default_rng(seed)
    firsts = {p.shape[0] for p in ports if p.shape and isinstance(p.shape[0], str)}
    sizes = {name: batch for name in firsts if name != UNNAMED}
    if batch != 1 and not firsts and any(p.shape[:1] != (batch,) for p in ports):
        told = "; ".join(p.told() for p in ports)
        raise RunnerError("bad-input", f"{path}: no open batch for {batch} samples: {told}")
    feeds = {}
    for port in ports:
        shape = tuple(
            n if isinstance(n, int) else sizes.get(n, 1 if axis else batch)
            for axis, n in enumerate(port.shape)
        )
        if math.prod(shape) > MOST_VALUES:
            raise RunnerError("bad-input", f"{path}: {port.told()} fits into no memory")
        feeds[port.name] = _random(path, port, shape, generator)
    return feeds


def _random(path: str, port: Port, shape: tuple[int, ...], generator: Any) -> Array:
    kind = np.dtype(port.dtype or "O")
    if kind.kind == "f":
        return np.asarray(generator.random(shape), kind)
    if kind.kind in "iub":
        wide = kind.itemsize == 1 and kind.kind != "b"
        low, high = (np.iinfo(kind).min, np.iinfo(kind).max) if wide else (0, 1)
        return np.asarray(generator.integers(low, high, shape, endpoint=True), kind)
    raise RunnerError("bad-input", f"{path}: no inputs can be made up for {port.told()}")
