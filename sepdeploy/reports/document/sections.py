"""The sections of a report, in the order in which they are read; formats draw them."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING, Any

from sepdeploy.gate.verdict import Outcome, Verdict
from sepdeploy.metrics import count, micros, percent, ratio
from sepdeploy.records import Kind, Measurement
from sepdeploy.reports.document import facts
from sepdeploy.reports.document.facts import MEANING, Number, Plot, Subject
from sepdeploy.reports.document.pictures import Picture, examples
from sepdeploy.reports.plain import headline, worst_first
from sepdeploy.reports.terminal_bench import bench_notes
from sepdeploy.structures import shown_factors

if TYPE_CHECKING:
    from sepdeploy.workflows.reporting.dossier import Dossier

Cell = str | list[Number]
Chart = Callable[[], str]


@dataclass
class Grid:
    """A table; ``folded``: shown when it is asked for."""

    label: str
    heads: Sequence[str]
    right: Sequence[int] = ()
    folded: bool = False
    rows: list[Sequence[Cell]] = field(default_factory=list)


@dataclass(frozen=True)
class Figure:
    """A chart, drawn by who shows it, and what it shows."""

    chart: Chart
    caption: str


@dataclass
class Section:
    """One heading and what stands under it."""

    id: str
    title: str
    texts: list[str] = field(default_factory=list)
    points: list[str] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    tables: list[Grid] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)
    codes: list[tuple[str, str]] = field(default_factory=list)
    verdict: bool = False


def sections(dossier: Dossier, verdicts: Mapping[str, Verdict]) -> list[Section]:
    """Return everything a report shows; sections without content are left out, or say why."""
    rows = facts.subjects(dossier)
    drawn = list(facts.plots(rows))
    found = [
        _verdict(rows, drawn, verdicts),
        _results(rows, dossier),
        _trade(drawn),
        _latency(rows),
        _robust(rows),
        _layers(dossier),
        *_differences(dossier),
        *_training(dossier),
        *_examples(dossier),
        _environment(dossier),
    ]
    return [s for s in found if s is not None]


def _verdict(
    rows: Sequence[Subject], drawn: Sequence[Plot], verdicts: Mapping[str, Verdict]
) -> Section:
    section = Section("verdict", "Verdict", verdict=True)
    section.texts += [f"{name}: {headline(v)}" for name, v in verdicts.items()]
    spoiled = facts.doubts(rows)
    if not verdicts:
        files = len({s.result.artifact.sha256 for s in rows})
        devices = ", ".join(dict.fromkeys(s.device for s in rows))
        state = f"{len(spoiled)} not to be trusted" if spoiled else "none marked as unreliable"
        section.texts.append(
            f"{files} file(s) in {len(rows)} row(s) on {devices}; of their numbers, {state}. "
            "Nothing was judged: --baseline FILE does."
        )
    section.points += [*spoiled, *facts.conclusions(rows, drawn)]
    for name, verdict in verdicts.items():
        grid = Grid(f"What {name} was judged by", ("metric", "artifact", "device", "kind",
                    "baseline", "now", "verdict", "why"), (4, 5))  # fmt: skip
        for i in worst_first(verdict):
            if i.verdict is not Outcome.REPORTED:
                values = [facts.shown_value(i.metric, v) if v is not None else "–"
                          for v in (i.baseline, i.current)]  # fmt: skip
                kind = i.kind.value if i.kind else ""
                grid.rows.append((i.metric, i.artifact, i.device, kind, *values, i.verdict, i.why))
        section.tables.append(grid)
    return section


def _results(rows: Sequence[Subject], dossier: Dossier) -> Section:
    metrics = facts.columns(rows)
    several = len(dossier.results) > 1
    heads = ["", "artifact", "runtime", "device", *(["result"] if several else [])]
    grid = Grid(
        "Artifacts and devices, every number with its kind",
        (*heads, *(facts.heading(m) for m in metrics)),
        range(len(heads), len(heads) + len(metrics)),
    )
    for s in rows:
        runtime = f"{s.result.runtime.name} {s.result.runtime.version}"
        own = [s.key, s.name, runtime, s.device, *([s.source] if several else [])]
        grid.rows.append((*own, *(facts.numbers(s, m) for m in metrics)))
    kinds = {m.kind for s in rows for m in s.result.measurements}
    meaning = "; ".join(f"{k.value}: {MEANING[k]}" for k in Kind if k in kinds)
    section = Section("results", "Results", [f"In brackets 95 % intervals. {meaning}."])
    section.tables.append(grid)
    section.points = list(
        dict.fromkeys(n.text for _, report in dossier.results for n in bench_notes(report))
    )
    return section


def _where(plot: Plot) -> str:
    if plot.cost_kind is Kind.STATIC:
        return ""
    return f" in {plot.place}" if plot.cost_kind is Kind.HOST else f" on {plot.place}"


def _trade(drawn: Sequence[Plot]) -> Section | None:
    if not drawn:
        return Section(
            "trade", "Cost against accuracy",
            ["Not drawn: it takes two files or more with an accuracy of one kind and attack."],
        )  # fmt: skip
    section = Section(
        "trade",
        "Cost against accuracy",
        [
            "Up and to the left is better. Filled: no other is better in both. Bars: 95 % "
            "intervals. Circles are HOST, squares EMULATED, diamonds ESTIMATED, triangles "
            "MEASURED accuracies. Letters: the first column of the table of results."
        ],
    )
    grid = Grid("The points of the plots", ("", "artifact", "cost", "value", "accuracy", "%",
                "better in both"), (3, 5), folded=True)  # fmt: skip
    for _, group in groupby(drawn, key=lambda p: (p.cost, p.cost_kind, p.place)):
        plots = list(group)
        section.figures.append(Figure(_plane(plots), _caption(plots)))
        for p in plots:
            cost = f"{facts.heading(p.cost)}, {p.cost_kind.value}{_where(p)}"
            what = p.accuracy.replace("_", " ") + (f" under {p.attack}" if p.attack else "")
            for q in p.points:
                grid.rows.append((
                    q.subject.key, q.subject.name, cost, facts.number(q.cost).text,
                    f"{what}, {p.accuracy_kind.value}", facts.number(q.accuracy).text,
                    "none" if q.best else "another",
                ))  # fmt: skip
    section.tables.append(grid)
    return section


def _plane(plots: Sequence[Plot]) -> Chart:
    from sepdeploy.reports.document import charts

    return lambda: charts.plane(plots)


def _caption(plots: Sequence[Plot]) -> str:
    attack = next((p.attack for p in plots if p.attack), "")
    head = f"Accuracy for {facts.heading(plots[0].cost)}, {plots[0].cost_kind.value}"
    return f"{head}{_where(plots[0])}" + (f"; adversarial: {attack}" if attack else "")


def _latency(rows: Sequence[Subject]) -> Section:
    from sepdeploy.reports.document import charts

    section = Section("latency", "How latencies spread")
    grid = Grid("Percentiles of single inferences, µs", ("", "artifact", "device", "kind", "n",
                "10 %", "median", "90 %", "99 %", "batch"), range(4, 10))  # fmt: skip
    groups: dict[tuple[str, str], list[tuple[Subject, Measurement]]] = {}
    for s in rows:
        for m in s.result.measurements:
            at = facts.distribution(m) if m.metric == "latency_ms" else []
            if not at or m.details.get("interleaved"):
                continue
            groups.setdefault((s.place(m.kind), m.kind.value), []).append((s, m))
            shown = [micros(v / 1000) for v in (at[1], at[3], at[5], at[6])]
            batch = str(m.details.get("batch", 1))
            grid.rows.append((s.key, s.name, s.device, m.kind.value, count(m.n), *shown, batch))
    for (place, kind), group in groups.items():
        caption = (
            f"{kind}, {place}: line from 1 % to 99 % of the rounds, bar from 10 % to 90 %, "
            "tick at the median"
        )
        section.figures.append(Figure(lambda group=group: charts.latencies(group), caption))  # type: ignore[misc]
    if not grid.rows:
        section.texts.append("No result holds single timings.")
        return section
    section.tables.append(grid)
    return section


def _robust(rows: Sequence[Subject]) -> Section:
    from sepdeploy.reports.document import charts

    section = Section("robust", "Robust accuracy by attack and ε")
    found = facts.attacked(rows)
    if not found:
        section.texts.append("No result holds an adversarial accuracy: bench --attack takes one.")
        return section
    grid = Grid("Every attack", ("", "artifact", "runtime", "device", "attack", "ε", "ε · 255",
                "images", "accuracy %", ""), (5, 6, 7, 8))  # fmt: skip
    for s, m in found:
        eps = facts.radius(m)
        grid.rows.append((
            s.key, s.name, s.result.runtime.name, s.device, facts.under(m), f"{eps:.4g}",
            f"{255 * eps:.3g}", count(m.n), [facts.number(m)],
            f"{lost} without a gradient" if (lost := m.details.get("no_gradient")) else "",
        ))  # fmt: skip
    for kind in dict.fromkeys(m.kind for _, m in found):
        own = [(s, m) for s, m in found if m.kind is kind]
        names = list(dict.fromkeys(facts.under(m) for _, m in own))
        letters = {name: f"attack {n}" for n, name in enumerate(names, 1)}
        if 1 < len(names) <= 8:
            rows_ = [(s, letters[facts.under(m)], m) for s, m in own]
            legend = "; ".join(f"{short}: {name}" for name, short in letters.items())
            section.figures.append(
                Figure(lambda r=rows_: charts.attacks(r), f"{kind.value}. {legend}")  # type: ignore[misc]
            )
        section.figures += _over_radius(rows, own, kind)
    section.tables.append(grid)
    return section


def _over_radius(
    rows: Sequence[Subject], own: Sequence[tuple[Subject, Measurement]], kind: Kind
) -> Iterator[Figure]:
    from sepdeploy.reports.document import charts

    courses: dict[str, list[tuple[Subject, Measurement]]] = {}
    for s, m in own:
        courses.setdefault(facts.under(m).rpartition(" ε ")[0], []).append((s, m))
    for attack, members in courses.items():
        if len({facts.radius(m) for _, m in members}) > 1:
            clean = [(s, c) for s in rows if (c := facts.first(s, "clean_accuracy", [kind]))]
            line = sorted([*clean, *members], key=lambda p: facts.radius(p[1]))
            yield Figure(
                lambda line=line: charts.by_radius(line),  # type: ignore[misc]
                f"{attack}, {kind.value}; at ε 0 the clean accuracy",
            )


def _layers(dossier: Dossier) -> Section:
    section = Section("layers", "Layer by layer")
    for file in dossier.layers:
        if file.why:
            section.points.append(f"{file.path}: {file.why}, so its layers are not shown.")
            continue
        shares, source = _shares(dossier, file.path)
        grid = Grid(
            f"{file.path} (from {file.origin})",
            ("layer", "structure", "factors", "params", "smaller", "MACs", "resident bytes",
             "cond.", "weights", "form", "time %"), (3, 4, 5, 6, 7, 10), folded=True,
        )  # fmt: skip
        for fact in file.layers:
            own = fact.record
            share = shares.get(own.name)
            grid.rows.append((
                own.name, own.structure, shown_factors(own.structure, own.factors),
                count(own.params), ratio(own.params_dense / own.params if own.params else None),
                count(own.macs), "–" if fact.resident_bytes is None else count(fact.resident_bytes),
                "–" if own.condition_number is None else f"{own.condition_number:.3g}",
                fact.precision, fact.form or "–", "–" if share is None else percent(share),
            ))  # fmt: skip
        section.tables.append(grid)
        if not shares:
            source = "no estimate of single layers: bench --device rpi4 makes one"
        section.points.append(f"{file.path}: share of time: {source}.")
    section.texts.append(
        "–: not known. Resident bytes stand for structured layers, where every export checks them."
    )
    return section


def _shares(dossier: Dossier, path: str) -> tuple[dict[str, float], str]:
    """Return each layer's share of an estimated latency, and where that comes from."""
    for _, report in dossier.results:
        for result in (r for r in report.results if r.artifact.path == path):
            estimates = [m for m in result.measurements if m.kind is Kind.ESTIMATED]
            for layers in (m.details.get("layers") for m in estimates if m.metric == "latency_ms"):
                times = _times(layers) if isinstance(layers, list) else {}
                total = sum(times.values())
                if total:
                    where = f"ESTIMATED for {result.device.get('id')} in {result.runtime.name}"
                    return {n: t / total for n, t in times.items()}, where
    return {}, ""


def _times(layers: Sequence[Any]) -> dict[str, float]:
    found: dict[str, float] = {}
    for row in layers:
        if isinstance(row, Mapping) and isinstance(row.get("ms"), (int, float)):
            name = str(row.get("name"))
            found[name] = found.get(name, 0.0) + float(row["ms"])
    return found


def _differences(dossier: Dossier) -> Iterator[Section]:
    comparison = dossier.comparison
    if comparison is None:
        return
    section = Section("differences", f"Differences from {comparison.reference}")
    section.texts.append(
        "Accuracies in points, of the same images where that is said; everything else as a "
        "factor. p: McNemar's exact test. Kinds are never compared with each other."
    )
    grid = Grid("Each later result against the first", ("artifact", "result", "metric", "kind",
                "device", "before", "now", "change", "95 % interval", "p", "how"),
                (5, 6, 7, 8, 9))  # fmt: skip
    for d in comparison.differences:
        ends = "" if d.ci is None else " to ".join(facts.quantity(v, d.metric) for v in d.ci)
        name = d.new_artifact
        name += f" (was {d.old_artifact})" if d.old_artifact != name else ""
        metric = f"{d.metric} {d.under}".strip()
        grid.rows.append((
            f"{name} {d.runtime}", d.result, metric, d.kind.value, d.device,
            facts.shown_value(d.metric, d.old), facts.shown_value(d.metric, d.new),
            "–" if d.change is None else facts.quantity(d.change, d.metric), ends or "exact",
            "" if d.p is None else f"{d.p:.2g}",
            d.how if d.lost is None else f"{d.how}: {d.lost} lost, {d.gained} gained",
        ))  # fmt: skip
    section.tables += [grid] if grid.rows else []
    section.points += comparison.notes
    yield section


def _training(dossier: Dossier) -> Iterator[Section]:
    from sepdeploy.reports.document import charts

    epochs = dossier.history
    if not epochs:
        return
    section = Section("training", "Training", [f"From {dossier.history_path}."])
    caption = "Validation accuracies and loss by epoch; robust: under the attack of the training"
    section.figures.append(Figure(lambda: charts.training(epochs), caption))
    grid = Grid("Epochs", ("epoch", "loss", "clean %", "robust %"), range(4), folded=True)
    for e in epochs:
        loss = "–" if e.loss is None else f"{e.loss:.4g}"
        grid.rows.append(
            (str(e.epoch), loss, percent(e.clean_accuracy), percent(e.robust_accuracy))
        )
    section.tables.append(grid)
    yield section


def _examples(dossier: Dossier) -> Iterator[Section]:
    if dossier.pack is None:
        return
    found, said = examples(dossier.pack)
    section = Section("examples", "Adversarial examples", [f"From {dossier.pack_path}. {said}"])
    section.pictures += found
    yield section


def _environment(dossier: Dossier) -> Section:
    section = Section("environment", "Environment and commands")
    for name, report in dossier.results:
        command = report.tool.get("argv") or report.tool.get("command")
        words = command if isinstance(command, list) else [command]
        line = shlex.join(str(w) for w in words if w is not None)
        whole = isinstance(command, list)
        said = line if whole else f"sepdeploy {line}   (the result does not hold its options)"
        host = json.dumps({"tool": report.tool, "host": report.host}, indent=2, ensure_ascii=False)
        devices = "\n".join(
            f"{r.artifact.path}  sha256 {r.artifact.sha256}  {r.runtime.name} {r.runtime.version}, "
            f"{r.runtime.threads} thread(s), on {r.device.get('id', 'host')}"
            for r in report.results
        )
        section.codes.append((name, f"{said}\n\n{devices}\n\n{host}"))
    return section
