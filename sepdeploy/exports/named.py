"""Sources of any inputs and outputs: what they say, and whether a file says the same.

A network that takes one float sample and gives logits is proven sample by sample (``witness``,
``measure.check_parity``). All others have ports: whole inputs by name go in, and every output is
compared with the source's, real numbers within a few of its own roundings, integers exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sepdeploy.errors import ArtifactCheckFailed, BadInput, NoRoom
from sepdeploy.exporters.modes import TOLERANCE
from sepdeploy.exports.witness import MOST_ROUNDING, RANDOM_HINT, ROUNDINGS, ULP
from sepdeploy.records import Parity, TensorSpec

if TYPE_CHECKING:
    from onnx import ValueInfoProto

Named = Mapping[str, NDArray[Any]]
Ask = Callable[[Named], Named]
BATCHES = (1, 3)
UNWRITTEN = "nothing was written; report the file, or leave the output out (--output)"
# Of integers of more than eight bits, widest first: an index takes fewer, most often.
INTEGERS = ((-255, 255), (0, 255), (0, 1))
SPREADS = ("uniform", "normal")  # of the numbers of a case


@dataclass(frozen=True)
class NamedCase:
    """Inputs, what the source says to them, and how far a file may differ at each output."""

    batch: int
    inputs: Named
    outputs: Named
    tolerance: Mapping[str, float]


@dataclass(frozen=True)
class NamedReference:
    """What a file of any inputs and outputs is compared with.

    Attributes:
        cases: At least one.
        said_by: Who gave the outputs, as a person reads it.
        notes: What could not be asked, and what stays unproven.
        otherwise: Asks another witness, whose word counts where a file is not what this one says.
    """

    cases: tuple[NamedCase, ...]
    said_by: str
    notes: tuple[str, ...] = ()
    otherwise: Callable[[], NamedReference | None] = lambda: None


def tensor_specs(infos: Sequence[ValueInfoProto]) -> tuple[TensorSpec, ...]:
    """Return what a graph's inputs or outputs are; an open size is -1."""
    from onnx import helper

    found = []
    for info in infos:
        tensor = info.type.tensor_type
        kind = helper.tensor_dtype_to_np_dtype(tensor.elem_type).name if tensor.elem_type else ""
        sizes = (d.dim_value if d.HasField("dim_value") else -1 for d in tensor.shape.dim)
        found.append(TensorSpec(info.name, kind, tuple(sizes)))
    return tuple(found)


def asked(
    ask: Ask,
    inputs: Sequence[TensorSpec],
    *,
    said_by: str,
    seed: int,
    least: float = TOLERANCE,
    shaken: Ask | None = None,
) -> NamedReference:
    """Return a reference from what a source says to made-up inputs.

    Args:
        ask: The source.
        inputs: What it takes; a size of -1 is the batch.
        said_by: Who it is.
        seed: Of the inputs.
        least: Of the tolerances, relative.
        shaken: The source with its weights moved by their rounding, where it takes no real
            numbers that could be.

    Raises:
        BadInput: It gives other numbers on every run, or refuses all inputs.
    """
    open_batch = any(-1 in spec.shape for spec in inputs)
    cases: list[NamedCase] = []
    notes: list[str] = []
    for k, spread in enumerate(SPREADS):
        batch = BATCHES[k] if open_batch else 1
        feeds, said = _first_answer(ask, inputs, batch, spread, [seed, k])
        moved = (shaken or ask)(_shaken(feeds, seed))
        again = said if cases else ask(feeds)
        tolerance: dict[str, float] = {}
        for name, value in said.items():
            if not np.array_equal(value, again[name], equal_nan=value.dtype.kind == "f"):
                raise BadInput(f"{said_by} gives other numbers on every run", hint=RANDOM_HINT)
            found, why = _tolerance(value, moved[name], least)
            if why:
                notes.append(f"output '{name}' is not proven on {spread} numbers: {why}")
            else:
                tolerance[name] = found
        cases.append(NamedCase(batch, feeds, said, tolerance))
    return NamedReference(tuple(cases), said_by, tuple(notes))


def _first_answer(
    ask: Ask, inputs: Sequence[TensorSpec], batch: int, spread: str, seed: list[int]
) -> tuple[Named, Named]:
    """Return inputs and the source's answer: to the widest integers with a finite one."""
    some = any(np.dtype(s.dtype or "O").kind in "iu" for s in inputs)
    first: tuple[Named, Named] | None = None
    for limits in INTEGERS if some else INTEGERS[-1:]:
        feeds = {
            s.name: _made_up(s, batch, spread, [*seed, i], limits) for i, s in enumerate(inputs)
        }
        try:
            said = ask(feeds)
        except BadInput as error:  # an index into a shorter table, most often
            refused = error
            continue
        if all(np.isfinite(a).all() for a in said.values() if a.dtype.kind == "f"):
            return feeds, said
        first = first or (feeds, said)
    if first is None:
        raise refused
    return first


def makeable(spec: TensorSpec) -> bool:
    """Whether inputs of a type can be made up: numbers and truth values."""
    return np.dtype(spec.dtype or "O").kind in "fiub"


def _made_up(
    spec: TensorSpec, batch: int, spread: str, seed: list[int], limits: tuple[int, int]
) -> NDArray[Any]:
    """Return numbers of an input's type; bytes over their range, wider integers inside limits."""
    generator = np.random.default_rng(seed)
    shape = tuple(batch if n < 0 else n for n in spec.shape)
    kind = np.dtype(spec.dtype or "O")
    if kind.kind == "f":
        own = generator.random(shape) if spread == "uniform" else generator.standard_normal(shape)
        return np.asarray(own, kind)
    low, high = limits
    if kind.kind == "b":
        low, high = 0, 1
    elif kind.itemsize == 1:
        low, high = np.iinfo(kind).min, np.iinfo(kind).max
    elif kind.kind == "u":
        low = 0
    return np.asarray(generator.integers(low, high, shape, endpoint=True), kind)


def _shaken(feeds: Named, seed: int) -> Named:
    """Return the same inputs, real numbers moved by their rounding."""
    generator = np.random.default_rng(seed)
    return {
        name: (a * (1 + generator.choice([-ULP, ULP], a.shape))).astype(a.dtype)
        if a.dtype.kind == "f"
        else a
        for name, a in feeds.items()
    }


def _tolerance(value: NDArray[Any], moved: NDArray[Any], least: float) -> tuple[float, str]:
    """Return how far a file may be from an output, relative to its largest; or why nobody knows."""
    if not value.size:
        return 0.0, "it is empty"
    if value.dtype.kind not in "fiub":
        return 0.0, f"it is {value.dtype}"
    if value.dtype.kind != "f":
        same = np.array_equal(value, moved)
        return 0.0, "" if same else "its own rounding decides what it says"
    if not np.isfinite(value).all() or not np.isfinite(moved).all():
        return 0.0, "it is not finite"
    scale = float(np.abs(value).max()) or 1.0
    rounding = float(np.abs(value.astype(np.float64) - moved).max()) / scale
    if ROUNDINGS * rounding > max(MOST_ROUNDING, least):
        return 0.0, "rounding alone moves it by more"
    return max(least, ROUNDINGS * rounding), ""


def certificates(path: Path, reference: NamedReference, runtime: str) -> tuple[Parity, ...]:
    """Return a certificate of every output and case of a file in a runtime.

    Raises:
        ArtifactCheckFailed: An output is missing, of another shape or of another kind of type.
        BadInput: The runtime refuses the file.
    """
    from sepdeploy import measure, runtimes
    from sepdeploy.measure.proof.parity import certify

    version = runtimes.versions().get(runtime, "")
    found = []
    for case in reference.cases:
        _, mine = measure.run_outputs(path, runtime, tuple(map(_as_file, case.inputs.values())))
        for name, tolerance in case.tolerance.items():
            wanted = case.outputs[name]
            own = mine.get(name)
            if own is None or own.shape != wanted.shape or own.dtype.kind != wanted.dtype.kind:
                told = "missing" if own is None else f"{own.dtype} {list(own.shape)}"
                raise ArtifactCheckFailed(
                    f"{path.name} in {runtime}: output '{name}' is {told}, expected "
                    f"{wanted.dtype} {list(wanted.shape)}",
                    hint="nothing was written; --output chooses among the outputs",
                )
            bare = Parity(runtime, version, case.batch, 0.0, 0.0, tolerance, "synthetic")
            rows = len(wanted) if wanted.ndim > 1 else 1
            a, b = (np.asarray(x.reshape(rows, -1), np.float32) for x in (own, wanted))
            judged = certify(a, b, bare, tolerance=tolerance, quantization="none")
            if wanted.dtype.kind != "f":
                judged = replace(judged, passed=np.array_equal(own, wanted))
            found.append(replace(judged, output=name))
    return tuple(found)


def _as_file(array: NDArray[Any]) -> NDArray[Any]:
    """Return an input as exported files take it: float32 for every real number."""
    return array.astype(np.float32) if array.dtype.kind == "f" else array


def proven(
    path: Path, reference: NamedReference, able: Sequence[str]
) -> tuple[tuple[Parity, ...], tuple[str, ...]]:
    """Return certificates and notes of a file that is its source in every runtime.

    Raises:
        ArtifactCheckFailed: It is not, or a runtime refuses it.
    """
    ask = partial(_proven_by, path, able=able)
    try:
        return ask(reference)
    except ArtifactCheckFailed as failed:
        other = reference.otherwise()
        if other is None:
            raise
        try:
            parity, notes = ask(other)
        except ArtifactCheckFailed:
            raise failed from None
        note = f"{path.name} is what {other.said_by} says; {reference.said_by} says otherwise"
        return parity, (*notes, note)


def _proven_by(
    path: Path, reference: NamedReference, able: Sequence[str]
) -> tuple[tuple[Parity, ...], tuple[str, ...]]:
    try:
        parity = tuple(p for runtime in able for p in certificates(path, reference, runtime))
    except NoRoom:
        raise
    except BadInput as error:  # a file of ours that a runtime refuses is a failed export
        message = error.message.replace(str(path), path.name)
        raise ArtifactCheckFailed(message, hint=UNWRITTEN) from error
    for certificate in parity:
        if not certificate.passed:
            raise ArtifactCheckFailed(
                f"{path.name} in {certificate.runtime} {certificate.version}, batch "
                f"{certificate.batch}, output '{certificate.output}': {certificate.max_rel:.2e} "
                f"away from {reference.said_by}, more than {certificate.tolerance:.0e}",
                hint=UNWRITTEN,
            )
    return parity, reference.notes
