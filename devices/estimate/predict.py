"""Estimates a network's latency on a device, with the interval that the model has earned.

The factors come from leaving devices out of the fit (``tests/devices/test_devices_estimate.py``):
×/÷2 holds 41 of 46 published latencies of devices that the fit has not seen. One latency measured
on the device itself (an anchor) removes what the model does not know about it. Where the estimate
rests on anything else than the fitted classes, nothing has been shown, and it says so.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from sepdeploy.devices.estimate.anchors import Anchor
from sepdeploy.devices.estimate.model import (
    FITTED_CORES,
    MODEL,
    coefficients,
    features,
    is_fitted,
    machine,
    overhead_ms,
)
from sepdeploy.devices.estimate.op import DTYPES, KINDS, Op
from sepdeploy.devices.profile import DeviceProfile
from sepdeploy.errors import BadInput

UNCALIBRATED_FACTOR = 2.0
ANCHORED_FACTOR = 1.4  # one thread; with more, an anchor tells less about other networks
ANCHORED_FACTOR_THREADS = 1.7
OUTSIDE_FACTOR = 4.0
OUTSIDE_SHARE = 0.5  # of the estimate


@dataclass(frozen=True)
class LayerEstimate:
    """What one layer costs; ``fitted`` tells whether its operations are of fitted classes.

    ``ms`` is the sum of ``compute_ms``, ``memory_ms`` and ``overhead_ms``.
    """

    name: str
    ms: float
    compute_ms: float
    memory_ms: float
    overhead_ms: float
    macs: int
    fitted: bool


@dataclass(frozen=True)
class Estimate:
    """A latency that nobody measured.

    Attributes:
        device: Its id.
        profile_sha256: Digest of the profile it was made from.
        threads: Threads of the runtime.
        model: Name and version of the cost model.
        ms: Milliseconds an inference.
        low: Lower end of the interval, ms / factor.
        high: Upper end, ms · factor.
        factor: Half-width of the interval, as a factor.
        calibration: "uncalibrated", "anchored" or "outside calibration".
        outside: Share of the estimate that lies outside the fitted classes.
        anchors: How many measured latencies it was scaled by.
        layers: The breakdown, in the order of the network.
        notes: What a reader should know.
    """

    device: str
    profile_sha256: str
    threads: int
    model: str
    ms: float
    low: float
    high: float
    factor: float
    calibration: str
    outside: float
    anchors: int
    layers: tuple[LayerEstimate, ...]
    notes: tuple[str, ...] = ()

    def details(self) -> dict[str, object]:
        """Return what stands beside the value in a measurement."""
        return {
            "low": self.low,
            "high": self.high,
            "factor": self.factor,
            "model": self.model,
            "calibration": self.calibration,
            "outside": round(self.outside, 4),
            "anchors": self.anchors,
            "threads": self.threads,
            "profile_sha256": self.profile_sha256,
            "layers": [
                {"name": x.name, "ms": x.ms, "macs": x.macs, "fitted": x.fitted}
                for x in self.layers
            ],
            "notes": list(self.notes),
        }


def estimate(
    ops: Sequence[Op],
    profile: DeviceProfile,
    *,
    threads: int = 1,
    winograd: bool = False,
    anchors: Sequence[Anchor] = (),
    model_sha256: str = "",
) -> Estimate:
    """Estimate the latency of one inference.

    Args:
        ops: The network, one inference (of whatever batch).
        profile: The device.
        threads: Threads of the runtime.
        winograd: See ``model.features``.
        anchors: Latencies measured on this device in this runtime, see ``anchors.fitting``.
        model_sha256: Digest of the file; an anchor of the same file counts alone.

    Raises:
        BadInput: No operation, or one that is not well-formed.
        Incomparable: The profile does not say enough.
    """
    check_ops(ops)
    on = machine(profile, threads)
    weights = coefficients(on.threads)
    scale, used = _scale(anchors, model_sha256)
    layers: dict[str, LayerEstimate] = {}
    outside = 0.0
    for op in ops:
        terms = [c * x for c, x in zip(weights, features(op, on, winograd=winograd), strict=True)]
        compute, memory = scale * sum(terms[:3]), scale * sum(terms[3:])
        node, fitted = scale * overhead_ms(op, on), is_fitted(op)
        outside += node if fitted else node + compute + memory
        name = op.layer or op.name
        old = layers.get(name, LayerEstimate(name, 0.0, 0.0, 0.0, 0.0, 0, True))
        layers[name] = LayerEstimate(
            name,
            old.ms + compute + memory + node,
            old.compute_ms + compute,
            old.memory_ms + memory,
            old.overhead_ms + node,
            old.macs + op.macs,
            old.fitted and fitted,
        )
    total = sum(layer.ms for layer in layers.values())
    share = outside / total if total else 1.0
    same = bool(used) and used[0].model_sha256 == model_sha256 != ""
    calibration, factor = _interval(share, bool(used), same, on.threads)
    return Estimate(
        device=profile.id,
        profile_sha256=profile.digest,
        threads=on.threads,
        model=MODEL,
        ms=total,
        low=total / factor,
        high=total * factor,
        factor=factor,
        calibration=calibration,
        outside=share,
        anchors=len(used),
        layers=tuple(layers.values()),
        notes=_notes(profile, threads, on.threads, share),
    )


def _interval(outside: float, anchored: bool, same: bool, threads: int) -> tuple[str, float]:
    """Return what the interval rests on, and its factor.

    Over half outside the fitted classes the model has nothing to stand on, unless the very file
    was measured.
    """
    if outside > OUTSIDE_SHARE and not same:
        return "outside calibration", OUTSIDE_FACTOR
    if anchored:
        return "anchored", ANCHORED_FACTOR if threads == 1 or same else ANCHORED_FACTOR_THREADS
    return "uncalibrated", UNCALIBRATED_FACTOR


def _scale(anchors: Sequence[Anchor], model_sha256: str) -> tuple[float, tuple[Anchor, ...]]:
    """Return the geometric mean of measured / estimated, and the anchors that it is from."""
    same = [a for a in anchors if a.model_sha256 == model_sha256 != ""]
    used = tuple(same or anchors)
    if not used:
        return 1.0, ()
    return math.exp(math.fsum(math.log(a.ratio) for a in used) / len(used)), used


def _notes(profile: DeviceProfile, asked: int, threads: int, outside: float) -> tuple[str, ...]:
    notes = []
    if outside > OUTSIDE_SHARE:
        notes.append(
            f"{outside:.0%} of the estimate lies outside the fitted classes (small or int8 "
            "operations, transpositions, the cost of nodes)"
        )
    strange = sorted({c.core for c in profile.cluster} - set(FITTED_CORES))
    if profile.cluster[0].core in strange:
        notes.append(
            f"fitted on {', '.join(FITTED_CORES)}; this device has {profile.cluster[0].core}"
        )
    if threads < asked:
        notes.append(f"the device has {threads} cores; {asked} threads were asked for")
    return tuple(notes)


def check_ops(ops: Sequence[Op]) -> None:
    """Refuse operations that no network has.

    Raises:
        BadInput: None at all, an unknown kind or number format, or a negative count.
    """
    if not ops:
        raise BadInput(
            "nothing to estimate: the network has no operations",
            hint="give the operations of a network: sepdeploy inspect FILE lists its layers",
        )
    for op in ops:
        if op.kind not in KINDS or op.dtype not in DTYPES:
            raise BadInput(
                f"operation {op.name}: unknown kind {op.kind} or format {op.dtype}",
                hint="give the operations of a network: sepdeploy inspect FILE lists its layers",
            )
        if min(op.macs, op.weight_bytes, op.activation_bytes) < 0:
            raise BadInput(
                f"operation {op.name}: counts must not be negative",
                hint="give the operations of a network: sepdeploy inspect FILE lists its layers",
            )
