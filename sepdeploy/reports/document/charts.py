"""Charts as SVG, by Vega-Lite: drawn while the report is written, so that it needs no script.

Colours are variables of the page's style sheet, so that one drawing is right in dark and light.
No word of a result stands in a chart: subjects are called by their letters.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from sepdeploy.errors import Missing
from sepdeploy.records import Kind, Measurement
from sepdeploy.reports.document.facts import Plot, Subject, distribution, heading, radius

if TYPE_CHECKING:
    from sepdeploy.workflows.reporting.dossier import Epoch

Spec = dict[str, Any]  # Vega-Lite's own JSON
VERSION = "6.4"
WIDTH = 400
UNITS = {"file_bytes": "bytes", "latency_ms": "µs", "params": "parameters"}
SHAPES = {
    Kind.STATIC: "circle",
    Kind.HOST: "circle",
    Kind.EMULATED: "square",
    Kind.ESTIMATED: "diamond",
    Kind.MEASURED: "triangle-up",
    Kind.MEASURED_EMULATOR: "cross",
}
SERIES = [f"var(--c{n})" for n in range(1, 9)]
CONFIG: Spec = {
    "font": "system-ui, sans-serif",
    "background": None,
    "view": {"stroke": None},
    "axis": {
        "labelColor": "var(--ink)", "titleColor": "var(--ink)", "domainColor": "var(--line)",
        "tickColor": "var(--line)", "gridColor": "var(--faint)", "labelFontSize": 12,
        "titleFontSize": 12, "titleFontWeight": "normal", "labelLimit": 90,
    },
    "legend": {
        "labelColor": "var(--ink)", "titleColor": "var(--ink)", "labelFontSize": 12,
        "titleFontSize": 12, "orient": "top", "titleFontWeight": "normal", "columns": 4,
    },
    "text": {"color": "var(--ink)", "fontSize": 13, "fontWeight": "bold"},
    "range": {"category": SERIES},
}  # fmt: skip
_ROLES = re.compile(r' (?:role|aria-[a-z]+)="[^"]*"')


def require_extra() -> None:
    """Check that what draws a report is installed, without importing it.

    Raises:
        Missing: It is not.
    """
    if not has_extra():
        raise Missing(
            "jinja2 and vl-convert-python are needed to write a page and are not installed",
            hint="pip install 'sepdeploy[report]', or write Markdown: --format md",
        )


def has_extra() -> bool:
    """Whether what draws a report is installed."""
    return all(find_spec(name) is not None for name in ("jinja2", "vl_convert"))


def drawn(spec: Spec, label: str) -> str:
    """Return a chart as an SVG element that a screen reader calls by its label.

    Args:
        spec: What Vega-Lite is told, without configuration and size of the whole.
        label: Plain words; nothing that came out of a file.
    """
    import vl_convert

    whole = {"config": CONFIG, **spec}
    svg: str = vl_convert.vegalite_to_svg(whole, vl_version=VERSION, allowed_base_urls=[])
    svg = _ROLES.sub("", svg)
    return svg.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)


def _log(values: Sequence[float]) -> bool:
    positive = [v for v in values if v > 0]
    return len(positive) == len(values) > 0 and max(values) > 5 * min(values)


def _domain(values: Sequence[float], *, log: bool) -> list[float]:
    """Return the ends of an axis, with room around the outermost points."""
    low, high = min(values), max(values)
    if log:
        room = max((high / low) ** 0.08, 1.1)
        return [low / room, high * room]
    room = (high - low) * 0.1 or abs(high) * 0.05 or 1.0
    return [low - room, high + room]


def plane(plots: Sequence[Plot]) -> str:
    """Draw accuracies over one cost, the two metrics below each other; intervals are bars.

    Args:
        plots: Of one cost, kind and device.
    """
    cost, kind = plots[0].cost, plots[0].cost_kind
    scale = 1000 if cost == "latency_ms" else 1
    ends = [scale * v for p in plots for q in p.points for v in _ends(q.cost)]
    log = _log(ends)
    panels = [_panel(plot, scale, _domain(ends, log=log), log=log) for plot in plots]
    panels[-1]["layer"][0]["encoding"]["x"]["axis"]["title"] = (
        f"{UNITS.get(cost, heading(cost))}, {kind.value}{', log scale' if log else ''}"
    )
    label = f"Accuracies over {UNITS.get(cost, heading(cost))}; the table below has the numbers"
    return drawn({"vconcat": panels, "spacing": 14}, label)


def _ends(m: Measurement) -> list[float]:
    value = float(m.value or 0)
    return [value] * 3 if m.ci is None else [m.ci[0], value, m.ci[1]]


def _panel(plot: Plot, scale: float, domain: list[float], *, log: bool) -> Spec:
    rows: list[Spec] = []
    for p in plot.points:
        low, middle, high = (scale * v for v in _ends(p.cost))
        worst, value, best = (100 * v for v in _ends(p.accuracy))
        row = {"x": middle, "x1": low, "x2": high, "y": value, "y1": worst, "y2": best}
        rows.append(row | {"best": p.best, "key": p.subject.key})
    x: Spec = {
        "field": "x", "type": "quantitative", "axis": {"title": None, "tickCount": 5},
        "scale": _scale(domain, log=log),
    }  # fmt: skip
    if log:
        x["axis"] |= {"values": _decades(domain), "format": "~s"}
    short = "adversarial" if plot.accuracy == "adversarial_accuracy" else "clean"
    floor, top = _domain([row[end] for row in rows for end in ("y1", "y2")], log=False)
    y: Spec = {
        "field": "y", "type": "quantitative", "title": f"{short} %, {plot.accuracy_kind.value}",
        "scale": _scale([max(floor, 0), min(top, 100.5)], log=False), "axis": {"tickCount": 5},
    }  # fmt: skip
    bar: Spec = {"type": "rule", "color": "var(--c1)", "opacity": 0.6}
    point: Spec = {
        "type": "point", "shape": SHAPES[plot.accuracy_kind], "size": 90, "opacity": 1,
        "stroke": "var(--c1)", "strokeWidth": 2,
    }  # fmt: skip
    fill = {"condition": {"test": "datum.best", "value": "var(--c1)"}, "value": "var(--paper)"}
    wide = {"x": x | {"field": "x1"}, "x2": {"field": "x2"}, "y": y}
    return {
        "width": WIDTH, "height": 150, "data": {"values": rows},
        "layer": [
            {"mark": bar, "encoding": {"x": x, "y": y | {"field": "y1"}, "y2": {"field": "y2"}}},
            {"mark": bar, "encoding": wide},
            {"mark": point, "encoding": {"x": x, "y": y, "fill": fill}},
            *_labels(rows, x, y, log=log),
        ],
    }  # fmt: skip


def _scale(domain: list[float], *, log: bool) -> Spec:
    return {"domain": domain, "type": "log" if log else "linear", "zero": False, "nice": False}


def _labels(rows: Sequence[Spec], x: Spec, y: Spec, *, log: bool) -> Iterator[Spec]:
    """Give the letters: points that fall together share a label, which turns at the right edge."""
    domain = [math.log(v) if log else v for v in x["scale"]["domain"]]
    height = y["scale"]["domain"][1] - y["scale"]["domain"][0]
    found: list[tuple[float, Spec]] = []
    for row in sorted(rows, key=lambda r: float(r["x"])):
        at = ((math.log(row["x"]) if log else row["x"]) - domain[0]) / (domain[1] - domain[0])
        for place, label in found:
            if abs(at - place) < 0.04 and abs(row["y"] - label["y"]) < 0.06 * height:
                label["key"] += f", {row['key']}"
                break
        else:
            found.append((at, {"x": row["x"], "y": row["y"], "key": row["key"]}))
    for align, shift, turned in (("left", 8, False), ("right", -8, True)):
        values = [label for place, label in found if (place > 0.7) == turned]
        mark = {"type": "text", "align": align, "dx": shift, "dy": -8}
        encoding = {"x": x, "y": y, "text": {"field": "key"}}
        if values:
            yield {"data": {"values": values}, "mark": mark, "encoding": encoding}


def _decades(domain: list[float]) -> list[float]:
    """Return 1, 2 and 5 times the powers of ten within an axis, at most eight."""
    low, high = (math.floor(math.log10(v)) for v in domain)
    for steps in ((1, 2, 5), (1, 3), (1,)):
        found = [s * 10.0**e for e in range(low, high + 1) for s in steps]
        inside = [v for v in found if domain[0] <= v <= domain[1]]
        if len(inside) <= 7:
            return inside
    return inside[:: math.ceil(len(inside) / 7)]


def latencies(rows: Sequence[tuple[Subject, Measurement]]) -> str:
    """Draw how latencies of one kind spread: percentiles 1 to 99, 10 to 90, the median."""
    names = ("p1", "p10", "p25", "p50", "p75", "p90", "p99")
    values = [dict(zip(names, distribution(m), strict=True)) | {"key": s.key} for s, m in rows]
    ends = [float(v[n]) for v in values for n in ("p1", "p99")]
    log = _log(ends)
    domain = _domain(ends, log=log)
    axis = {"values": _decades(domain), "format": "~s"} if log else {"tickCount": 5}
    x: Spec = {
        "type": "quantitative", "title": f"µs{', log scale' if log else ''}", "axis": axis,
        "scale": _scale(domain, log=log),
    }  # fmt: skip
    y: Spec = {
        "field": "key", "type": "nominal", "title": None, "sort": None, "axis": {"grid": False},
    }  # fmt: skip

    def layer(mark: Spec, start: str, end: str | None = None) -> Spec:
        encoding: Spec = {"x": x | {"field": start}, "y": y}
        return {"mark": mark, "encoding": encoding | ({"x2": {"field": end}} if end else {})}

    box: Spec = {"type": "bar", "color": "var(--c1)", "height": 8, "opacity": 0.55}
    spec: Spec = {
        "width": WIDTH, "height": {"step": 24}, "data": {"values": values},
        "layer": [
            layer({"type": "rule", "color": "var(--c1)"}, "p1", "p99"),
            layer(box, "p10", "p90"),
            layer({"type": "tick", "color": "var(--ink)", "thickness": 2, "size": 16}, "p50"),
        ],
    }  # fmt: skip
    return drawn(spec, "Spread of latencies; the table below has the numbers")


def attacks(rows: Sequence[tuple[Subject, str, Measurement]]) -> str:
    """Draw robust accuracies by attack: one panel a subject, intervals as bars.

    Args:
        rows: Subject, a short name of the attack that is ours, and the number; of one kind.
    """
    values = [
        {"key": s.key, "attack": name, "y": 100 * float(m.value or 0),
         "y1": 100 * (m.ci or (m.value or 0,) * 2)[0], "y2": 100 * (m.ci or (m.value or 0,) * 2)[1]}
        for s, name, m in rows
    ]  # fmt: skip
    x: Spec = {
        "field": "y", "type": "quantitative", "title": f"adversarial %, {rows[0][2].kind.value}",
        "scale": {"domain": [0, 100]},
    }  # fmt: skip
    y: Spec = {"field": "key", "type": "nominal", "title": None, "sort": None}
    offset: Spec = {"field": "attack", "type": "nominal", "sort": None}
    colour: Spec = {"field": "attack", "type": "nominal", "title": None, "sort": None}
    shape: Spec = colour
    return drawn(
        {
            "width": WIDTH, "height": {"step": 14}, "data": {"values": values},
            "layer": [
                {"mark": "rule", "encoding": {"x": x | {"field": "y1"}, "x2": {"field": "y2"},
                                              "y": y, "yOffset": offset, "color": colour}},
                {"mark": {"type": "point", "filled": True, "size": 60, "opacity": 1},
                 "encoding": {"x": x, "y": y, "yOffset": offset, "color": colour, "shape": shape}},
            ],
        },
        "Robust accuracy by attack; the table below has the numbers",
    )  # fmt: skip


def by_radius(rows: Sequence[tuple[Subject, Measurement]]) -> str:
    """Draw robust accuracies of one attack and kind over ε; a clean accuracy stands at 0."""
    values = [
        {"key": s.key, "x": radius(m), "y": 100 * float(m.value or 0),
         "y1": 100 * (m.ci or (m.value or 0,) * 2)[0], "y2": 100 * (m.ci or (m.value or 0,) * 2)[1]}
        for s, m in rows
    ]  # fmt: skip
    x: Spec = {"field": "x", "type": "quantitative", "title": "ε"}
    y: Spec = {
        "field": "y",
        "type": "quantitative",
        "title": "accuracy %",
        "scale": {"domain": [0, 100]},
    }
    colour: Spec = {"field": "key", "type": "nominal", "title": None, "sort": None}
    bar = {"x": x, "y": y | {"field": "y1"}, "y2": {"field": "y2"}, "color": colour}
    line = {"x": x, "y": y, "color": colour, "shape": colour}
    return drawn(
        {
            "width": WIDTH, "height": 220, "data": {"values": values},
            "layer": [
                {"mark": {"type": "rule", "opacity": 0.5}, "encoding": bar},
                {"mark": "line", "encoding": {k: v for k, v in line.items() if k != "shape"}},
                {"mark": {"type": "point", "filled": True, "opacity": 1}, "encoding": line},
            ],
        },
        "Accuracy over the radius of the attack; the table below has the numbers",
    )  # fmt: skip


def training(epochs: Sequence[Epoch]) -> str:
    """Draw a training: validation accuracies above, loss below."""
    values = [
        {"epoch": e.epoch, "what": what, "y": 100 * value}
        for e in epochs
        for what, value in (("clean", e.clean_accuracy), ("robust", e.robust_accuracy))
        if value is not None
    ]
    losses = [{"epoch": e.epoch, "y": e.loss} for e in epochs if e.loss is not None]
    whole = {"tickMinStep": 1, "format": "d"}
    x: Spec = {"field": "epoch", "type": "quantitative", "title": None, "axis": whole,
               "scale": {"zero": False, "nice": False}}  # fmt: skip
    colour: Spec = {"field": "what", "type": "nominal", "title": None, "sort": None}
    y: Spec = {"field": "y", "type": "quantitative", "title": "validation %"}
    panels = [
        {"width": WIDTH, "height": 150, "data": {"values": values},
         "mark": {"type": "line", "point": {"size": 30}},
         "encoding": {"x": x, "y": y, "color": colour, "strokeDash": colour | {"legend": None}}},
        {"width": WIDTH, "height": 90, "data": {"values": losses},
         "mark": {"type": "line", "color": "var(--c3)", "point": {"color": "var(--c3)"}},
         "encoding": {"x": x | {"title": "epoch"}, "y": y | {"title": "loss"}}},
    ]  # fmt: skip
    kept = [p for p in panels if p["data"]["values"]]  # type: ignore[index]
    return drawn(
        {"vconcat": kept, "spacing": 12}, "Training curves; the table below has the numbers"
    )
