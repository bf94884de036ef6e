"""Estimates a network's latency on a device, with the interval that the model has earned.

Where enough networks were published for the kind of core, number format and number of threads, the
interval holds 80 % of latencies of architectures that the fit had not seen (``calibration``), and
the estimate is "calibrated". Elsewhere ×/÷2 held 41 of 46 published latencies of devices that were
left out. One latency measured on the device itself (an anchor) removes what the model does not know
about it. Where the estimate rests on anything else than the fitted classes, nothing has been shown,
and it says so.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from sepdeploy.devices.estimate.anchors import Anchor
from sepdeploy.devices.estimate.calibration import FITTED_CORES, Claim, calibration
from sepdeploy.devices.estimate.model import (
    MODEL,
    Machine,
    coefficients,
    cost_ms,
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
        calibration: "calibrated", "uncalibrated", "anchored" or "outside calibration".
        outside: Share of the estimate that lies outside the fitted classes.
        anchors: How many measured latencies it was scaled by.
        layers: The breakdown, in the order of the network.
        validation: What the interval was shown by, "" where nothing was.
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
    validation: str = ""
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
            "validation": self.validation,
            "parts": {
                part: math.fsum(getattr(x, f"{part}_ms") for x in self.layers)
                for part in ("compute", "memory", "overhead")
            },
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
    runtime: str = "",
    winograd: bool = False,
    anchors: Sequence[Anchor] = (),
    model_sha256: str = "",
) -> Estimate:
    """Estimate the latency of one inference.

    Args:
        ops: The network, one inference (of whatever batch).
        profile: The device.
        threads: Threads of the runtime.
        runtime: Its name; only what was measured with its kernels is evidence.
        winograd: See ``model.features``.
        anchors: Latencies measured on this device in this runtime, see ``anchors.fitting``.
        model_sha256: Digest of the file; an anchor of the same file counts alone.

    Raises:
        BadInput: No operation, or one that is not well-formed.
        Incomparable: The profile does not say enough.
    """
    check_ops(ops)
    on = machine(profile, threads)
    core = profile.cluster[0].core
    scale, used = _scale(anchors, model_sha256)
    layers: dict[str, LayerEstimate] = {}
    outside = 0.0
    formats: dict[str, float] = {}
    for op in ops:
        cost = _op(op, on, core, winograd)
        layers[cost.name] = _sum(layers.get(cost.name), cost, scale)
        outside += scale * (cost.overhead_ms if cost.fitted else cost.ms)
        formats[op.dtype] = formats.get(op.dtype, 0.0) + cost.ms
    total = sum(layer.ms for layer in layers.values())
    share = outside / total if total else 1.0
    same = bool(used) and used[0].model_sha256 == model_sha256 != ""
    dtype = max(formats, key=lambda d: formats[d])
    claim = calibration().claim(core, dtype, on.threads, runtime)
    kind, factor = _interval(share, bool(used), same, on.threads, claim)
    return Estimate(
        device=profile.id,
        profile_sha256=profile.digest,
        threads=on.threads,
        model=MODEL,
        ms=total,
        low=total / factor,
        high=total * factor,
        factor=factor,
        calibration=kind,
        outside=share,
        anchors=len(used),
        layers=tuple(layers.values()),
        validation=claim.sentence if claim is not None and kind == "calibrated" else "",
        notes=_notes(profile, threads, on.threads, share),
    )


def _op(op: Op, on: Machine, core: str, winograd: bool) -> LayerEstimate:
    """Return what one operation costs, under the name of its layer."""
    by = calibration().factors_of(core, op.dtype)
    row = features(op, on, winograd=winograd)
    compute, memory = cost_ms(coefficients(on.threads), row, by)
    node = overhead_ms(op, on)
    fitted = is_fitted(op, core)
    ms = compute + memory + node
    return LayerEstimate(op.layer or op.name, ms, compute, memory, node, op.macs, fitted)


def _sum(old: LayerEstimate | None, cost: LayerEstimate, scale: float) -> LayerEstimate:
    """Return a layer with another operation of it."""
    start = old or LayerEstimate(cost.name, 0.0, 0.0, 0.0, 0.0, 0, True)
    return LayerEstimate(
        cost.name,
        start.ms + scale * cost.ms,
        start.compute_ms + scale * cost.compute_ms,
        start.memory_ms + scale * cost.memory_ms,
        start.overhead_ms + scale * cost.overhead_ms,
        start.macs + cost.macs,
        start.fitted and cost.fitted,
    )


def _interval(
    outside: float, anchored: bool, same: bool, threads: int, claim: Claim | None
) -> tuple[str, float]:
    """Return what the interval rests on, and its factor.

    Over half outside the fitted classes the model has nothing to stand on, unless the very file
    was measured. An anchor never makes the interval wider.
    """
    if outside > OUTSIDE_SHARE and not same:
        return "outside calibration", OUTSIDE_FACTOR
    shown = UNCALIBRATED_FACTOR if claim is None else claim.within
    if anchored:
        one = threads == 1 or same
        return "anchored", min(ANCHORED_FACTOR if one else ANCHORED_FACTOR_THREADS, shown)
    return ("uncalibrated" if claim is None else "calibrated"), shown


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
            f"{outside:.0%} of the estimate lies outside the fitted classes (small "
            "operations, int8 where nothing is published, transpositions, the cost of nodes)"
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
