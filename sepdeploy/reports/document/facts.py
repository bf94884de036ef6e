"""What a report says, in words and rows, before it becomes a page of any format."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from string import ascii_uppercase
from typing import TYPE_CHECKING

from sepdeploy.metrics import METRICS
from sepdeploy.records import Kind, Measurement, Result

if TYPE_CHECKING:
    from sepdeploy.workflows.reporting.dossier import Dossier

ACCURACIES = ("adversarial_accuracy", "clean_accuracy")
LEADING = (*ACCURACIES, "latency_ms", "latency_vs_dense", "instructions", "params", "file_bytes")
COSTS = ("params", "file_bytes", "latency_ms", "instructions")
# The kind of accuracy that is drawn over a cost of a kind: the first that was taken.
BESIDE = {
    Kind.EMULATED: (Kind.EMULATED, Kind.HOST),
    Kind.ESTIMATED: (Kind.EMULATED, Kind.HOST),
    Kind.MEASURED: (Kind.MEASURED, Kind.HOST),
    Kind.MEASURED_EMULATOR: (Kind.MEASURED_EMULATOR, Kind.HOST),
    Kind.HOST: (Kind.HOST,),
    Kind.STATIC: (Kind.HOST, Kind.EMULATED, Kind.MEASURED, Kind.MEASURED_EMULATOR),
}
MEANING = {
    Kind.STATIC: "counted in the file",
    Kind.HOST: "by the clock and the kernels of the machine that ran the bench",
    Kind.EMULATED: "the device's own runtime under an emulator: numerics and instruction counts, "
    "never milliseconds",
    Kind.ESTIMATED: "by a cost model, always with its interval",
    Kind.MEASURED: "on the device itself",
    Kind.MEASURED_EMULATOR: "on an Android emulator, by the clock of the machine it ran on",
}


@dataclass(frozen=True)
class Number:
    """A value as it is shown, with its kind and what there is to say of it."""

    text: str
    kind: str
    spread: str = ""
    mark: str = ""


@dataclass(frozen=True)
class Subject:
    """One row: an artifact in a runtime on a device, called by a letter in charts."""

    key: str
    source: str
    name: str
    result: Result

    @property
    def device(self) -> str:
        """Id of the device."""
        return str(self.result.device.get("id", "host"))

    def place(self, kind: Kind) -> str:
        """Return where numbers of a kind are from: nowhere, a result's machine, or a device."""
        return "" if kind is Kind.STATIC else self.source if kind is Kind.HOST else self.device


def subjects(dossier: Dossier) -> list[Subject]:
    """Return the rows of all results, with letters."""
    letters = ("".join(p) for n in (1, 2, 3) for p in product(ascii_uppercase, repeat=n))
    return [
        Subject(next(letters), source, report.names()[result.artifact.path], result)
        for source, report in dossier.results
        for result in report.results
    ]


def columns(rows: Sequence[Subject]) -> list[str]:
    """Return the metrics that have a column and were taken; what decides stands first."""
    taken = {m.metric for s in rows for m in s.result.measurements if m.value is not None}
    order = [*LEADING, *(name for name in METRICS if name not in LEADING)]
    return [name for name in order if METRICS[name].column is not None and name in taken]


def heading(metric: str) -> str:
    """Return the title of a metric's column."""
    column = METRICS[metric].column
    return metric if column is None else column.title


def numbers(subject: Subject, metric: str) -> list[Number]:
    """Return the numbers of one cell, one a kind; of several attacks the first, the worst."""
    found: dict[Kind, Number] = {}
    for m in subject.result.measurements:
        if m.metric == metric and m.value is not None and not m.details.get("interleaved"):
            found.setdefault(m.kind, number(m))
    return list(found.values())


def number(m: Measurement) -> Number:
    """Return one measurement as it is shown."""
    column = METRICS[m.metric].column if m.metric in METRICS else None
    draw = str if column is None else column.draw
    spread = "" if m.ci is None else f"{draw(m.ci[0])} to {draw(m.ci[1])}"
    return Number(draw(m.value), m.kind.value, spread, spoiled(m))


def spoiled(m: Measurement) -> str:
    """Return why a number cannot be trusted, "" where it can."""
    for flag in ("unreliable", "disturbed", "unstable", "throttled"):
        if m.details.get(flag):
            said = m.details[flag]
            return flag if said is True else f"{flag}: {said}"
    return ""


def under(m: Measurement) -> str:
    """Return the attack behind a number, in words."""
    details = m.details
    if "attack" not in details:
        return ""
    of = details.get("of")
    name = f"worst of {', '.join(map(str, of))}" if of else str(details["attack"])
    on = " on the file" if details.get("made_on") == "file" else ""
    moved = " TRANSFERRED" if details.get("transfer") else ""
    return f"{name}{on}{moved}, {details.get('norm')} ε {radius(m):.4g}"


def radius(m: Measurement) -> float:
    """Return an attack's ε, 0 where there is none."""
    eps = m.details.get("eps", 0)
    return float(eps) if isinstance(eps, (int, float)) else 0.0


def first(subject: Subject, metric: str, kinds: Sequence[Kind]) -> Measurement | None:
    """Return a subject's first number of a metric, of the earliest of these kinds that it has."""
    for kind in kinds:
        for m in subject.result.measurements:
            plain = not m.details.get("interleaved") and m.value is not None
            if m.metric == metric and m.kind is kind and plain:
                return m
    return None


def attacked(rows: Sequence[Subject]) -> list[tuple[Subject, Measurement]]:
    """Return every adversarial accuracy."""
    return [
        (s, m)
        for s in rows
        for m in s.result.measurements
        if m.metric == "adversarial_accuracy" and m.value is not None
    ]


@dataclass(frozen=True)
class Point:
    """A subject in a plot of an accuracy over a cost; ``best``: no other is better in both."""

    subject: Subject
    cost: Measurement
    accuracy: Measurement
    best: bool = False


@dataclass(frozen=True)
class Plot:
    """Accuracies of one metric, kind and attack over costs of one metric, kind and place."""

    cost: str
    cost_kind: Kind
    place: str
    accuracy: str
    accuracy_kind: Kind
    attack: str
    points: tuple[Point, ...]


def plots(rows: Sequence[Subject]) -> Iterator[Plot]:
    """Give every plot that has two points or more; kinds are never mixed in one."""
    for cost in COSTS:
        for kind in (k for k in Kind if k in METRICS[cost].kinds):
            groups: dict[str, list[Subject]] = {}
            for s in rows:
                if first(s, cost, [kind]) is not None:
                    groups.setdefault(s.place(kind), []).append(s)
            for place, group in groups.items():
                for accuracy in ACCURACIES:
                    yield from _plots(group, cost, kind, place, accuracy)


def _plots(
    rows: Sequence[Subject], cost: str, kind: Kind, place: str, accuracy: str
) -> Iterator[Plot]:
    for seen in BESIDE[kind]:
        found = [(s, m) for s in rows if (m := first(s, accuracy, [seen])) is not None]
        if not found:
            continue
        by_attack: dict[str, list[tuple[Subject, Measurement]]] = {}
        for s, m in found:
            by_attack.setdefault(under(m), []).append((s, m))
        attack, most = max(by_attack.items(), key=lambda item: len(item[1]))
        points = [Point(s, c, m) for s, m in most if (c := first(s, cost, [kind])) is not None]
        if len(points) > 1:
            yield Plot(cost, kind, place, accuracy, seen, attack, _front(points))
        return


def _front(points: Sequence[Point]) -> tuple[Point, ...]:
    values = [(float(p.cost.value or 0), float(p.accuracy.value or 0)) for p in points]

    def beaten(cost: float, accuracy: float) -> bool:
        return any((c <= cost and a >= accuracy) and (c < cost or a > accuracy) for c, a in values)

    return tuple(
        Point(p.subject, p.cost, p.accuracy, not beaten(*value))
        for p, value in zip(points, values, strict=True)
    )


BEST = (
    ("adversarial_accuracy", max, "Most robust"), ("clean_accuracy", max, "Most accurate"),
    ("params", min, "Fewest parameters"), ("file_bytes", min, "Smallest file"),
    ("latency_ms", min, "Fastest"), ("instructions", min, "Fewest instructions"),
)  # fmt: skip
UNITS = {"adversarial_accuracy": " %", "clean_accuracy": " %", "latency_ms": " µs"}


def conclusions(rows: Sequence[Subject], drawn: Sequence[Plot]) -> list[str]:
    """Return what a reader wants to know first: the best of each metric, kind and place."""
    said = []
    for metric, best, word in BEST:
        groups: dict[tuple[Kind, str], list[tuple[Subject, Measurement]]] = {}
        for kind, s in product(Kind, rows):
            if (m := first(s, metric, [kind])) is not None:
                groups.setdefault((kind, s.place(kind)), []).append((s, m))
        for (kind, place), found in groups.items():
            if line := _best(found, best):
                said.append(f"{word}: {line}, {kind.value}{_in(place, kind, rows)}.")
    for plot in drawn:
        if plot.accuracy == "adversarial_accuracy":
            keys = ", ".join(p.subject.key for p in plot.points if p.best)
            cost = {"latency_ms": "latency", "file_bytes": "bytes"}.get(plot.cost, plot.cost)
            where = f"{plot.cost_kind.value}{_in(plot.place, plot.cost_kind, rows)}"
            said.append(f"Best trades of robust accuracy for {cost} ({where}): {keys}.")
    return said


def _in(place: str, kind: Kind, rows: Sequence[Subject]) -> str:
    """Return where numbers are from, where that is not plain."""
    alone = kind is Kind.HOST and len({s.source for s in rows}) == 1
    return f", {place}" if place and not alone else ""


def _best(found: Sequence[tuple[Subject, Measurement]], best: Callable[..., float]) -> str:
    value = best(float(m.value or 0) for _, m in found)
    top = [(s, m) for s, m in found if m.value == value]
    if len(top) == len(found) or len({under(m) for _, m in found}) > 1:
        return ""
    keys = ", ".join(f"{s.key} ({s.name})" for s, _ in top[:3])
    keys += f" and {len(top) - 3} more" if len(top) > 3 else ""
    m = top[0][1]
    shown, attack = number(m), under(m)
    spread = f" ({shown.spread})" if shown.spread else ""
    return f"{keys}, {shown.text}{UNITS.get(m.metric, '')}{spread}" + f" under {attack}" * bool(
        attack
    )


def doubts(rows: Sequence[Subject]) -> list[str]:
    """Return the numbers that cannot be trusted, and why."""
    return [
        f"Not to be trusted: {s.key} ({s.name}), {m.metric}: {why}."
        for s in rows
        for m in s.result.measurements
        if m.value is not None and (why := spoiled(m))
    ]


def quantity(value: float, metric: str) -> str:
    """Return a change of a metric: points for accuracies, a factor for the others."""
    if METRICS.get(metric) is not None and METRICS[metric].rule == "accuracy":
        return f"{100 * value:+.1f}"
    return f"{value:.3f}×"


def shown_value(metric: str, value: float) -> str:
    """Return a value in the way of its column."""
    column = METRICS[metric].column if metric in METRICS else None
    return f"{value:,.6g}" if column is None else column.draw(value)


def distribution(m: Measurement) -> list[float]:
    """Return the percentiles 1, 10, 25, 50, 75, 90 and 99 of a latency in µs; or nothing."""
    if len(m.samples) < 10:
        return []
    ordered = sorted(float(s) for s in m.samples)
    last = len(ordered) - 1
    return [1000 * ordered[round(p / 100 * last)] for p in (1, 10, 25, 50, 75, 90, 99)]
