"""The table of a bench: what was taken on this machine, then a block per device.

Every column names the kind of its numbers; kinds are never mixed within a column.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import quantiles

from sepdeploy.metrics import HERE, METRICS, THERE, TORCH_MODEL, Column, micros, percent
from sepdeploy.records import BenchReport, Kind, Measurement, Result
from sepdeploy.reports.page import Page
from sepdeploy.reports.tables import Line, Table
from sepdeploy.threat import no_gradient_note

HOST = (Kind.STATIC, Kind.HOST)
# On a device the best that could be had: the earlier of these.
DEVICE = (Kind.MEASURED, Kind.MEASURED_EMULATOR, Kind.EMULATED, Kind.ESTIMATED)


def bench_table(report: BenchReport) -> Page:
    """Draw a bench report: one row per artifact and runtime, then what stands behind it."""
    here = {f"{r.artifact.path} {r.runtime.name}": r for r in reversed(report.results)}
    results = [r for r in report.results if here[f"{r.artifact.path} {r.runtime.name}"] is r]
    names = report.names()
    parts: list[str | Line | Table] = [_table(results, HERE, HOST, names)]
    devices = dict.fromkeys(str(r.device.get("id", "host")) for r in report.results)
    for device in devices:
        own = [r for r in report.results if r.device.get("id", "host") == device]
        if any(m.kind in DEVICE for r in own for m in r.measurements):
            parts += [f"on {device}", _table(own, THERE, DEVICE, names), *_intervals(own, names)]
    return Page((*parts, *bench_notes(report)))


def _table(
    results: Sequence[Result], name: str, kinds: Sequence[Kind], names: Mapping[str, str]
) -> Table:
    """Draw a column per metric that has one in the table of that name.

    An older file that was timed in turns with the artifact has a row of its own below it.
    """
    columns = [(c, m) for m, row in METRICS.items() if (c := row.column) and name in c.tables]
    columns.sort(key=lambda column: not column[0].leads)
    chosen = [(c, metric, _kind(results, metric, kinds)) for c, metric in columns]
    taken = [c for c in chosen if c[2] is not None or name == HERE]
    heads = [(c.title, kind.value if kind else "-") for c, _, kind in taken]
    table = Table((("artifact", "runtime"), *heads), right=range(1, len(heads) + 1), hides=(1,))
    for result in results:
        cells = [_cell(result, column, metric, kind) for column, metric, kind in taken]
        table.add((names[result.artifact.path], result.runtime.name), *cells)
        for old in (m for m in result.measurements if "old_samples" in m.details and name == HERE):
            low = quantiles(old.details["old_samples"], n=10, method="inclusive")[0]
            times = [micros(low) if metric == old.metric else "-" for _, metric, _ in taken]
            table.add((f"against {old.details['against']['path']}", result.runtime.name), *times)
    return table


def _kind(results: Sequence[Result], metric: str, kinds: Sequence[Kind]) -> Kind | None:
    """Return the best kind in which a metric was had."""
    found = {
        m.kind
        for r in results
        for m in r.measurements
        if m.metric == metric and (m.value is not None or kinds is HOST)
    }
    return next((kind for kind in kinds if kind in found), None)


def _cell(result: Result, column: Column, metric: str, kind: Kind | None) -> str:
    found = (m for m in result.measurements if m.metric == metric and m.kind is kind)
    first = next(found, None)
    return column.draw(None) if first is None else column.cell(first.value, first.ci)


def _intervals(results: Sequence[Result], names: Mapping[str, str]) -> list[str]:
    """Return a line per estimate, which is never shown without its interval and its model."""
    lines: list[str] = []
    models: set[str] = set()
    for r in results:
        for m in r.measurements:
            column = METRICS[m.metric].column
            if m.kind is not Kind.ESTIMATED or m.value is None or m.ci is None or column is None:
                continue
            value, low, high = (column.draw(v) for v in (m.value, *m.ci))
            unit = "µs" if m.unit == "ms" else column.title
            model = str(m.details.get("model"))
            models |= {model} if m.metric == "latency_ms" else set()
            lines.append(
                f"{names[r.artifact.path]} {r.runtime.name}: ESTIMATED {value} {unit} "
                f"({low} to {high}) by {model}, {m.details.get('calibration')}"
            )
    if len(models) > 1:
        lines.append(f"{' and '.join(sorted(models))} are not to be compared with each other")
    return lines


def bench_notes(report: BenchReport) -> list[Line]:
    """Return what stands behind the numbers: attacks, pairs, clocks, and why one is missing."""
    names = report.names()
    notes = [*_attack_notes(report, names), *_pair_notes(report, names)]
    notes += _latency_notes(report, names)
    for result in report.results:
        name = names[result.artifact.path]
        notes += result.notes
        notes += [
            f"{name}: {m.metric} ESTIMATED: {m.details['validation']}"
            for m in result.measurements
            if m.details.get("validation")
        ]
        notes += [
            f"{name}: no {m.metric}: {m.details['reason']}"
            for m in result.measurements
            if m.value is None and "reason" in m.details
        ]
    return [Line(note, hang=7) for note in dict.fromkeys(notes)]


def _attack_notes(report: BenchReport, names: Mapping[str, str]) -> list[str]:
    """Return one line per attack, with the widest interval among the artifacts.

    The table has room for the first attack only; the line of any other ends with its values.
    """
    widest: dict[str, float] = {}
    values: dict[str, list[str]] = {}
    for result in report.results:
        for m in result.measurements:
            if m.metric != "adversarial_accuracy" or m.value is None:
                continue
            line = _attack_line(m)
            half = 50 * (m.ci[1] - m.ci[0]) if m.ci else 0.0
            widest[line] = max(half, widest.get(line, 0.0))
            name = names[result.artifact.path]
            values.setdefault(line, []).append(
                f"{name} {result.runtime.name}: {percent(m.value)} {m.kind.value}"
            )
    lines = [f"{line}; 95 % interval ±{half:.1f} or less" for line, half in widest.items()]
    own = [f"; {', '.join(values[line])}" for line in widest]
    return [*lines[:1], *(f"{line}{end}" for line, end in zip(lines[1:], own[1:], strict=True))]


def _pair_notes(report: BenchReport, names: Mapping[str, str]) -> list[str]:
    """Return what differs on the same images between files, and from the torch model.

    Of several attacks the worst alone is told; all of them stand in the JSON.
    """
    notes = []
    for result in report.results:
        for m in result.measurements:
            if m.metric != "accuracy_difference" or m.value is None or m.ci is None:
                continue
            known, of = m.details, m.details.get("of")
            lost, gained, p = known["lost"], known["gained"], known["p"]
            several = any("of" in other.details for other in result.measurements)
            if known["against"] == TORCH_MODEL and not lost + gained:
                continue
            if known["against"] != TORCH_MODEL and "attack" in known and several and not of:
                continue
            path, _, runtime = str(known["against"]).rpartition(" ")
            against = f"{names.get(path, path)} {runtime}".strip()
            under = f" under {'the worst' if of else known['attack']}" if "attack" in known else ""
            notes.append(
                f"{names[result.artifact.path]} {result.runtime.name} against {against}"
                f"{under or ', clean'}: {100 * m.value:+.1f} points ({100 * m.ci[0]:+.1f} to "
                f"{100 * m.ci[1]:+.1f}; {lost} of {m.n} lost, {gained} gained, p = {p:.2g})"
            )
    return notes


def _attack_line(m: Measurement) -> str:
    eps, of = float(m.details["eps"]), m.details.get("of")
    mark = no_gradient_note(m.details.get("no_gradient", 0), m.n)
    if "unreliable" in m.details:
        mark = f"unreliable: {m.details['unreliable']}"
    on_file = m.details.get("made_on") == "file"
    made = "made on the file" if on_file else "made on the torch model"
    if m.details.get("transfer"):
        made = f"TRANSFERRED ({m.details['transfer']})"
    what = f"the worst of {', '.join(of)}" if of else str(m.details["attack"])
    return (
        f"adv %: {what}, {m.details['norm']} eps {eps:.4g} (= {255 * eps:.3g}/255), {m.n} images, "
        f"{'' if of else made + ', '}judged by the file in its runtime"
        f"{'; ' * bool(mark)}{mark}"
    )


def _latency_notes(report: BenchReport, names: Mapping[str, str]) -> list[str]:
    notes, spoiled = [], []
    for result in report.results:
        for m in result.measurements:
            if m.metric != "latency_ms" or m.value is None or m.kind is Kind.ESTIMATED:
                continue
            low = "statistic" in m.details
            taken = "10th percentile of the rounds ± its 95 % interval" if low else "median"
            notes.append(
                f"µs: {taken}, {result.runtime.threads} thread(s), batch "
                f"{m.details.get('batch', 1)}; dense form timed in turns in the same process"
            )
            if "disturbed" in m.details:
                name = f"{names[result.artifact.path]} {result.runtime.name}"
                spoiled.append(f"disturbed: {name}: {m.details['disturbed']}")
    return [*notes, *spoiled]
