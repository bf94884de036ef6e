"""The small TFLite graph that converters emit into: tensors, operators, and nothing else.

A batch that is open until run time is written as the number `BATCH` inside shapes, so that shape
arithmetic (products, quotients, slices of shapes) is plain integer arithmetic and any dimension
that depends on the batch is a multiple of it. No other dimension can be: it is a prime larger
than any tensor that fits into a file.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sepdeploy.errors import BadInput

BATCH = (1 << 31) - 1
MAX_ELEMENTS = 1 << 28  # of any tensor, for a batch of one
MAX_HELPERS = 1 << 24  # of index lists and the like that only the conversion needs

Array = NDArray[Any]
Shape = tuple[int, ...]


def is_batch(dim: int) -> bool:
    """Whether a dimension depends on the batch size."""
    return dim != 0 and dim % BATCH == 0


def concrete(shape: Iterable[int]) -> Shape:
    """Return a shape for a batch of one."""
    return tuple(d // BATCH if is_batch(d) else d for d in shape)


def signature(shape: Iterable[int]) -> Shape:
    """Return a shape with -1 for every dimension that depends on the batch."""
    return tuple(-1 if is_batch(d) else d for d in shape)


def per_sample(shape: Iterable[int]) -> int:
    """Return the number of elements for a batch of one."""
    return math.prod(concrete(shape))


@dataclass(frozen=True)
class Quantization:
    """How integers stand for numbers: ``number = scale * (integer - zero)``.

    ``scales`` and ``zeros`` hold one value, or one for each index of dimension ``axis``.
    """

    scales: tuple[float, ...]
    zeros: tuple[int, ...]
    axis: int = 0

    @property
    def per_channel(self) -> bool:
        """Whether there is more than one scale."""
        return len(self.scales) > 1


@dataclass(eq=False)
class Tensor:
    """One tensor; compared by identity. ``data`` is set for constants only."""

    name: str
    shape: Shape
    dtype: np.dtype[Any]
    data: Array | None = None
    quantization: Quantization | None = None


@dataclass(eq=False)
class Op:
    """One operator. ``kind`` is a key of `schema.OPS`; custom operators carry their own name."""

    kind: str
    inputs: list[Tensor]
    outputs: list[Tensor]
    options: dict[str, Any] = field(default_factory=dict)
    custom_name: str = ""
    custom_options: bytes = b""


@dataclass
class Graph:
    """Operators in execution order, with the graph's inputs and outputs by signature name."""

    ops: list[Op] = field(default_factory=list)
    inputs: dict[str, Tensor] = field(default_factory=dict)
    outputs: dict[str, Tensor] = field(default_factory=dict)

    def tensors(self) -> list[Tensor]:
        """Return every tensor once: inputs, then in order of first use."""
        seen: dict[int, Tensor] = {}
        groups: list[Sequence[Tensor]] = [list(self.inputs.values())]
        groups += [[*op.inputs, *op.outputs] for op in self.ops]
        groups.append(list(self.outputs.values()))
        for group in groups:
            for tensor in group:
                seen.setdefault(id(tensor), tensor)
        return list(seen.values())

    def consumers(self) -> dict[int, list[Op]]:
        """Return the operators that read each tensor, by the tensor's ``id``."""
        uses: dict[int, list[Op]] = {}
        for op in self.ops:
            for tensor in op.inputs:
                uses.setdefault(id(tensor), []).append(op)
        return uses


class Links:
    """Who computes each tensor, by the tensor's ``id``, and whether one operator alone reads it."""

    def __init__(self, graph: Graph) -> None:
        self.uses = graph.consumers()
        self.outputs = {id(t) for t in graph.outputs.values()}
        self.producer = {id(t): op for op in graph.ops for t in op.outputs}

    def alone(self, tensor: Tensor) -> bool:
        """Whether a tensor has one reader and is no output of the graph."""
        return len(self.uses.get(id(tensor), [])) == 1 and id(tensor) not in self.outputs


def runtime_shape(shape: Sequence[int], where: str) -> Array:
    """Return the int32 operand of RESHAPE: -1 for the batch, which may stand in one place only.

    Raises:
        BadInput: Two dimensions depend on the batch.
    """
    open_dims = signature(shape)
    if open_dims.count(-1) > 1:
        raise BadInput(
            f"{where}: two dimensions of {describe(shape)} depend on the batch size",
            hint="TFLite can leave one open; keep the batch in one dimension",
        )
    return np.array(open_dims, np.int32)


def bounded(count: int, where: object, limit: int = MAX_HELPERS) -> int:
    """Return a number of values that is about to be laid out in memory, if it is sane.

    Raises:
        BadInput: It is negative or absurdly large: a few bytes must not fill the memory.
    """
    if not 0 <= count <= limit:
        raise BadInput(
            f"{where} asks for {count} values", hint="check its sizes and the model's input shape"
        )
    return count


def describe(shape: Sequence[int]) -> str:
    """Return a shape as text, with ``batch`` for the open dimension."""
    parts = []
    for dim in shape:
        times = dim // BATCH if is_batch(dim) else 0
        parts.append(str(dim) if not times else "batch" if times == 1 else f"{times}*batch")
    return "(" + ", ".join(parts) + ")"
