"""Files of any inputs and outputs beside each other: what they take, and what they answer."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy.typing as npt

from sepdeploy import runtimes
from sepdeploy.errors import BadInput
from sepdeploy.exporters.entry import has_entry, read_entry
from sepdeploy.exporters.facts import describe
from sepdeploy.measure.child import run_outputs
from sepdeploy.measure.proof.fidelity import LayerFidelity, fidelity


def input_shape(
    path: str | os.PathLike[str], shapes: Mapping[str, tuple[int, ...]] | None = None
) -> tuple[int, ...] | None:
    """Return the shape of the one sample that a file takes, None where it takes something else.

    Args:
        path: The file.
        shapes: Sizes that it leaves open, by the names of its inputs.

    Raises:
        BadInput: The file cannot be read.
    """
    if has_entry(Path(path)):
        return read_entry(Path(path)).input.shape
    return describe(Path(path), shapes).sample


def fixed_batch(path: str | os.PathLike[str]) -> int | None:
    """Return the batch size that a file insists on, None where any will do."""
    return describe(Path(path)).batch


def has_several_outputs(path: str | os.PathLike[str]) -> bool:
    """Whether a file gives more than its logits."""
    return len(describe(Path(path)).file.outputs) > 1


def compare_outputs(
    files: Sequence[str | os.PathLike[str]],
    runtime: str,
    *,
    inputs: Sequence[npt.NDArray[Any]] = (),
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    seed: int = 0,
) -> tuple[LayerFidelity, ...]:
    """Compare every output of a file with the one of its name in another, else of its place.

    Args:
        files: The file that is judged, and the reference.
        runtime: Of the first.
        inputs: In the files' order; none: they are made up for the first file.
        shapes: Open sizes of these.
        seed: Of these.

    Raises:
        BadInput: A file is not usable, or they have other inputs or outputs.
        Missing: A runtime is not installed.
    """
    path, other = files
    fed, mine = run_outputs(path, runtime, inputs, shapes=shapes, seed=seed)
    _, theirs = run_outputs(other, runtimes.choose(other, None), fed)
    if set(mine) != set(theirs) and len(mine) == len(theirs):
        theirs = dict(zip(mine, theirs.values(), strict=True))
    lacking = sorted(set(mine) ^ set(theirs))
    odd = [n for n in mine if n in theirs and mine[n].shape != theirs[n].shape]
    if lacking or odd:
        what = f"output '{(lacking or odd)[0]}' is in one alone, or of another shape"
        raise BadInput(f"{path} and {other}: {what}", hint="compare files of the same network")
    return tuple(fidelity(n, "output", n, mine[n], theirs[n]) for n in mine if mine[n].size)
