"""Prints how far the published latencies are met: `python -m benchmarks.estimate [--write]`.

Every latency is estimated by constants that saw no size of its network. ``--write`` replaces the
table of docs/devices.md.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from statistics import mean

from benchmarks.estimate import cycles
from benchmarks.estimate.fit import claims, holding, left_out, spread
from benchmarks.estimate.published import Published, published
from sepdeploy.files import write_text
from sepdeploy.reports.tables import Table, markdown

PAGE = Path("docs/devices.md")
BEGIN, END = "<!-- python -m benchmarks.estimate --write -->", "<!-- end -->"
USES = {"base": "coefficients", "fit": "factors", "check": "nothing", "compare": "not counted"}


def rows_table() -> Table:
    """Return a row for each group of latencies that chose the same constants."""
    table = Table(
        ("board", "kernels", "format", "threads", "chose", "n", "networks", "mean error %",
         "estimated/published", "80 % within ×/÷", "worst ×/÷"),
        (5, 6, 7, 8, 9, 10),
    )  # fmt: skip
    grouped: dict[tuple[str, ...], list[Published]] = {}
    for e in published():
        grouped.setdefault((e.board, e.kernels, e.dtype, str(e.threads), USES[e.use]), []).append(e)
    for key, entries in grouped.items():
        ratios = [r for _, r in left_out(entries)]
        table.add(*key, *_figures(entries, ratios))
    return table


def _figures(entries: Sequence[Published], ratios: Sequence[float]) -> tuple[str, ...]:
    return (
        str(len(entries)),
        str(len({e.architecture for e in entries})),
        f"{100 * mean(abs(r - 1) for r in ratios):.1f}",
        f"{math.exp(mean(math.log(r) for r in ratios)):.2f}",
        f"{holding(ratios):.2f}",
        f"{spread(ratios)[-1]:.2f}",
    )


def cycles_table() -> Table:
    """Return a row for each latency that is estimated by cycles."""
    table = Table(
        ("board", "network", "format", "threads", "chose", "published ms", "estimated ms",
         "estimated/published"),
        (5, 6, 7),
    )  # fmt: skip
    for row in cycles.rows():
        table.add(
            f"{row.device} {row.ghz} GHz",
            row.network,
            row.dtype,
            str(row.threads),
            "constants of the board" if row.use == "fit" else USES[row.use],
            f"{row.ms:.2f}",
            f"{row.ms * row.ratio:.2f}",
            f"{row.ratio:.2f}",
        )
    return table


def text() -> str:
    """Return the tables and what is claimed, as Markdown."""
    lines = ["The cost model:", "", *markdown(rows_table()), "", "What may be claimed:", ""]
    lines += [f"* {c.sentence}" for c in claims()]
    lines += ["", "Cycles, LiteRT with XNNPACK:", "", *markdown(cycles_table())]
    return "\n".join(lines)


def main() -> None:
    """Print, or write into the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true")
    found = text()
    if parser.parse_args().write:
        page = PAGE.read_text(encoding="utf-8")
        before, _, rest = page.partition(BEGIN)
        write_text(PAGE, f"{before}{BEGIN}\n\n{found}\n\n{END}{rest.partition(END)[2]}")
    print(found)


if __name__ == "__main__":
    main()
