"""What a file holds, layer by layer: from a model with torch, from an artifact without."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from sepdeploy.codec import ABSENT
from sepdeploy.errors import NEW_FILE, BadInput
from sepdeploy.exporters.entry import has_entry, read_entry
from sepdeploy.exporters.facts import Affine as Affine
from sepdeploy.exporters.facts import FileFacts as FileFacts
from sepdeploy.exporters.facts import FileLayer, describe
from sepdeploy.exporters.formats import FORMATS, told_format
from sepdeploy.files import open_plain
from sepdeploy.records import INSPECT_SCHEMA, InputSpec, LayerRecord, Notify
from sepdeploy.workflows.factored import merge_factored
from sepdeploy.workflows.options import FrequencyOptions

if TYPE_CHECKING:
    from sepdeploy.compression.decompositions import Decompositions as Decompositions
    from sepdeploy.models import Model
    from sepdeploy.workflows.frequencies import FrequencyReport


@dataclass(frozen=True)
class Total:
    """Sums over all layers; of a file that others wrote, what is known of the whole file."""

    params: int
    params_dense: int
    macs: int | None
    macs_dense: int | None


@dataclass(frozen=True)
class Stretch:
    """How much the whole network can stretch a change of its input, Euclidean norms on both sides.

    ``bound`` = ``input`` (the largest 1/std of the normalisation) times the product of the layers'
    ``sigma_max`` and of the ``others`` (batch normalisations); None for the ``reason`` given.
    ``so_far`` has the product up to each layer, by its name in the report.
    """

    bound: float | None
    input: float
    others: dict[str, float]
    so_far: dict[str, float]
    reason: str = ""


@dataclass(frozen=True)
class InspectReport:
    """The layers of one file; the three parts of a factored convolution are one of them.

    ``stretch`` is None for an exported file, which does not say how its layers are connected;
    ``frequency`` where it was not asked for. A file that others wrote tells its own ``file``, and
    has no ``input`` where it takes something else than one float sample.
    """

    path: str
    format: str
    input: InputSpec | None
    layers: tuple[LayerRecord, ...] | tuple[FileLayer, ...]
    total: Total
    notes: tuple[str, ...] = ()
    stretch: Stretch | None = None
    frequency: FrequencyReport | None = field(default=None, metadata=ABSENT)
    file: FileFacts | None = field(default=None, metadata=ABSENT)
    decompositions: tuple[Decompositions, ...] = field(default=(), metadata=ABSENT)
    schema: str = INSPECT_SCHEMA


def sniff(path: Path) -> str:
    """Tell "pt", "onnx" or "tflite" by content first and by suffix where content cannot tell.

    Raises:
        BadInput: Unreadable, empty or none of the three.
    """
    try:
        with open_plain(path) as stream:
            head = stream.read(8)
    except OSError as error:
        raise BadInput(f"cannot read {path}: {error.strerror}", hint="check the path") from error
    row = told_format(path, head)
    if row is not None and row.head and row.head(head):
        return row.name
    if head[:4] == b"PK\x03\x04" and path.suffix != ".npz":
        return "pt"
    if row is None and path.suffix not in (".pt", ".pth"):
        known = " or ".join(row.suffix for row in FORMATS.values())
        raise BadInput(
            f"{path} is not a .pt, {known} file", hint="give a .pt, .onnx or .tflite file"
        )
    if not head:
        raise BadInput(f"{path} is empty", hint=NEW_FILE)
    return "pt" if row is None else row.name


def total_of(layers: tuple[LayerRecord, ...]) -> Total:
    """Return the sums over layers."""
    return Total(
        params=sum(layer.params for layer in layers),
        params_dense=sum(layer.params_dense for layer in layers),
        macs=sum(layer.macs for layer in layers),
        macs_dense=sum(layer.macs_dense for layer in layers),
    )


def inspect_file(path: Path, wanted: FrequencyOptions, notify: Notify) -> InspectReport:
    """Describe a .pt, .onnx or .tflite file; see ``sepdeploy.api.inspect``."""
    kind, arch = sniff(path), wanted.arch
    if arch is not None and kind != "pt":
        raise BadInput(
            f"--arch {arch} has no effect on {path}: an exported file holds its own layers",
            hint="leave --arch out",
        )
    if wanted.decompositions and kind != "pt":
        raise BadInput(
            f"--decompositions has no effect on {path}: it factors the kernels of a model",
            hint="give the .pt file that it was exported from",
        )
    stretch = None
    model: Model | None = None
    if kind == "pt":
        from sepdeploy.exports.requirements import require_torch

        require_torch("inspect a .pt file")
        from sepdeploy.models import load
        from sepdeploy.models.analysis.layer_table import layer_records
        from sepdeploy.models.analysis.lipschitz import lipschitz_bound

        wanted.refuse_shapes(path)
        model = load(path, arch=arch)
        spec, parts = model.input, layer_records(model.net, model.input, thorough=True)
        params = model.params
        found = lipschitz_bound(model, {r.name: r.sigma_max for r in parts})
        layers, owners = merge_factored(parts)
        stretch = _stretch(found.bound, found.input, found.gains, owners, found.reason)
    elif not has_entry(path):
        return _by_itself(path, kind, wanted, notify)
    else:
        entry = read_entry(path)
        wanted.refuse_shapes(path)
        spec, layers = entry.input, merge_factored(entry.layers)[0]
        params = sum(layer.params for layer in layers)
    total = total_of(layers)
    notes: tuple[str, ...] = ()
    if params > total.params:
        notes = (f"{params - total.params:,} further parameters outside these layers",)
    frequency = None
    if wanted.frequency:
        from sepdeploy.workflows.frequencies import frequencies

        frequency = frequencies(path, spec, model, wanted, notify)
    ways: tuple[Decompositions, ...] = ()
    if wanted.decompositions and model is not None:
        from sepdeploy.compression.decompositions import decompositions

        ways = decompositions(model)
        if not ways:
            raise BadInput(
                f"--decompositions has no effect on {path}: it has no convolution to factor",
                hint="leave --decompositions out",
            )
    return InspectReport(
        str(path), kind, spec, layers, total, notes, stretch, frequency, decompositions=ways
    )


def _by_itself(path: Path, kind: str, wanted: FrequencyOptions, notify: Notify) -> InspectReport:
    """Describe a file that others wrote."""
    found = describe(path, wanted.shapes)
    total = Total(found.params, found.params, found.macs, found.macs)
    outside = found.params - sum(layer.params for layer in found.layers)
    notes = found.file.notes
    if outside > 0:
        notes = (*notes, f"{outside:,} further parameters outside these layers")
    spec = None if found.sample is None else InputSpec(found.sample)
    frequency = None
    if wanted.frequency:
        from sepdeploy.workflows.frequencies import frequencies

        if spec is None:
            raise BadInput(
                f"{path} does not take one image of known size, so it has no frequencies",
                hint="leave --frequency out; --input-shape fixes open sizes",
            )
        frequency = frequencies(path, spec, None, wanted, notify)
    return InspectReport(
        str(path), kind, spec, found.layers, total, notes, None, frequency, found.file
    )


def _stretch(
    bound: float | None,
    scale: float,
    gains: Mapping[str, float],
    owners: Mapping[str, str],
    reason: str,
) -> Stretch:
    """Running products, by the layers of the report.

    Args:
        bound: The whole product.
        scale: What it starts from.
        gains: Of layers and batch normalisations, in order.
        owners: The reported layer that each weight-carrying layer belongs to.
        reason: Why there is no bound.
    """
    if bound is None:
        return Stretch(None, scale, {}, {}, reason)
    so_far: dict[str, float] = {}
    product = scale
    layer = ""
    for name, gain in gains.items():
        product *= gain
        layer = owners.get(name, layer)
        if layer:
            so_far[layer] = product
    others = {name: gain for name, gain in gains.items() if name not in owners}
    return Stretch(bound, scale, others, so_far)
