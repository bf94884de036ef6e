"""What makes a measurement believable, and which of them are judged (``sepdeploy.metrics``)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sepdeploy.errors import BENCH_AGAIN, BadInput
from sepdeploy.metrics import row
from sepdeploy.records import Kind, Measurement

INTERLEAVED = "interleaved"
INTERLEAVED_FIELDS = (INTERLEAVED, "against", "rounds", "old_samples", "new_samples")
INTERLEAVED_KINDS = frozenset({Kind.HOST, Kind.MEASURED, Kind.MEASURED_EMULATOR})
# What makes a measurement void, and what to do about it.
VOID = {
    "throttled": "let the device cool down and repeat the bench",
    "unstable": "repeat the bench",
    "disturbed": "repeat the bench while nothing else runs there",
    "unreliable": "bench with an attack that needs no gradients, such as --attack square@1000",
}


def is_latency(measurement: Measurement) -> bool:
    """Tell whether a clock gave the measurement, so that noise and throttling matter."""
    return row(measurement.metric).rule == "latency"


def is_interleaved(measurement: Measurement) -> bool:
    """Tell whether old and new were timed by turns in one run."""
    return is_latency(measurement) and measurement.details.get(INTERLEAVED) is True


def is_gated(measurement: Measurement) -> bool:
    """Tell whether the measurement is judged against a baseline, whatever the rules say."""
    return measurement.kind in row(measurement.metric).gated and not is_interleaved(measurement)


def needs_samples(measurement: Measurement) -> bool:
    """Tell whether its rule tests the significance of a difference."""
    return row(measurement.metric).rule in ("accuracy", "latency") and is_gated(measurement)


def variant(measurement: Measurement) -> tuple[str, ...]:
    """Return what tells two measurements of one metric apart ("batch=1", "eps=0.1")."""
    details, fields = measurement.details, row(measurement.metric).variants
    parts = [f"{name}={details[name]}" for name in fields if details.get(name) is not None]
    return tuple([*parts, INTERLEAVED] if is_interleaved(measurement) else parts)


def void_reason(measurement: Measurement) -> str:
    """Return why a measurement is void ("throttled", "disturbed: ..."), or nothing."""
    details, flag = measurement.details, void_flag(measurement)
    reason = next((r for r in (details.get(flag), details.get("reason")) if isinstance(r, str)), "")
    return f"{flag}: {reason.removeprefix(f'{flag}: ')}" if reason else flag


def void_flag(measurement: Measurement) -> str:
    """Return which row of ``VOID`` a measurement falls under, or nothing."""
    return next((flag for flag in VOID if measurement.details.get(flag)), "")


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
    if not row(measurement.metric).signed and (value < 0 or any(s < 0 for s in samples)):
        raise BadInput(f"{where} is negative", hint=BENCH_AGAIN)
    for name, kind in row(measurement.metric).holds.items():
        held = measurement.details.get(name)
        if isinstance(held, bool) or not isinstance(held, (int, float) if kind is float else kind):
            raise BadInput(f"{where} has no {name} of its own", hint=BENCH_AGAIN)
    check = _CHECKS.get(row(measurement.metric).rule)
    if check is not None:
        check(measurement, value, where)


def _check_accuracy(measurement: Measurement, value: float, where: str) -> None:
    samples = measurement.samples
    if value > 1:
        raise BadInput(f"{where} is {value}", hint="accuracies are fractions between 0 and 1")
    if not samples:
        return
    if any(s not in (0, 1) for s in samples):
        raise BadInput(f"{where} has outcomes other than 0 and 1", hint=BENCH_AGAIN)
    if measurement.n != len(samples):
        raise BadInput(
            f"{where} has n {measurement.n} but {len(samples)} outcomes", hint=BENCH_AGAIN
        )
    if abs(sum(samples) / len(samples) - value) > 1e-6:
        right = int(sum(samples))
        raise BadInput(
            f"{where} is {value}, but {right} of {len(samples)} outcomes are right",
            hint=BENCH_AGAIN,
        )


def _check_latency(measurement: Measurement, value: float, where: str) -> None:
    samples = measurement.samples
    if value == 0 or any(s == 0 for s in samples):
        raise BadInput(f"{where} is zero", hint=BENCH_AGAIN)
    if samples and not min(samples) * 0.999 <= value <= max(samples) * 1.001:
        raise BadInput(f"{where} is {value}, outside of its samples", hint=BENCH_AGAIN)
    if is_interleaved(measurement):
        rounds_of(measurement, where)


def _check_instructions(measurement: Measurement, value: float, where: str) -> None:
    dot = measurement.details.get("dot", 0)
    if not _is_number(dot) or dot < 0:
        raise BadInput(f"{where} has dot {dot!r}, expected a count", hint=BENCH_AGAIN)


_CHECKS: Mapping[str, Callable[[Measurement, float, str], None]] = {
    "accuracy": _check_accuracy,
    "latency": _check_latency,
    "instructions": _check_instructions,
}


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
            raise BadInput(f"{where} has {name} that are not positive numbers", hint=BENCH_AGAIN)
        if type(count) is not int or count < 1 or len(values) % count:
            raise BadInput(
                f"{where} has {len(values)} {name}, not a multiple of rounds {count!r}",
                hint=BENCH_AGAIN,
            )
        size = len(values) // count
        sides.append([tuple(values[i * size : (i + 1) * size]) for i in range(count)])
    return sides[0], sides[1]


def _is_number(value: Any) -> bool:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return is_number and math.isfinite(value)
