"""What differs between results: each later one against the first, number by number.

Only numbers of one kind, of one device and runtime, taken in the same way, are compared. Accuracies
whose images are the same are paired image by image.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from sepdeploy.measure.statistics import drift
from sepdeploy.measure.summary import Z95, wilson_interval
from sepdeploy.metrics import Metric, row
from sepdeploy.records import BenchReport, Kind, Measurement, Result
from sepdeploy.workflows.bench.pairs import KEPT, difference

COMPARE_SCHEMA = "sepdeploy.compare/1"
PAIRED = "the same images, paired"
UNPAIRED = "UNPAIRED: {why}; each side's own interval"
VOID = ("throttled", "unstable", "disturbed", "unreliable")


@dataclass(frozen=True)
class Difference:
    """One number of two results.

    Attributes:
        metric: Of both.
        under: What it was taken under ("pgd-40, linf eps 0.1"), "" where there is no more to say.
        kind: Of both.
        device: Id.
        old_artifact: Name of the file in the first result.
        new_artifact: Name of the file in the later one.
        runtime: Name.
        result: The file of the later result.
        old: Value in the first.
        new: Value in the later one.
        change: New minus old for accuracies (fraction), new / old for everything else.
        ci: 95 % interval of ``change``; None for counts, which are exact.
        p: McNemar's exact p, for paired accuracies alone.
        lost: Images right before and wrong now.
        gained: Images wrong before and right now.
        how: How the interval was obtained, and what spoils it.
    """

    metric: str
    under: str
    kind: Kind
    device: str
    old_artifact: str
    new_artifact: str
    runtime: str
    result: str
    old: float
    new: float
    change: float | None
    ci: tuple[float, float] | None = None
    p: float | None = None
    lost: int | None = None
    gained: int | None = None
    how: str = ""


@dataclass(frozen=True)
class Comparison:
    """All differences from the first result, and what could not be compared."""

    reference: str
    differences: tuple[Difference, ...]
    notes: tuple[str, ...] = ()
    schema: str = COMPARE_SCHEMA


def compare_results(named: Sequence[tuple[str, BenchReport]]) -> Comparison:
    """Compare each later result with the first.

    Args:
        named: Results with the names of their files.
    """
    (first, old), *later = named
    found: list[Difference] = []
    notes: list[str] = []
    for name, new in later:
        for before, after in _pairs(name, old, new, notes):
            names = (old.names()[before.artifact.path], new.names()[after.artifact.path])
            found += _differences(before, after, names, name, notes)
    return Comparison(first, tuple(found), tuple(dict.fromkeys(notes)))


def _place(result: Result) -> tuple[str, str, int]:
    return str(result.device.get("id", "host")), result.runtime.name, result.runtime.threads


def _pairs(
    name: str, old: BenchReport, new: BenchReport, notes: list[str]
) -> Iterator[tuple[Result, Result]]:
    """Pair files by name; where one file alone is left on both sides of a place, pair those."""
    old_names, new_names = old.names(), new.names()
    before = {(old_names[r.artifact.path], *_place(r)): r for r in old.results}
    after = {(new_names[r.artifact.path], *_place(r)): r for r in new.results}
    rest_old = {k: r for k, r in before.items() if k not in after}
    rest_new = {k: r for k, r in after.items() if k not in before}
    alone = Counter(k[1:] for k in rest_old), Counter(k[1:] for k in rest_new)
    for key, result in after.items():
        place = key[1:]
        if key in before:
            yield before[key], result
        elif alone[0][place] == alone[1][place] == 1:
            yield next(r for k, r in rest_old.items() if k[1:] == place), result
        else:
            notes.append(
                f"{name}: {key[0]} on {place[0]} in {place[1]} has no counterpart in the first "
                "result"
            )


def _under(m: Measurement) -> str:
    """Return what a number was taken under, for people; equal where two may be compared."""
    parts = []
    if "attack" in m.details:
        of = m.details.get("of")
        parts.append(f"worst of {', '.join(map(str, of))}" if of else str(m.details["attack"]))
        parts.append(f"{m.details.get('norm')} eps {m.details.get('eps')}")
        parts += [f"made on the {m.details['made_on']}"] if "made_on" in m.details else []
        parts += ["TRANSFERRED"] if m.details.get("transfer") else []
    elif row(m.metric).rule in ("latency", "instructions"):
        parts += [f"batch {m.details.get('batch', 1)}"]
        parts += [f"{m.details['kernels']} kernels"] if "kernels" in m.details else []
    return ", ".join(parts)


def _key(m: Measurement) -> tuple[str, ...]:
    return (m.metric, m.kind.value, *(str(m.details.get(k)) for k in (*KEPT, "batch", "kernels")))


def _differences(
    old: Result, new: Result, names: tuple[str, str], result: str, notes: list[str]
) -> Iterator[Difference]:
    before = {_key(m): m for m in old.measurements if _comparable(m)}
    device, runtime, _ = _place(new)
    for m in (m for m in new.measurements if _comparable(m)):
        other = before.get(_key(m))
        if other is None or other.value is None or m.value is None:
            said = f"{m.metric} {_under(m)}".strip()
            notes.append(
                f"{result}: {names[1]} in {runtime}: {said} ({m.kind.value}) has no counterpart "
                "of its kind in the first result"
            )
            continue
        own = Difference(
            m.metric, _under(m), m.kind, device, *names, runtime, result,
            float(other.value), float(m.value), None,
        )  # fmt: skip
        yield _judged(own, row(m.metric), other, m)


def _comparable(m: Measurement) -> bool:
    return m.value is not None and bool(row(m.metric).rule) and not m.details.get("interleaved")


def _judged(found: Difference, metric: Metric, old: Measurement, new: Measurement) -> Difference:
    if metric.rule == "accuracy":
        found = _accuracy(found, old, new)
    elif metric.rule == "latency":
        change, ci = _ratio(old, new)
        how = "two separate runs: what else changed between them is not in the interval"
        if new.kind is Kind.ESTIMATED:
            how = "two estimates by one cost model; its interval is that of both"
        found = replace(found, change=change, ci=ci, how=how)
    else:
        found = replace(found, change=found.new / found.old if found.old else None, how="exact")
    void = [f"{v}: {m.details[v]}" for m in (old, new) for v in VOID if m.details.get(v)]
    return replace(found, how="; ".join(dict.fromkeys([found.how, *void])))


def _accuracy(found: Difference, old: Measurement, new: Measurement) -> Difference:
    digests = [m.details.get("images_sha256") for m in (old, new)]
    lengths = {len(old.samples), len(new.samples)}
    if not old.samples or not new.samples:
        why = "a result holds no outcome per image"
    elif None in digests or len(set(digests)) > 1 or len(lengths) > 1:
        why = "other images"
    else:
        pair = difference(new, found.result, np.array(old.samples, bool))
        known = pair.details
        return replace(
            found, change=float(pair.value or 0), ci=pair.ci, p=known["p"], lost=known["lost"],
            gained=known["gained"], how=PAIRED,
        )  # fmt: skip
    change = found.new - found.old
    return replace(found, change=change, ci=_newcombe(old, new), how=UNPAIRED.format(why=why))


def _newcombe(old: Measurement, new: Measurement) -> tuple[float, float] | None:
    """Return a 95 % interval of the difference of two independent proportions (Newcombe 1998)."""
    if old.n < 1 or new.n < 1 or old.value is None or new.value is None:
        return None
    a, b = float(old.value), float(new.value)
    (al, ah), (bl, bh) = (wilson_interval(round(v * m.n), m.n) for v, m in ((a, old), (b, new)))
    low = b - a - math.hypot(b - bl, ah - a)
    return max(-1.0, low), min(1.0, b - a + math.hypot(bh - b, a - al))


def _ratio(old: Measurement, new: Measurement) -> tuple[float | None, tuple[float, float] | None]:
    """Return new / old, with an interval from the spread of both sides in logarithms."""
    if not old.value or not new.value:
        return None, None
    ratio = float(new.value) / float(old.value)
    errors = [_error(old), _error(new)]
    if None in errors:
        return ratio, None
    half = Z95 * math.hypot(*(e for e in errors if e is not None))
    return ratio, (ratio * math.exp(-half), ratio * math.exp(half))


def _error(m: Measurement) -> float | None:
    """Return the relative standard error of a latency: its interval's, or that of its drift."""
    found = []
    if m.ci is not None and 0 < m.ci[0] <= m.ci[1]:
        found.append(math.log(m.ci[1] / m.ci[0]) / (2 * Z95))
    if len(m.samples) > 1 and all(s > 0 for s in m.samples):
        found.append(drift(np.asarray(m.samples, float)))
    return max(found, default=None)
