"""What the gate knows about each metric, and what makes a measurement of it believable.

Fields that the gate reads beside those of ``Measurement`` itself:

``latency_ms``, plain
    ``samples``: milliseconds per inference, in time order; ``batch``.
``latency_ms``, interleaved (``bench --against OLD``)
    ``interleaved``: true; ``against``: {``path``, ``sha256``} of the old artifact; ``rounds``: how
    many rounds both were timed in by turns; ``old_samples``, ``new_samples``: milliseconds per
    inference in time order, the same number in every round (so their lengths are multiples of
    ``rounds``). ``value`` is the median of the new one.
``noise_floor`` (``bench --calibrate``)
    Unit "ratio": the relative difference between two runs of the same file that noise alone
    explains. ``value`` for two separate runs, ``interleaved`` for rounds by turns; see
    ``sepdeploy.measure.statistics.noise_floor``, which computes both.
``instructions``
    ``dot``: how many of them are dot products; ``simd``, ``ldst``, ``fmla`` are shown only.
``clean_accuracy``, ``adversarial_accuracy``
    ``samples``: 0 or 1 per image; ``images_sha256``: digest of the images and labels; and for the
    second ``attack``, ``eps``, ``norm``, ``steps``, ``restarts``.
any metric
    ``layers``: {layer name: its share of ``value``}, so that a verdict can name the layer that
    moved; ``throttled`` or ``unstable``: true when the measurement is void, with ``reason``.
    A ``throttled`` device voids its latencies.
``Result.device``
    ``id``; ``profile_sha256``: digest of the emulation and cluster parts of the profile (absent
    for the host); ``emulator``: {``name``, ``version``, ``libc``, ``plugin``} where emulated;
    ``throttled``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from sepdeploy.errors import BadInput
from sepdeploy.records import Kind, Measurement

COUNTS = ("params", "macs", "file_bytes", "factor_bytes", "resident_bytes")
ACCURACIES = ("clean_accuracy", "adversarial_accuracy")
LATENCY = "latency_ms"
INSTRUCTIONS = "instructions"
NOISE_FLOOR = "noise_floor"
INTERLEAVED = "interleaved"
INTERLEAVED_FIELDS = (INTERLEAVED, "against", "rounds", "old_samples", "new_samples")
VOID_FLAGS = ("throttled", "unstable")

# Every metric of a report (DESIGN "Names that scripts rely on"); others are shown, never gated.
KNOWN = (
    *COUNTS,
    "params_dense",
    "peak_rss_bytes",
    LATENCY,
    "load_ms",
    "latency_vs_dense",
    *ACCURACIES,
    INSTRUCTIONS,
    "parity_max_rel",
    "condition_number",
)

# Two measurements of one metric in one result differ in these.
VARIANTS: Mapping[str, tuple[str, ...]] = {
    LATENCY: ("batch", "kernels"),
    "latency_vs_dense": ("batch", "kernels"),
    INSTRUCTIONS: ("batch",),
    "adversarial_accuracy": ("attack", "eps", "norm", "steps", "restarts"),
}

# Where a metric is judged against a baseline. Clocks of a host are judged only by interleaving.
GATED_KINDS: Mapping[str, frozenset[Kind]] = {
    **{name: frozenset({Kind.STATIC}) for name in COUNTS},
    INSTRUCTIONS: frozenset({Kind.EMULATED}),
    LATENCY: frozenset({Kind.MEASURED}),
    **{
        name: frozenset({Kind.HOST, Kind.EMULATED, Kind.MEASURED, Kind.MEASURED_EMULATOR})
        for name in ACCURACIES
    },
}
INTERLEAVED_KINDS = frozenset({Kind.HOST, Kind.MEASURED, Kind.MEASURED_EMULATOR})


def is_interleaved(measurement: Measurement) -> bool:
    """Tell whether old and new were timed by turns in one run."""
    return measurement.metric == LATENCY and measurement.details.get(INTERLEAVED) is True


def is_gated(measurement: Measurement) -> bool:
    """Tell whether the measurement is judged against a baseline, whatever the rules say."""
    kinds = GATED_KINDS.get(measurement.metric, frozenset())
    return measurement.kind in kinds and not is_interleaved(measurement)


def variant(measurement: Measurement) -> tuple[str, ...]:
    """Return what tells two measurements of one metric apart ("batch=1", "eps=0.1")."""
    fields = VARIANTS.get(measurement.metric, ())
    details = measurement.details
    parts = [f"{name}={details[name]}" for name in fields if details.get(name) is not None]
    return tuple([*parts, INTERLEAVED] if is_interleaved(measurement) else parts)


def void_reason(measurement: Measurement) -> str:
    """Return why a measurement is void ("throttled", "unstable: ..."), or nothing."""
    for flag in VOID_FLAGS:
        if measurement.details.get(flag):
            reason = measurement.details.get("reason")
            return f"{flag}: {reason}" if isinstance(reason, str) and reason else flag
    return ""


def validate(measurement: Measurement, where: str) -> None:
    """Refuse numbers that cannot be: NaN, accuracies above 1, a value its samples contradict.

    Raises:
        BadInput: Naming the metric and what is wrong with it.
    """
    where = f"{where}: {measurement.metric}"
    value, samples = measurement.value, measurement.samples
    if value is None:
        return
    if not math.isfinite(value):
        raise BadInput(f"{where} is {value}", hint="repeat the bench; NaN is not a measurement")
    if any(not math.isfinite(s) for s in samples):
        raise BadInput(f"{where} has samples that are not finite", hint="repeat the bench")
    if value < 0 or any(s < 0 for s in samples):
        raise BadInput(f"{where} is negative")
    if measurement.metric in ACCURACIES:
        _validate_accuracy(measurement, where)
    elif measurement.metric == LATENCY:
        _validate_latency(measurement, where)
    elif measurement.metric == INSTRUCTIONS:
        dot = measurement.details.get("dot", 0)
        if not _is_number(dot) or dot < 0:
            raise BadInput(f"{where} has dot {dot!r}, expected a count")


def _validate_accuracy(measurement: Measurement, where: str) -> None:
    value, samples = measurement.value, measurement.samples
    if value is None or value > 1:
        raise BadInput(f"{where} is {value}", hint="accuracies are fractions between 0 and 1")
    if not samples:
        return
    if any(s not in (0, 1) for s in samples):
        raise BadInput(f"{where} has outcomes other than 0 and 1")
    if measurement.n != len(samples):
        raise BadInput(f"{where} has n {measurement.n} but {len(samples)} outcomes")
    if abs(sum(samples) / len(samples) - value) > 1e-6:
        right = int(sum(samples))
        raise BadInput(f"{where} is {value}, but {right} of {len(samples)} outcomes are right")


def _validate_latency(measurement: Measurement, where: str) -> None:
    value, samples = measurement.value, measurement.samples
    if value is None or value == 0 or any(s == 0 for s in samples):
        raise BadInput(f"{where} is zero")
    if samples and not min(samples) * 0.999 <= value <= max(samples) * 1.001:
        raise BadInput(f"{where} is {value}, outside of its samples")
    if is_interleaved(measurement):
        rounds_of(measurement, where)


def rounds_of(
    measurement: Measurement, where: str
) -> tuple[list[tuple[float, ...]], list[tuple[float, ...]]]:
    """Return the old and the new samples of an interleaved measurement, one tuple per round.

    Raises:
        BadInput: They are missing, not positive numbers, or do not divide into the rounds.
    """
    count = measurement.details.get("rounds")
    sides = []
    for name in ("old_samples", "new_samples"):
        values = measurement.details.get(name)
        if not isinstance(values, Sequence) or isinstance(values, str) or not values:
            raise BadInput(f"{where} is interleaved but has no {name}", hint="repeat the bench")
        if not all(_is_number(v) and v > 0 for v in values):
            raise BadInput(f"{where} has {name} that are not positive numbers")
        if type(count) is not int or count < 1 or len(values) % count:
            raise BadInput(f"{where} has {len(values)} {name}, not a multiple of rounds {count!r}")
        size = len(values) // count
        sides.append([tuple(values[i * size : (i + 1) * size]) for i in range(count)])
    return sides[0], sides[1]


def _is_number(value: Any) -> bool:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return is_number and math.isfinite(value)
