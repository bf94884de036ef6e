"""What to quantise and how, and what became of each layer: the same for both formats."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from sepdeploy.errors import REPORT, BadInput
from sepdeploy.exporters.quantize.scales import Affine, affine
from sepdeploy.records import LayerPrecision

INT8, HALF, FLOAT = "int8", "fp16", "float32"
Range = tuple[float, float]


@dataclass(frozen=True)
class Scheme:
    """How a float graph is to be quantised.

    Attributes:
        mode: "dynamic": int8 weights, activations quantised at run time. "static": int8 weights
            and activations, by calibrated ranges. "fp16": float16 weights, float32 arithmetic.
        structures: Weight-carrying layer to its structure, in the order of the layer table.
        keep_float: Layers that stay float32, each with the reason.
        ranges: Activation name to the smallest and largest value seen; for "static".
    """

    mode: str
    structures: Mapping[str, str] = field(default_factory=dict)
    keep_float: Mapping[str, str] = field(default_factory=dict)
    ranges: Mapping[str, Range] = field(default_factory=dict)

    def layer(self, name: str) -> str:
        """Return the layer that a node or tensor belongs to by its name; else its own scope."""
        return self._found(name) or name.rpartition("/")[0] or name

    def knows(self, name: str) -> bool:
        """Whether a node or tensor is named after a layer."""
        return bool(self._found(name))

    def _found(self, name: str) -> str:
        found = (x for x in self.structures if name == x or name.startswith((f"{x}/", f"{x}.")))
        return max(found, key=len, default="")

    def storage(self, name: str) -> Affine:
        """Return how an activation is stored.

        Raises:
            BadInput: It was not calibrated.
        """
        if name not in self.ranges:
            raise BadInput(f"activation '{name}' was not calibrated", hint=REPORT)
        return affine(*self.ranges[name])


@dataclass
class _Tally:
    values: int = 0
    stored: int = 0
    integer: int = 0
    reason: str = ""


class Ledger:
    """Collects, weight by weight, how each layer is stored."""

    def __init__(self, scheme: Scheme) -> None:
        self.scheme = scheme
        self._layers: dict[str, _Tally] = {name: _Tally() for name in scheme.structures}

    def add(self, layer: str, values: int, width: int, reason: str, scale_bytes: int = 0) -> None:
        """Note that a layer keeps ``values`` weights of ``width`` bytes each.

        Args:
            layer: Its name.
            values: Number of weights.
            width: Bytes that the runtime keeps per weight.
            reason: Why they stay float32, "" where they do not.
            scale_bytes: What the runtime keeps for their scales.
        """
        tally = self._layers.setdefault(layer, _Tally())
        tally.values += values
        tally.stored += values * width + scale_bytes
        tally.integer += 0 if reason else values
        tally.reason = tally.reason or reason

    def precisions(self) -> tuple[LayerPrecision, ...]:
        """Return the precision of every layer that has weights."""
        low = HALF if self.scheme.mode == "fp16" else INT8
        rows = []
        for name, tally in self._layers.items():
            if not tally.values:
                continue
            whole = tally.integer == tally.values
            precision = low if whole else f"{low}+{FLOAT}" if tally.integer else FLOAT
            width = tally.stored / tally.values
            rows.append(LayerPrecision(name, precision, "" if whole else tally.reason, width))
        return tuple(rows)


def quantized_layers(precisions: Iterable[LayerPrecision]) -> tuple[str, ...]:
    """Return the layers that are not plain float32."""
    return tuple(p.layer for p in precisions if p.precision != FLOAT)


def check_any(precisions: Sequence[LayerPrecision], mode: str, format_name: str) -> None:
    """Refuse a file in which nothing was quantised.

    Raises:
        BadInput: No layer could be; the first reason is named.
    """
    if not quantized_layers(precisions):
        why = next((p.reason for p in precisions if p.reason), "no weights worth it")
        raise BadInput(
            f"--quantize {mode} changes nothing in the .{format_name} file: {why}",
            hint="choose another mode or another format (-f), or leave --quantize out",
        )
