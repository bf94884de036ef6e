"""Fits the constants of the cost model to published latencies.

``python -m benchmarks.estimate.fit`` prints the text of ``calibration.toml``; the tests hold that
the packaged file is what the table gives.

Coefficients come from the rows of "base", by number of threads. What computing and what memory cost
on a family of cores in a number format are two factors to them, drawn towards 1 where little is
known. A claim rests on estimates by constants that saw no size of the network in question.
"""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import combinations

import numpy as np
import numpy.typing as npt

from benchmarks.estimate.published import COUNTED, Published, published
from sepdeploy.devices.estimate.calibration import Base, Claim, Factors
from sepdeploy.devices.estimate.model import FEATURES, MODEL, Coefficients, cost_ms

# The least value that each coefficient may take. 3×3 convolutions may fall to a quarter of their
# multiplications (Winograd F(4×4, 3×3), Lavin and Gray 2016).
LEAST = (1.0, 0.25, 1.0, 0.0, 1.0)
DRAWN = 0.1  # weight of a factor of 1, in networks
STEPS, DAMPED = 60, 0.7
ENOUGH_NETWORKS, ENOUGH_ROWS = 3, 4
HELD = 0.8  # share of the left-out latencies that an interval holds

Array = npt.NDArray[np.float64]


def fit(entries: Sequence[Published]) -> Coefficients:
    """Return the coefficients of least squared relative error, each at least its LEAST.

    Exact: with five columns every set of free coefficients can be tried.
    """
    times = np.array([e.ms for e in entries])
    columns: Array = np.array([e.features for e in entries]) / times[:, None]
    least = np.array(LEAST)
    rest = 1 - np.array([e.overhead for e in entries]) / times - columns @ least
    best, found = float(rest @ rest), np.zeros(len(LEAST))
    for count in range(1, len(LEAST) + 1):
        for free in map(list, combinations(range(len(LEAST)), count)):
            values = np.linalg.lstsq(columns[:, free], rest, rcond=None)[0]
            off = columns[:, free] @ values - rest
            if (values >= 0).all() and float(off @ off) < best:
                best, found = float(off @ off), np.zeros(len(LEAST))
                found[free] = values
    return tuple(float(c) for c in least + found)


@cache
def base_without(left_out: str = "") -> dict[int, Coefficients]:
    """Return the coefficients by number of threads, without an architecture."""
    rows = [e for e in published() if e.use == "base" and e.architecture != left_out]
    return {n: fit([e for e in rows if e.threads == n]) for n in sorted({e.threads for e in rows})}


def choosing(family: str, dtype: str) -> list[Published]:
    """Return the rows that choose a family's factors: other kernels than the base's if enough."""
    rows = [e for e in published() if (e.family, e.dtype) == (family, dtype)]
    own = [e for e in rows if e.use == "fit"]
    if len({e.architecture for e in own}) >= ENOUGH_NETWORKS:
        return own
    return [e for e in rows if e.use in ("base", "fit")]


def factors(entries: Sequence[Published], base: dict[int, Coefficients]) -> tuple[float, float]:
    """Return the factors of computing and memory of least squared logarithmic error.

    Every architecture counts the same, however many sizes of it were published.
    """
    if not entries:
        return 1.0, 1.0
    parts = np.array([cost_ms(base[e.threads], e.features, (1.0, 1.0)) for e in entries])
    rest = np.array([e.overhead for e in entries])
    times = np.array([e.ms for e in entries])
    sizes = Counter(e.architecture for e in entries)
    weights = np.array([1 / sizes[e.architecture] for e in entries])
    logs = np.zeros(2)
    for _ in range(STEPS):
        scaled = parts * np.exp(logs)
        total = scaled.sum(axis=1) + rest
        slope = scaled / total[:, None]
        off = np.log(total / times)
        left = (slope * weights[:, None]).T @ slope + DRAWN * np.eye(2)
        logs -= DAMPED * np.linalg.solve(left, slope.T @ (weights * off) + DRAWN * logs)
    compute, memory = np.exp(logs)
    return float(compute), float(memory)


def left_out(entries: Sequence[Published]) -> list[tuple[Published, float]]:
    """Return estimated / published of rows, by constants that saw none of their architecture."""
    return [
        (
            e,
            e.predicted(
                base_without(e.architecture)[e.threads],
                factors_without(e.family, e.dtype, e.architecture),
            )
            / e.ms,
        )
        for e in entries
    ]


@cache
def factors_without(family: str, dtype: str, architecture: str) -> tuple[float, float]:
    """Return a family's factors, from the rows of other architectures."""
    rows = [e for e in choosing(family, dtype) if e.architecture != architecture]
    return factors(rows, base_without(architecture))


def spread(ratios: Sequence[float]) -> list[float]:
    """Return how far off each ratio is, as a factor of at least 1, in order of size."""
    return sorted(max(r, 1 / r) for r in ratios)


def holding(ratios: Sequence[float]) -> float:
    """Return the factor that holds HELD of the next ratio, if it is like these."""
    off = spread(ratios)
    return off[min(math.ceil(HELD * (len(off) + 1)), len(off)) - 1]


def shown(family: str, dtype: str, threads: int) -> list[Published]:
    """Return the rows that a claim rests on: the runtimes' own kernels where there are enough."""
    wanted = (family, dtype, threads)
    rows = [e for e in published() if (e.family, e.dtype, e.threads) == wanted and e.use in COUNTED]
    own = [e for e in rows if e.kernels != "ncnn"]
    return own if _enough(own) else rows


def _enough(rows: Sequence[Published]) -> bool:
    networks = {e.architecture for e in rows}
    return len(networks) >= ENOUGH_NETWORKS and len(rows) >= ENOUGH_ROWS


def groups() -> list[tuple[str, str]]:
    """Return the families and formats of which something was published."""
    found = dict.fromkeys((e.family, e.dtype) for e in published())
    return [group for group in found if choosing(*group)]


def claims() -> Iterator[Claim]:
    """Return what may be claimed of a family, a format and a number of threads."""
    for family, dtype in groups():
        for threads in base_without():
            rows = shown(family, dtype, threads)
            if not _enough(rows):
                continue
            ratios = [r for _, r in left_out(rows)]
            yield Claim(
                family=family,
                dtype=dtype,
                threads=threads,
                kernels=", ".join(sorted({e.kernels for e in rows})),
                rows=len(rows),
                networks=len({e.architecture for e in rows}),
                mean_error=float(np.mean(np.abs(np.array(ratios) - 1))),
                within=holding(ratios),
                worst=spread(ratios)[-1],
            )


def calibration_text() -> str:
    """Return the text of ``calibration.toml``."""
    lines = [
        "# Written by `python -m benchmarks.estimate.fit` from its published.csv.",
        f'model = "{MODEL}"',
    ]
    for threads, found in base_without().items():
        rows = sum(e.use == "base" and e.threads == threads for e in published())
        lines += _table("base", Base(threads, rows, **dict(zip(FEATURES, found, strict=True))))
    for family, dtype in groups():
        entries = choosing(family, dtype)
        compute, memory = factors(entries, base_without())
        lines += _table("factors", Factors(family, dtype, len(entries), compute, memory))
    for claim in claims():
        lines += _table("claims", claim)
    return "\n".join(lines) + "\n"


def _table(name: str, record: Base | Factors | Claim) -> list[str]:
    return ["", f"[[{name}]]", *(f"{key} = {_toml(value)}" for key, value in vars(record).items())]


def _toml(value: object) -> str:
    if isinstance(value, str):
        return f'"{value}"'
    return f"{value:.4f}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    sys.stdout.write(calibration_text())
