"""The records that flow between the parts: frozen dataclasses that ``codec`` reads and writes.

A record holds no live object (no session, tensor or open file). Field names are the JSON keys;
what scripts rely on is listed in docs/names.md and carries a schema version.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import PurePath
from typing import Any

from sepdeploy.codec import ABSENT, FLAT
from sepdeploy.errors import BadInput

BENCH_SCHEMA = "sepdeploy.bench/1"
INSPECT_SCHEMA = "sepdeploy.inspect/1"
MANIFEST_SCHEMA = "sepdeploy.manifest/1"
ARTIFACT_SCHEMA = "sepdeploy.artifact/1"
Notify = Callable[[str], None]  # gets a line about what is being done
DOMAIN = "ai.sepdeploy"  # of our custom operators
MAX_FEATURES = 1 << 26  # per sample; anything above is an attack or a typo, not an image


def duration(seconds: float) -> str:
    """Return a time for people: "2 h 05 min", "3 min 20 s", "7 s"."""
    whole = round(seconds)
    hours, minutes = whole // 3600, whole // 60 % 60
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {whole % 60:02d} s" if minutes else f"{whole} s"


class Kind(StrEnum):
    """How a number was obtained; printed beside it, never compared across kinds."""

    STATIC = "STATIC"
    HOST = "HOST"
    EMULATED = "EMULATED"
    ESTIMATED = "ESTIMATED"
    MEASURED = "MEASURED"
    MEASURED_EMULATOR = "MEASURED_EMULATOR"


@dataclass(frozen=True)
class InputSpec:
    """What one sample looks like: (C, H, W) or (features,), values in [0, 1].

    ``mean`` and ``std`` (one per channel, or one in all) are applied *inside* the model.
    """

    shape: tuple[int, ...]
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    class_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.shape or any(n < 1 for n in self.shape):
            raise BadInput(
                f"input shape {self.shape} must have positive dimensions",
                hint="give the shape of one sample, such as 3,32,32",
            )
        if math.prod(self.shape) > MAX_FEATURES:
            raise BadInput(
                f"input shape {self.shape} has more than {MAX_FEATURES} values",
                hint="give the shape of one sample, such as 3,32,32",
            )
        if any(not s > 0 for s in self.std):
            raise BadInput(
                f"input std {self.std} must be positive",
                hint="give the standard deviations of the channels, each above 0",
            )

    @property
    def features(self) -> int:
        """Number of values in one sample."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class PartOf:
    """The layer that several records make up together, by name, and the layer's structure."""

    layer: str
    structure: str


@dataclass(frozen=True)
class LayerRecord:
    """One weight-carrying layer of the canonical graph.

    ``macs`` are per sample. ``params`` include the bias. ``spec`` is the structure's own
    description (see ``sepdeploy.structures``), enough to rebuild shapes without weights.
    ``sigma_max`` and ``sigma_min`` are the extreme singular values of the layer's matrix over its
    structural rank, and ``condition_number`` their ratio; None where they are not known. For a
    convolution with a kernel above 1×1, ``sigma_max`` is an upper bound of its norm. ``part_of``
    says which records are parts of one layer; it is written only where there is one.
    """

    name: str
    structure: str
    factors: tuple[tuple[int, ...], ...]
    params: int
    params_dense: int
    macs: int
    macs_dense: int
    spec: dict[str, Any] = field(default_factory=dict)
    condition_number: float | None = None
    sigma_max: float | None = None
    sigma_min: float | None = None
    part_of: PartOf | None = field(default=None, metadata=ABSENT)


@dataclass(frozen=True)
class Refusal:
    """A lowering form that was considered and not taken."""

    form: str
    reason: str


@dataclass(frozen=True)
class LoweringChoice:
    """The form the planner took for one layer in one format."""

    layer: str
    structure: str
    form: str
    reason: str = ""
    refused: tuple[Refusal, ...] = ()


@dataclass(frozen=True)
class Parity:
    """Numeric agreement of an artifact in one runtime with the model it was made from.

    ``max_rel`` = max|Δlogit| / max|reference logit| over the batch.
    ``inputs`` is "data" (real images) or "synthetic" (seeded uniform ones).
    ``tolerance`` bounds the measure that ``criterion`` names: "max_rel", or "rel_l2" for int8
    (see ``sepdeploy.measure.proof.int8_parity``); ``cosine`` is that of the logits centred over the
    batch. ``proven`` is false where the model gives the same output for every input, which says
    nothing about the file. ``output`` names an output beside
    the main one.
    """

    runtime: str
    version: str
    batch: int
    max_rel: float
    label_agreement: float
    tolerance: float
    inputs: str
    worst_layer: str = ""
    passed: bool = True
    proven: bool = True
    criterion: str = "max_rel"
    rel_l2: float | None = None
    cosine: float | None = None
    output: str = field(default="", metadata=ABSENT)


@dataclass(frozen=True)
class Residency:
    """What a runtime keeps of one structured layer after its own optimisation, in bytes."""

    layer: str
    factor_bytes: int
    resident_bytes: int
    limit_bytes: int
    passed: bool = True


@dataclass(frozen=True)
class LayerPrecision:
    """How one layer's weights are stored in a quantised file.

    ``precision`` is "int8", "fp16", "float32", or "int8+float32" where only some of a layer's
    factors are quantised; ``reason`` says why not all are. ``weight_bytes`` is what a runtime
    keeps per weight, on average.
    """

    layer: str
    precision: str
    reason: str = ""
    weight_bytes: float = 4.0


@dataclass(frozen=True)
class ArtifactRecord:
    """One exported file; ``path`` is relative to the manifest's folder.

    ``sibling`` is the standard file of the same export that stands in for a custom one where
    nothing can run its custom nodes. ``data`` is the file beside it that holds the weights of a
    graph too large for one file; ``file_bytes`` counts both.
    """

    path: str
    format: str  # "onnx" | "tflite"
    flavour: str  # "standard" | "custom"
    quantization: str  # "none" | "dynamic" | "static" | "auto" | "fp16"
    sha256: str
    file_bytes: int
    input_layout: str  # "NCHW" | "NHWC" | "NF"
    input_dtype: str
    lowerings: tuple[LoweringChoice, ...] = ()
    parity: tuple[Parity, ...] = ()
    residency: tuple[Residency, ...] = ()
    notes: tuple[str, ...] = ()
    precisions: tuple[LayerPrecision, ...] = ()
    calibration: dict[str, Any] = field(default_factory=dict)
    sibling: str = ""
    data: FileRef | None = None


@dataclass(frozen=True)
class FileRef:
    """A file beside the manifest, by name and digest."""

    path: str
    sha256: str
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of a network: its name, element type and shape, open sizes being -1."""

    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Manifest:
    """``STEM.manifest.json``: everything that belongs to one export.

    ``input`` is the one float sample that the network takes, null where it takes something else:
    ``inputs`` and ``outputs`` then say what.
    """

    stem: str
    model: FileRef
    input: InputSpec | None
    layers: tuple[LayerRecord, ...]
    artifacts: tuple[ArtifactRecord, ...]
    eval_pack: FileRef | None = None
    provenance: dict[str, Any] = field(default_factory=dict)
    tool: dict[str, str] = field(default_factory=dict)
    inputs: tuple[TensorSpec, ...] = field(default=(), metadata=ABSENT)
    outputs: tuple[TensorSpec, ...] = field(default=(), metadata=ABSENT)
    schema: str = MANIFEST_SCHEMA


@dataclass(frozen=True)
class Measurement:
    """One number with everything needed to trust it.

    ``ci`` is a two-sided 95 % interval. ``details`` holds the metric's own fields (mad, p90,
    attack, eps, images_sha256, low, high, ...); they are written flat into the JSON object.
    A metric that could not be taken has ``value`` None and ``details["reason"]``.
    """

    metric: str
    value: float | int | None
    unit: str
    kind: Kind
    n: int = 1
    ci: tuple[float, float] | None = None
    samples: tuple[float | int, ...] = ()
    details: dict[str, Any] = field(default_factory=dict, metadata=FLAT)


@dataclass(frozen=True)
class ArtifactRef:
    """Which file a result is about."""

    path: str
    sha256: str
    format: str
    flavour: str
    quantization: str


@dataclass(frozen=True)
class RuntimeRef:
    """In which runtime, with how many threads."""

    name: str
    version: str
    threads: int = 1


@dataclass(frozen=True)
class Result:
    """All measurements of one artifact in one runtime on one device."""

    device: dict[str, Any]
    artifact: ArtifactRef
    runtime: RuntimeRef
    measurements: tuple[Measurement, ...]
    notes: tuple[str, ...] = ()

    def get(self, metric: str) -> Measurement | None:
        """Return the first measurement of that name, or None."""
        return next((m for m in self.measurements if m.metric == metric), None)


@dataclass(frozen=True)
class BenchReport:
    """What every table, file and verdict is rendered from."""

    tool: dict[str, Any]
    host: dict[str, Any]
    results: tuple[Result, ...]
    schema: str = BENCH_SCHEMA

    def names(self) -> dict[str, str]:
        """Return a name for every artifact's path: its last parts, as many as tell it apart."""
        parts = {r.artifact.path: PurePath(r.artifact.path).parts for r in self.results}
        names = {}
        for path, own in parts.items():
            others = [p for p in parts.values() if p != own]
            n = 1
            while n < len(own) and any(p[-n:] == own[-n:] for p in others):
                n += 1
            names[path] = "/".join(own[-n:])
        return names
