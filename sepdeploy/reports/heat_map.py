"""The drawing of ``sepdeploy inspect --frequency --plot``: maps of the Fourier plane, as SVG."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

if TYPE_CHECKING:
    from sepdeploy.workflows.frequencies import FrequencyReport

SIDE, GAP, TOP, FOOT = 240.0, 40.0, 64.0, 72.0  # in pixels: of a map, and around it
DECADES = 3  # of energy below the largest share of a map
# From nothing to most, dark to light, so that it reads in grey as well.
COLOURS = ((20, 14, 54), (98, 30, 110), (188, 55, 84), (244, 136, 48), (252, 252, 180))
Scale = Callable[[float], float]


def drawing(report: FrequencyReport) -> str:
    """Return an SVG document: the spectra on a logarithmic scale, then the Fourier heat map."""
    panels = [
        (f"energy of {row.of}", row.map, *_logarithmic(row.map), "share of energy")
        for row in report.energy
        if row.map and row.images
    ]
    top = max(max(map(max, report.sensitivity.map)), 1e-3)
    said = f"error with a wave of norm {report.sensitivity.norm:.3g}"
    panels.append(
        (said, report.sensitivity.map, lambda v: v / top, ("0", f"{100 * top:.0f} %"), "error")
    )
    wide = GAP + len(panels) * (SIDE + GAP)
    attack = report.shown_attack
    head = f"{report.images} test images of {report.data}" + (f", {attack}" if attack else "")
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{wide:.0f}" '
        f'height="{TOP + SIDE + FOOT:.0f}" font-family="sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="white"/>',
        _text(GAP, 22, head),
    ]
    for number, (title, values, scale, ends, unit) in enumerate(panels):
        lines.append(f'<g transform="translate({GAP + number * (SIDE + GAP):.0f} {TOP:.0f})">')
        lines += [_text(0, -10, title), *_cells(values, scale), *_rings(report)]
        lines += [*_legend(ends, unit), "</g>"]
    return "\n".join([*lines, "</svg>", ""])


def _logarithmic(values: Sequence[Sequence[float]]) -> tuple[Scale, tuple[str, str]]:
    top = max(map(max, values))

    def scale(value: float) -> float:
        return 1 + math.log10(value / top) / DECADES if value > 0 else 0.0

    return scale, (f"{top / 10**DECADES:.1g}", f"{top:.1g}")


def _cells(values: Sequence[Sequence[float]], scale: Scale) -> Iterator[str]:
    high, wide = SIDE / len(values), SIDE / len(values[0])
    yield '<g shape-rendering="crispEdges">'
    for y, row in enumerate(values):
        for x, value in enumerate(row):
            yield (
                f'<rect x="{x * wide:.2f}" y="{y * high:.2f}" width="{wide:.2f}" '
                f'height="{high:.2f}" fill="{_colour(scale(value))}"/>'
            )
    yield "</g>"


def _rings(report: FrequencyReport) -> Iterator[str]:
    """Draw the borders of the bands around the cell of frequency zero."""
    centre, scale = [], []
    for waves, pixels in zip((report.horizontal, report.vertical), report.size[::-1], strict=True):
        cell = SIDE / len(waves)
        centre.append((waves.index(0) + 0.5) * cell)
        scale.append(pixels / 2 * cell * (len(waves) - 1) / max(waves[-1] - waves[0], 1))
    for radius in report.limits.values():
        yield (
            f'<ellipse cx="{centre[0]:.1f}" cy="{centre[1]:.1f}" rx="{radius * scale[0]:.1f}" '
            f'ry="{radius * scale[1]:.1f}" fill="none" stroke="white" stroke-opacity="0.6" '
            'stroke-dasharray="3 3"/>'
        )


def _legend(ends: tuple[str, str], unit: str) -> Iterator[str]:
    steps, top = 48, SIDE + 12
    for step in range(steps):
        yield (
            f'<rect x="{step * SIDE / steps:.1f}" y="{top}" width="{SIDE / steps + 0.5:.1f}" '
            f'height="10" fill="{_colour(step / (steps - 1))}"/>'
        )
    yield _text(0, top + 26, ends[0])
    yield _text(SIDE / 2, top + 26, unit, "middle")
    yield _text(SIDE, top + 26, ends[1], "end")


def _text(x: float, y: float, said: str, anchor: str = "start") -> str:
    return f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}">{escape(said)}</text>'


def _colour(part: float) -> str:
    at = min(max(part, 0.0), 1.0) * (len(COLOURS) - 1)
    left = min(int(at), len(COLOURS) - 2)
    mixed = (a + (b - a) * (at - left) for a, b in zip(*COLOURS[left : left + 2], strict=True))
    return "#" + "".join(f"{round(value):02x}" for value in mixed)
