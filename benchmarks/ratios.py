"""Times of runs that take turns, and the ratios between them."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from sepdeploy.reports.tables import Table, markdown

QUIET = 25  # percentile of the rounds that stands for a run: other programs only ever slow it down


@dataclass(frozen=True)
class Ratio:
    """One comparison, in milliseconds.

    With ``at_most`` the ratio is own / other, the cost in units of the other's; else it is other /
    own, how many times faster. ``note`` stands where there are no times, ``broken_by`` for a bar
    that is no ratio.
    """

    what: str
    against: str
    ms: float | None = None
    other_ms: float | None = None
    at_most: float | None = None
    at_least: float | None = None
    note: str = ""
    broken_by: bool = False

    @classmethod
    def of(
        cls,
        what: str,
        against: str,
        own: list[float],
        other: list[float],
        *,
        at_most: float | None = None,
        at_least: float | None = None,
    ) -> Ratio:
        """Compare two lists of seconds."""
        ms, other_ms = (float(np.percentile(s, QUIET)) * 1e3 for s in (own, other))
        return cls(what, against, ms, other_ms, at_most, at_least)

    @property
    def ratio(self) -> float | None:
        """The ratio that the bar is about."""
        if self.ms is None or self.other_ms is None:
            return None
        return self.ms / self.other_ms if self.at_most is not None else self.other_ms / self.ms

    @property
    def broken(self) -> bool:
        """Whether the bar is missed."""
        if self.ratio is None:
            return self.broken_by
        high = self.at_most is not None and self.ratio > self.at_most
        return high or (self.at_least is not None and self.ratio < self.at_least)


def take_turns(runs: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Time several callables in turns, each after a run that warms its caches.

    Returns:
        Seconds of processor time of every round: waiting for a busy processor is not counted.
    """
    times: dict[str, list[float]] = {name: [] for name in runs}
    gc.disable()
    try:
        for _ in range(rounds):
            for name, run in runs.items():
                run()
                start = time.process_time()
                run()
                times[name].append(time.process_time() - start)
    finally:
        gc.enable()
    return times


def table(rows: list[Ratio]) -> str:
    """Return the rows as a Markdown table."""
    drawn = Table(("what", "against", "ms", "other ms", "ratio", "bar"), (2, 3, 4, 5))
    for r in rows:
        bar = "" if r.at_least is None else f"≥ {r.at_least:g}×"
        bar = bar if r.at_most is None else f"≤ {r.at_most:g}×"
        ratio = r.note if r.ratio is None else f"{r.ratio:.2f}×"
        ratio = f"**{ratio}**" if r.broken else ratio
        ms, other = ("" if n is None else f"{n:.2f}" for n in (r.ms, r.other_ms))
        drawn.add(r.what, r.against, ms, other, ratio, bar)
    return "\n".join(markdown(drawn))
