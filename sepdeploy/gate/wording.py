"""How numbers are compared and written in verdicts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def number(value: float | int | None) -> str:
    """Return a number in at most five significant digits, or all digits with separators.

    >>> number(9744942), number(0.4512345), number(12.5), number(None)
    ('9,744,942', '0.45123', '12.5', '-')
    """
    if value is None:
        return "-"
    if isinstance(value, int) or float(value).is_integer():
        return f"{int(value):,}"
    return f"{value:,.1f}" if abs(value) >= 10_000 else f"{value:.5g}"


def percent(fraction: float) -> str:
    """Return a signed percentage in three significant digits.

    >>> percent(0.0153), percent(-0.2), percent(0)
    ('+1.53 %', '-20 %', '+0 %')
    """
    return f"{100 * fraction:+.3g} %"


def probability(p: float) -> str:
    """Return "p = 0.03", or "p < 1e-06" for what is smaller.

    >>> probability(0.0312), probability(1e-30)
    ('p = 0.031', 'p < 1e-06')
    """
    return f"p = {p:.2g}" if p >= 1e-6 else "p < 1e-06"


def growth(old: float, new: float) -> float:
    """Return new / old - 1; from zero to anything is without bound."""
    if old == 0:
        return 0.0 if new == 0 else float("inf")
    return new / old - 1


def exceeds(old: float, new: float, allowed: float) -> bool:
    """Tell whether the growth from old to new is more than a fraction, rounding aside.

    >>> exceeds(100_000, 101_000, 0.01), exceeds(100_000, 101_001, 0.01), exceeds(0, 1, 0.5)
    (False, True, True)
    """
    return new - old > allowed * old + 1e-9 * abs(old)


def moved_layer(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """Return the layer whose share of a metric grew most ("layer fc2 +1,024"), or nothing.

    Args:
        old: Details of the baseline's measurement.
        new: Details of the current one; ``layers`` maps names to shares of the value.
    """
    before, after = _layers(old), _layers(new)
    if not before or not after:
        return ""
    changes = {
        name: after.get(name, 0) - before.get(name, 0) for name in dict.fromkeys([*after, *before])
    }
    name = max(changes, key=lambda n: changes[n])
    if changes[name] <= 0:
        return ""
    sign = "new, " if name not in before else ""
    return f"layer {name} ({sign}+{number(changes[name])})"


def _layers(details: Mapping[str, Any]) -> dict[str, float]:
    shares = details.get("layers")
    if not isinstance(shares, Mapping):
        return {}
    return {
        str(name): share
        for name, share in shares.items()
        if isinstance(share, (int, float)) and not isinstance(share, bool)
    }
