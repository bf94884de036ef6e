"""What a file says about itself, whoever wrote it: its own tables, not an entry of ours.

Read without a runtime. What a file leaves open stays open (None, or the name of a size): a missing
fact is no error.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from sepdeploy.codec import ABSENT
from sepdeploy.errors import BadInput
from sepdeploy.exporters.formats import format_of

Size = int | str  # a number, or the name of an open size, "?" where it has none
Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Affine:
    """How integers stand for real numbers: scale · (q − zero_point), per tensor or per slice.

    ``slices`` counts the scales; ``scale`` and ``zero_point`` are those of the first.
    """

    scale: float
    zero_point: int
    slices: int = 1


@dataclass(frozen=True)
class Port:
    """One input or output, in the file's own order of axes.

    ``dtype`` is numpy's name, "" where it is not known or no tensor; ``shape`` None likewise.
    """

    name: str
    dtype: str
    shape: tuple[Size, ...] | None
    affine: Affine | None = field(default=None, metadata=ABSENT)


@dataclass(frozen=True)
class FileLayer:
    """One operator that carries weights.

    Attributes:
        name: Of the operator, else of its output.
        structure: "dense" of a product or convolution, "" of others.
        factors: Shapes of its weights, in the file's order of axes.
        params: How many numbers they hold.
        params_dense: The same.
        macs: Multiply-accumulates at batch 1; None where a shape is not known.
        macs_dense: The same.
        operator: As the file calls it.
        dtype: Of its largest weight.
        output: Shape of its first output; None where it is not known.
        affine: How its largest weight is quantised.
    """

    name: str
    structure: str
    factors: tuple[tuple[int, ...], ...]
    params: int
    params_dense: int
    macs: int | None
    macs_dense: int | None
    operator: str
    dtype: str
    output: tuple[Size, ...] | None = None
    affine: Affine | None = field(default=None, metadata=ABSENT)


@dataclass(frozen=True)
class FileFacts:
    """A file but for its layers.

    Attributes:
        made_by: Versions of format and operators, and what wrote it, by name.
        inputs: In the file's order.
        outputs: In the file's order.
        operators: How often each occurs, inside branches and loops too.
        notes: What could not be told.
    """

    made_by: dict[str, str]
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    operators: dict[str, int]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Described:
    """A file with its layers.

    Attributes:
        file: All but the layers.
        layers: In the file's order.
        params: All parameters, those of no layer too.
        param_bytes: As they are stored.
        macs: Of the whole graph at batch 1; None where a shape is not known.
        sample: Shape of the one float sample that a session takes, (C, H, W) for images; None
            where the file takes something else.
    """

    file: FileFacts
    layers: tuple[FileLayer, ...]
    params: int
    param_bytes: int
    macs: int | None
    sample: tuple[int, ...] | None

    @property
    def batch(self) -> int | None:
        """The batch size that all inputs insist on; None where one is open, or they differ."""
        firsts = {p.shape[0] if p.shape else None for p in self.file.inputs}
        only = next(iter(firsts)) if len(firsts) == 1 else None
        return only if isinstance(only, int) else None


def describe(path: Path, shapes: Shapes | None = None) -> Described:
    """Describe a file of any origin.

    Args:
        path: The file.
        shapes: Sizes of inputs that the file leaves open, by their names.

    Raises:
        BadInput: It cannot be read, or has no such input.
    """
    return format_of(path).describe(path, shapes or {})


def with_sizes(path: Path, inputs: tuple[Port, ...], shapes: Shapes) -> tuple[Port, ...]:
    """Return inputs with their open sizes as chosen.

    Raises:
        BadInput: There is no such input, or its fixed sizes are other ones.
    """
    by_name = {p.name: p for p in inputs}
    for name, wanted in shapes.items():
        if name not in by_name:
            raise BadInput(f"{path}: no input '{name}'", hint=f"its inputs: {', '.join(by_name)}")
        own = by_name[name].shape
        fits = own is None or len(own) == len(wanted)
        if own is not None and fits:
            fits = all(isinstance(n, str) or n == w for n, w in zip(own, wanted, strict=True))
        if not fits:
            raise BadInput(
                f"{path}: input '{name}' is {list(own or ())}, not {list(wanted)}",
                hint="only its open sizes can be chosen",
            )
    return tuple(replace(p, shape=shapes.get(p.name, p.shape)) for p in inputs)


def one_sample(inputs: tuple[Port, ...], order: tuple[int, ...]) -> tuple[int, ...] | None:
    """Return the shape of the one sample that a session takes.

    Args:
        inputs: Of the file.
        order: Axes of an image's sample, as N,C,H,W has them.
    """
    if len(inputs) != 1 or not inputs[0].shape or len(inputs[0].shape) < 2:
        return None
    if inputs[0].dtype != "float32" and inputs[0].affine is None:
        return None
    own = inputs[0].shape[1:]
    sizes = tuple(n for n in own if isinstance(n, int))
    if len(sizes) < len(own):
        return None
    return tuple(sizes[i] for i in order) if len(sizes) == len(order) else sizes
