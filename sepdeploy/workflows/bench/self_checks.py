"""What every adversarial accuracy is asked before it is believed, and the worst of several.

What was found stands beside the number (``checks``); what spoils it also as ``unreliable``, which
the tables show and the gate takes for unstable.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sepdeploy.measure.summary import wilson_interval
from sepdeploy.records import Measurement
from sepdeploy.threat import ATTACKS, parse_attack
from sepdeploy.workflows.bench.judging import FILE, JudgingSet

WORST = "worst"  # stands for the attack where several are taken together
MASKED = 0.002  # share of images by which a search may beat gradients
APART = 0.01  # share of clean images that a file may label otherwise than its model
NEAR_ONE = 1e-3  # sums of probabilities, off by rounding to int8
CLEAN, ADVERSARIAL = "clean_accuracy", "adversarial_accuracy"


def checks(own: JudgingSet, clean: NDArray[np.float32], repeats: bool) -> dict[str, Any]:
    """Return what is known of an attacked set from the answers to its clean images.

    Args:
        own: The attacked set.
        clean: (runs, N, classes): what the place said of the clean images, once or twice.
        repeats: Whether it was asked twice.

    Returns:
        ``checks``: labels that changed between the two runs; whether the file gives probabilities;
        clean images that file and torch model label differently (None: no model at hand); classes.
    """
    labels = clean.argmax(axis=2)
    said = own.twin_classes
    return {
        "checks": {
            "changed_labels": int((labels[0] != labels[-1]).sum()) if repeats else None,
            "probabilities": probabilities(clean[0]),
            "twin_disagrees": None if said is None else int((labels[0] != said).sum()),
            "classes": clean.shape[2],
        }
    }


def probabilities(logits: NDArray[np.float32]) -> bool:
    """Tell whether all rows are distributions: not negative, of sum 1."""
    sums = logits.sum(axis=1, dtype=np.float64)
    return bool((logits >= 0).all() and (np.abs(sums - 1) < NEAR_ONE * logits.shape[1]).all())


def marked(found: Sequence[Measurement]) -> list[Measurement]:
    """Return measurements of one place, those marked that something spoils."""
    attacked = [m for m in found if m.metric == ADVERSARIAL and m.value is not None]
    clean = next((m for m in found if m.metric == CLEAN), None)
    through = any(m.details.get("made_on") == FILE and not _searches(m) for m in attacked)
    result = []
    for m in found:
        why = [m.details["unreliable"]] if "unreliable" in m.details else []
        if m in attacked:
            why += _faults(m, attacked, clean, through)
        result.append(replace(m, details={**m.details, "unreliable": "; ".join(why)}) if why else m)
    return result


def _faults(
    m: Measurement, attacked: Sequence[Measurement], clean: Measurement | None, through: bool
) -> Iterator[str]:
    known, n = m.details["checks"], m.n
    if known["changed_labels"]:
        yield f"{known['changed_labels']} of {n} clean answers change from run to run"
    if known["probabilities"] and m.details.get("made_on") == FILE:
        yield "the file gives probabilities, whose steps hide weak points: export the logits"
    apart = known["twin_disagrees"]
    if apart is not None and apart > APART * n and m.details.get("made_on") != FILE and not through:
        yield f"file and torch model label {apart} of {n} clean images differently"
    if not m.details["eps"] and clean is not None and m.samples != clean.samples:
        yield "at radius 0 it differs from the clean accuracy"
    yield from _masking(m, attacked)


def _masking(m: Measurement, attacked: Sequence[Measurement]) -> Iterator[str]:
    """Say where a search found clearly more than gradients: they mislead."""
    if _searches(m):
        return
    for other in attacked:
        if not _searches(other) or not _comparable(m, other):
            continue
        best = min(float(a.value or 0) for a in attacked if not _searches(a) and _comparable(a, m))
        gap = best - float(other.value or 0)
        if gap > MASKED:
            yield (
                f"{other.details['attack']} finds {100 * gap:.1f} points more without gradients: "
                "they are masked"
            )


def _searches(m: Measurement) -> bool:
    name = str(m.details["attack"])
    return (
        name != WORST and not ATTACKS[parse_attack(name, 0.0, m.details["norm"]).family].gradients
    )


def _comparable(m: Measurement, other: Measurement) -> bool:
    keys = ("eps", "norm", "images_sha256", "transfer")
    return all(m.details.get(key) == other.details.get(key) for key in keys)


def at_worst(found: Sequence[Measurement]) -> Iterator[Measurement]:
    """Give the measurements, before those of several attacks what stands under all of them."""
    attacked = [m for m in found if m.metric == ADVERSARIAL and m.value is not None]
    for m in found:
        group = [other for other in attacked if m in attacked and _comparable(m, other)]
        if len(group) > 1 and group[0] is m:
            yield _worst(group)
        yield m


def _worst(group: Sequence[Measurement]) -> Measurement:
    """Return the share of images that stand under every attack of a group."""
    outcomes = np.array([m.samples for m in group]).min(axis=0)
    first, n = group[0], len(outcomes)
    shared = ("data", "images_from", "eps", "norm", "images_sha256", "batch", "threads")
    details = {key: first.details[key] for key in shared if key in first.details}
    of = [_called(m) for m in group]
    spoiled = [m.details["unreliable"] for m in group if "unreliable" in m.details]
    if len(spoiled) == len(group):  # one good attack bounds the worst
        details["unreliable"] = spoiled[0]
    return replace(
        first,
        value=int(outcomes.sum()) / n,
        ci=wilson_interval(int(outcomes.sum()), n),
        samples=tuple(int(o) for o in outcomes),
        details={**details, "attack": WORST, "of": of},
    )


def _called(m: Measurement) -> str:
    on = " on the file" if m.details.get("made_on") == FILE else ""
    return f"{m.details['attack']}{on}"
