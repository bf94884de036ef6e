"""Differences of accuracy on the same images: of two files, and of a file and its torch model."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sepdeploy.measure.statistics import mcnemar_p
from sepdeploy.measure.summary import Z95
from sepdeploy.metrics import measured
from sepdeploy.records import Kind, Measurement, Result

METRIC = "accuracy_difference"
KEPT = ("attack", "eps", "norm", "steps", "restarts", "made_on", "of", "transfer")


def paired_interval(lost: int, gained: int, n: int) -> tuple[float, float]:
    """Return a 95 % interval of the difference of two paired proportions.

    Wald's with one lost and one gained pair added (Bonett and Price 2012).
    """
    down, up = (lost + 1) / (n + 2), (gained + 1) / (n + 2)
    half = Z95 * math.sqrt((down + up - (up - down) ** 2) / (n + 2))
    return max(-1.0, up - down - half), min(1.0, up - down + half)


def difference(m: Measurement, against: str, old: NDArray[np.bool_], **details: Any) -> Measurement:
    """Return how an accuracy differs from older outcomes on the same images.

    Args:
        m: The accuracy, with its outcomes.
        against: Whose outcomes ``old`` are.
        old: (N,) whether each image was right.
        details: Of the one that it is compared with.
    """
    new = np.array(m.samples, bool)
    lost, gained, n = int((old & ~new).sum()), int((~old & new).sum()), len(new)
    kept = {key: m.details[key] for key in KEPT if key in m.details}
    found = {"lost": lost, "gained": gained, "p": mcnemar_p(lost, gained)}
    return measured(
        METRIC,
        (gained - lost) / n,
        m.kind,
        n=n,
        ci=paired_interval(lost, gained, n),
        details={"accuracy": m.metric, "against": against, **found, **kept, **details},
    )


def with_pairs(results: Sequence[Result]) -> list[Result]:
    """Return results with what differs between the first of each device and every later one."""
    first: dict[str, Result] = {}
    found = []
    for result in results:
        head = first.setdefault(str(result.device.get("id", "host")), result)
        own = () if head is result else tuple(_pairs(result, head))
        found.append(replace(result, measurements=(*result.measurements, *own)))
    return found


def _pairs(result: Result, head: Result) -> Iterator[Measurement]:
    known = {key: m for m in head.measurements if (key := _key(m)) is not None}
    file = {"path": head.artifact.path, "sha256": head.artifact.sha256}
    for m in result.measurements:
        other = known.get(_key(m) or ())
        if other is not None and m.kind is not Kind.STATIC:
            against = f"{head.artifact.path} {head.runtime.name}"
            yield difference(m, against, np.array(other.samples, bool), file=file)


def _key(m: Measurement) -> tuple[Any, ...] | None:
    """Return what must be equal in two accuracies that are paired."""
    if "images_sha256" not in m.details or not m.samples:
        return None
    details: Mapping[str, Any] = m.details
    return (m.metric, m.kind, details["images_sha256"], *(str(details.get(k)) for k in KEPT))
