"""The inputs that a file is proven on, what its source says to them, and how sure that is.

Ordinary samples come first: real images, or random ones. Behind them stand an all-zero, an all-one
and a constant sample, where guards such as ``+ 1e-8`` show, and louder ones where the outputs would
else hardly move. The source's own rounding is measured as well: how far its outputs move when the
inputs do by theirs, and how far they are from a float64 evaluation where there is one. A file may
differ by a few times that; what no float32 computation could agree on is left out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sepdeploy.errors import FINITE, BadInput
from sepdeploy.exporters.modes import TOLERANCE
from sepdeploy.exports.source import Array, Reference
from sepdeploy.measure.proof.parity import FLOOR, moves

Ask = Callable[[Array], Array]
Exact = Callable[[Array], NDArray[np.float64] | None]

EDGES = {"all-zero": 0.0, "all-one": 1.0, "constant": 0.5}
LOUD = 3  # samples
LOUDER = (10.0, 100.0, 1000.0)
ROUNDINGS = 8.0  # of the source's own that a file may differ by
MOST_ROUNDING = 1e-3  # relative; a sample that float32 leaves more open proves nothing
ULP = 2.0**-23
RANDOM_HINT = "no dropout, random numbers or counters in evaluation: if self.training: ..."


def witnessed(
    ask: Ask,
    inputs: Array,
    *,
    kind: str,
    batches: tuple[int, ...],
    said_by: str,
    exact: Exact = lambda _: None,
) -> Reference:
    """Return a reference from what a source says.

    Args:
        ask: The source: outputs (N, …) for inputs (N, *shape).
        inputs: Ordinary samples, float32.
        kind: Of them: "data" or "synthetic".
        batches: Batch sizes that a file is run with.
        said_by: Who the source is, as a person reads it.
        exact: The source in float64, None where it cannot be had.

    Raises:
        BadInput: The outputs are not finite, or other ones for the same inputs.
    """
    n, shape = len(inputs), inputs.shape[1:]
    edges = np.stack([np.full(shape, value, np.float32) for value in EDGES.values()])
    inputs = np.concatenate([inputs, edges])
    outputs, rounding = _asked(ask, inputs, said_by, exact)
    if not np.isfinite(outputs[:n]).all():
        raise BadInput(f"{said_by} gives values that are not finite", hint=FINITE)
    scale = float(np.abs(outputs[:n]).max()) or 1.0
    finite = np.isfinite(rounding)
    sure = finite & ((rounding <= FLOOR) | (ROUNDINGS * rounding <= MOST_ROUNDING * scale))
    notes = [
        f"{said_by} gives values that are not finite for an {name} input"
        for name, right in zip(EDGES, finite[n:], strict=True)
        if not right
    ]
    if not sure[:n].any():
        notes.append(f"not proven: rounding alone moves what {said_by} says by more than 0.1 %")
        sure[:n] = True
    ordinary, inputs, outputs = int(sure[:n].sum()), inputs[sure], outputs[sure]
    allowed = np.maximum(TOLERANCE * scale, ROUNDINGS * rounding[sure])
    if not moves(outputs) or np.abs(outputs).max() * TOLERANCE < FLOOR:
        few = inputs[:LOUD][:ordinary]
        for factor in LOUDER:
            more = few * np.float32(factor)
            said, own = _asked(ask, more, said_by, exact)
            largest = float(np.abs(said).max())
            if np.isfinite(own).all() and moves(said) and largest * TOLERANCE >= FLOOR:
                inputs, outputs = np.concatenate([inputs, more]), np.concatenate([outputs, said])
                louder = np.maximum(TOLERANCE * largest, ROUNDINGS * own)
                allowed = np.concatenate([allowed, louder])
                break
    tolerance = allowed / (float(np.abs(outputs).max()) or 1.0)
    return Reference(
        inputs, outputs, kind, batches, said_by,
        ordinary=ordinary, tolerance=tolerance, notes=tuple(notes),
    )  # fmt: skip


def _asked(
    ask: Ask, inputs: Array, said_by: str, exact: Exact
) -> tuple[Array, NDArray[np.float64]]:
    """Return the outputs, and how far rounding may move each: not finite where they are not.

    Raises:
        BadInput: The first sample has another answer when it is asked for again.
    """
    signs = np.random.default_rng(0).choice(np.array([-ULP, ULP], np.float32), inputs.shape)
    found = ask(inputs)
    again = ask(np.concatenate([inputs * (1 + signs), inputs[:1]]))
    scale = float(np.abs(found[0]).max(initial=0.0))
    if np.isfinite(found[0]).all() and np.abs(found[0] - again[-1]).max() > 0.01 * scale:
        raise BadInput(f"{said_by} gives other numbers on every run", hint=RANDOM_HINT)
    with np.errstate(invalid="ignore"):
        rounding = _largest(found - again[:-1])
        precise = exact(inputs)
        if precise is not None:
            rounding = np.fmax(rounding, _largest(found - precise))
    rounding[~np.isfinite(found).reshape(len(found), -1).all(axis=1)] = np.nan
    return found, rounding


def _largest(difference: NDArray[Any]) -> NDArray[np.float64]:
    """The largest of each sample."""
    rows = np.abs(difference.astype(np.float64)).reshape(len(difference), -1)
    return np.asarray(rows.max(axis=1, initial=0.0))
