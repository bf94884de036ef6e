"""How far is every layer of an artifact from what it should compute?

A file need not hold a layer's own result: batch normalisation is folded into it, its activation is
fused, memory is kept in another order. So a layer is compared at the first of the values behind it
that both sides hold, each axis order is tried, and the agreeing pair counts. What a wrong layer
holds agrees with none of them.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, NodeProto, TensorProto

from sepdeploy import runtimes
from sepdeploy.errors import BadInput, SepdeployError
from sepdeploy.exporters.domain import DOMAIN
from sepdeploy.exporters.entry import has_entry, read_entry
from sepdeploy.exporters.formats import PROTOBUF_LIMIT
from sepdeploy.measure.child import run_logits
from sepdeploy.measure.proof.looks import look
from sepdeploy.measure.proof.oracle import oracle_graph, oracle_values
from sepdeploy.measure.proof.resident_graph import ResidentGraph
from sepdeploy.measure.proof.values import runtime_values

Array = npt.NDArray[np.float32]
SAMPLES = 8
LOGITS = "logits"
LIMIT_DB = 300.0
AGREES_DB = 60.0  # no other pair of values is looked at once two agree so well
MAX_AXES = 4  # of one sample, in whose orders agreement is looked for
# What may stand between a layer and the value that a file holds of it.
FOLLOWED = {"BatchNormalization", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze"}
FOLLOWED |= {"Relu", "Clip", "LeakyRelu", "Sigmoid", "Tanh", "Gelu", "Elu", "Selu", "Mish"}
FOLLOWED |= {"HardSwish", "HardSigmoid", "Softplus", "Identity", "Cast"}
SCALING = {"Add", "Sub", "Mul", "Div"}  # with a constant, which is folded into the layer before
WEIGHTED = {"Conv", "ConvTranspose", "Gemm", "MatMul"}


@dataclass(frozen=True)
class LayerFidelity:
    """One layer of an artifact beside its reference.

    Attributes:
        layer: Its name; "logits" for the output.
        kind: The structure or operator.
        value: The value of the canonical graph at which it was compared.
        max_abs: max|Δ|; None where the artifact's values are not finite.
        max_rel: max|Δ| / max|reference|; None likewise.
        sqnr_db: 10 log₁₀(Σ reference² / Σ Δ²) within ±300; None where the two are equal.
        cosine: Of the two as vectors; None where one of them is all zero or not finite.
    """

    layer: str
    kind: str
    value: str
    max_abs: float | None
    max_rel: float | None
    sqnr_db: float | None
    cosine: float | None


@dataclass(frozen=True)
class Place:
    """A layer of a graph and the values at which it may be compared, nearest first."""

    layer: str
    kind: str
    nodes: tuple[str, ...]
    values: tuple[str, ...]


def compare_with_oracle(
    path: str | os.PathLike[str], runtime: str, images: Array, canonical: ModelProto
) -> tuple[LayerFidelity, ...]:
    """Compare each layer of an artifact with the canonical graph, its structured layers dense.

    Args:
        path: The artifact.
        runtime: A name of ``runtimes.RUNTIMES``.
        images: float32 (N, *shape) in [0, 1]; the first eight are used.
        canonical: The canonical graph with its weights.

    Returns:
        The layers that could be compared, in graph order; the logits last.

    Raises:
        BadInput: The file is not usable.
        Missing: The runtime is not installed.
    """
    images = images[:SAMPLES]
    places = layer_places(canonical)
    types = {o.name: o.type.tensor_type.elem_type for o in canonical.graph.output}
    real = (name for name, kind in types.items() if kind == TensorProto.FLOAT)
    output = LOGITS if LOGITS in types else next(real, canonical.graph.output[0].name)
    names = list(dict.fromkeys([*(v for p in places for v in p.values), output]))
    expected = oracle_values(oracle_graph(canonical), images, names)
    held = artifact_values(path, runtime, images, places)
    rows = []
    for place in places:
        wanted = {v: expected[v] for v in place.values if v in expected}
        row = _closest(place, held[place.layer], wanted)
        rows += [row] if row else []
    logits, _ = run_logits(path, runtime, images, batches=(len(images),))
    return (*rows, fidelity(LOGITS, "output", LOGITS, logits[0], expected[output]))


def compare_artifacts(
    path: str | os.PathLike[str],
    other: str | os.PathLike[str],
    images: Array,
    *,
    runtime: str | None = None,
) -> tuple[LayerFidelity, ...]:
    """Compare two artifacts at every layer whose name both have, and at the logits.

    Args:
        path: The artifact that is judged.
        other: The artifact that is the reference.
        images: float32 (N, *shape) in [0, 1]; the first eight are used.
        runtime: Of ``path``; by default the first one installed, as for ``other``.

    Returns:
        The layers that could be compared, in the order of ``path``; the logits last.

    Raises:
        BadInput: A file is not usable, or they answer with different shapes.
        Missing: A runtime is not installed.
    """
    images = images[:SAMPLES]
    files = ((path, runtimes.choose(path, runtime)), (other, runtimes.choose(other, None)))
    found, outputs = [], []
    graphs = [described_graph(file) for file, _ in files]
    all_places = [{p.layer: p for p in layer_places(graph)} if graph else {} for graph in graphs]
    shared = [layer for layer in all_places[0] if layer in all_places[1]]
    for (file, name), places in zip(files, all_places, strict=True):
        found.append(artifact_values(file, name, images, [places[x] for x in shared]))
        outputs.append(run_logits(file, name, images, batches=(len(images),))[0][0])
    if outputs[0].shape != outputs[1].shape:
        raise BadInput(
            f"{path} gives logits {outputs[0].shape}, {other} gives {outputs[1].shape}",
            hint="compare files of the same classes",
        )
    rows = []
    for layer in shared:
        row = _closest(all_places[0][layer], found[0][layer], found[1][layer])
        rows += [row] if row else []
    return (*rows, fidelity(LOGITS, "output", LOGITS, outputs[0], outputs[1]))


def worst_layer(rows: Sequence[LayerFidelity]) -> str:
    """Return the name of the layer with the lowest SQNR, "" where all are equal bit by bit.

    The logits count only where no layer differs.
    """
    rated = [(r.layer == LOGITS, r.sqnr_db, r.layer) for r in rows if r.sqnr_db is not None]
    return min(rated)[2] if rated else ""


def faulty_layer(
    path: str | os.PathLike[str],
    runtime: str,
    images: Array,
    canonical: ModelProto,
    tolerance: float,
) -> str:
    """Return the layer where an artifact begins to deviate, "" where none or it cannot be told.

    An error travels on through the layers behind and may grow there, so the first layer beyond
    the tolerance is the one at fault, not the worst. It only explains a failure that is known
    already, so what it cannot run is no failure of its own.

    Args:
        path: The artifact.
        runtime: A name of ``runtimes.RUNTIMES``.
        images: As in ``compare_with_oracle``.
        canonical: The canonical graph with its weights.
        tolerance: Largest max|Δ| / max|reference| of a right layer.
    """
    if canonical.ByteSize() > PROTOBUF_LIMIT // 2:  # the oracle adds up to 1 GiB of dense matrices
        return ""
    try:
        rows = compare_with_oracle(path, runtime, images, canonical)
    except SepdeployError:
        return ""
    wrong = (r.layer for r in rows[:-1] if r.max_rel is None or r.max_rel > tolerance)
    return next(wrong, "")


def described_graph(path: str | os.PathLike[str]) -> ModelProto | None:
    """Return the graph that names an artifact's layers: its entry's, or an .onnx file's own.

    None for a .tflite file of others, which names no layers of a network.

    Raises:
        BadInput: A file that cannot be read.
    """
    if has_entry(Path(path)):
        return read_entry(Path(path)).graph
    own = look(path).graph
    return None if own is None else own(Path(path))


def has_reduced_weights(path: str | os.PathLike[str]) -> bool:
    """Whether a file keeps weights in less than float32.

    Raises:
        BadInput: The file cannot be read.
    """
    return look(path).reduced(Path(path))


def layer_places(model: ModelProto) -> list[Place]:
    """Return every weight-carrying layer of a graph, and where it may be compared."""
    graph = model.graph
    constants = {t.name for t in graph.initializer}
    weights = {t.name for t in graph.initializer if len(t.dims) > 1}
    readers: dict[str, list[NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    places = []
    for node in graph.node:
        own = [name for name in node.input if name in weights]
        if node.domain != DOMAIN and not (own and node.op_type in WEIGHTED):
            continue
        chain = [node]
        while len(found := readers.get(chain[-1].output[0], [])) == 1:
            (after,) = found
            scales = after.op_type in SCALING and constants.intersection(after.input)
            if after.domain or not (scales or after.op_type in FOLLOWED):
                break
            chain.append(after)
        # An exporter that folds a normalisation may name the node after that; weights keep theirs.
        stem = "" if node.domain else own[0].rpartition(".")[0].removesuffix(".factors")
        kind = node.op_type.removesuffix("Linear").lower() if node.domain else node.op_type
        names = tuple(name for name in (stem, *(n.name for n in chain)) if name)
        layer = stem or node.name or node.output[0]
        places.append(Place(layer, kind, names, tuple(n.output[0] for n in chain)))
    return places


def artifact_values(
    path: str | os.PathLike[str], runtime: str, images: Array, places: Sequence[Place]
) -> dict[str, dict[str, Array]]:
    """Return, per layer, the values of one run that may be its result, by their name in the file.

    A .tflite file is run by the runtime's plain kernels: its fast path keeps no values.

    Raises:
        BadInput: The file is not usable.
        Missing: The runtime is not installed.
    """
    own = look(path)
    if own.keeps_names:
        names = {p.layer: list(p.values) for p in places}
    else:
        graph = own.resident(Path(path))
        names = {p.layer: _results(p, graph) for p in places}
    wanted = sorted({name for found in names.values() for name in found})
    held = runtime_values(path, runtime, images, wanted) if wanted else {}
    return {
        layer: {name: held[name] for name in found if name in held}
        for layer, found in names.items()
    }


def _results(place: Place, graph: ResidentGraph) -> list[str]:
    """Return the values of a file with own names that may be a layer's result, the last one first.

    What is computed before the layer's last weight is read belongs to its input or its inside.
    """
    prefixes = tuple(f"{name}/" for name in place.nodes)
    own = {name for name in graph.constants if name.startswith(prefixes)}
    reading = [i for i, node in enumerate(graph.nodes) if own.intersection(node.inputs)]
    after = graph.nodes[max(reading, default=0) :]
    # The operator that reads it may be fused with, and named after, one that no chain follows.
    named = {*place.values, *(after[0].outputs if reading else ())}
    computed = [o for node in after for o in node.outputs]
    return [t for t in reversed(computed) if t in named or t.startswith(prefixes)]


def _closest(
    place: Place, held: Mapping[str, Array], expected: Mapping[str, Array]
) -> LayerFidelity | None:
    """Return the comparison of the pair of values that agree best; None where none fit."""
    best: LayerFidelity | None = None
    for value, reference in expected.items():
        ordered = sorted(held, key=lambda name: name != value)
        for name in ordered:
            for array, target in _arrangements(held[name], reference):
                row = fidelity(place.layer, place.kind, value, array, target)
                if best is None or _rank(row) > _rank(best):
                    best = row
                if _rank(row) >= AGREES_DB:
                    return row
    return best


def _rank(row: LayerFidelity) -> float:
    return math.inf if row.sqnr_db is None else row.sqnr_db


def _arrangements(value: Array, reference: Array) -> Iterator[tuple[Array, Array]]:
    """Yield both arrays as (N, values), each in turn with its axes in every order."""
    if value.dtype.kind != "f" or reference.dtype.kind != "f" or not reference.size:
        return
    if value.size != reference.size or len(value) != len(reference):
        return
    rows = len(reference)
    flat = reference.reshape(rows, -1)
    for array in _orders(value):
        yield array, flat
    own = value.reshape(rows, -1)
    for array in itertools.islice(_orders(reference), 1, None):
        yield own, array


def _orders(array: Array) -> Iterator[Array]:
    sides = [n for n in array.shape[1:] if n != 1]
    compact = array.reshape(len(array), *sides)
    axes = range(1, len(sides) + 1)
    for order in itertools.permutations(axes) if len(sides) <= MAX_AXES else [tuple(axes)]:
        yield compact.transpose(0, *order).reshape(len(array), -1)


def fidelity(layer: str, kind: str, value: str, found: Array, reference: Array) -> LayerFidelity:
    """Compare two arrays of one shape."""
    a, b = found.astype(np.float64).ravel(), reference.astype(np.float64).ravel()
    if not np.isfinite(a).all():
        return LayerFidelity(layer, kind, value, None, None, -LIMIT_DB, None)
    delta = a - b
    worst, scale = float(np.abs(delta).max()), float(np.abs(b).max())
    noise, signal = float(delta @ delta), float(b @ b)
    sqnr = None
    if noise:
        ratio = signal / noise
        sqnr = min(LIMIT_DB, max(-LIMIT_DB, 10 * math.log10(ratio))) if ratio else -LIMIT_DB
    norms = math.sqrt(signal * float(a @ a))
    cosine = float(a @ b) / norms if norms else None
    return LayerFidelity(layer, kind, value, worst, worst / (scale or 1.0), sqnr, cosine)
