"""The section of small nets: every attack that judged them, and what their rates are worth."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean, median

from experiments.tables import (
    Result,
    named,
    names,
    radius,
    ratio,
    schedule,
    setting,
    spread,
    uncertainty,
)
from sepdeploy.reports.tables import Table, markdown

FAST, STANDARD = "aa-fast", "aa-standard"
# Points above dense that a net must have, by how many times smaller it is at least.
BARS = ((30, 1.5), (100, 2.0), (200, 1.0), (300, 0.0))


def small_section(results: list[Result]) -> str:
    """The tables of ``experiments.small`` and their bars."""
    longest = max(r["recipe"]["epochs"] for r in results)
    judged = [r for r in results if r["recipe"]["epochs"] == longest]
    searched = [r for r in results if r["recipe"]["epochs"] != longest]
    lines = [
        "## Small nets on MNIST, each tensor at a rate in proportion to its size",
        "",
        "    SEPDEPLOY_DATA=DIR python -m experiments.small",
        "",
        f"{setting(judged)} aa-fast is APGD-CE, then APGD-T, on all test images; aa-standard "
        "AutoAttack's four on the first 1,000. Dense is 784–1024–1024–10, `dense-N` are dense nets "
        "of the small ones' sizes. `kron-31x` has two layers of 64×64 factors; the other `kron-N` "
        "are wide first and narrow last, with biases that are sums over the modes (`+sumbias`).",
        "",
        f"### {radius(judged)}",
        "",
        schedule(judged),
        "",
        *_table(judged),
        "",
        *_bars(judged),
        "",
    ]
    return "\n".join(lines + _search(searched))


def _judged(rows: Sequence[Result], attack: str) -> dict[int, float]:
    """Robust accuracy in percent by seed, of the rows that the attack has judged."""
    return {r["seed"]: 100 * r["judged"][attack]["robust"] for r in rows if attack in r["judged"]}


def _gains(results: Sequence[Result], name: str) -> list[float]:
    """Points above the dense net of the same seed under the fast ensemble."""
    dense = _judged(named(results, "dense"), FAST)
    own = _judged(named(results, name), FAST)
    return [own[seed] - dense[seed] for seed in own if seed in dense]


def _table(results: Sequence[Result]) -> list[str]:
    heads = ("net", "parameters", "fewer", "seeds", "clean %", results[0]["attack"] + " %")
    table = Table((*heads, f"{FAST} %", f"{STANDARD} %", "against dense"), range(1, 9))
    for name in names(results):
        rows = named(results, name)
        shares = [list(_judged(rows, attack).values()) for attack in (FAST, STANDARD)]
        gains = [] if name == "dense" else _gains(results, name)
        table.add(
            name,
            f"{median(r['params'] for r in rows):,.0f}",
            f"{ratio(results, name):.0f}×",
            str(len(rows)),
            spread(rows, "clean"),
            spread(rows, "robust"),
            *(f"{mean(share):.2f}" if share else "–" for share in shares),
            f"{mean(gains):+.2f}{uncertainty(gains)}" if gains else "",
        )
    return markdown(table)


def _bars(results: Sequence[Result]) -> list[str]:
    lines = []
    for name in names(results):
        gains, fewer = _gains(results, name), ratio(results, name)
        wanted = [bar for bar in BARS if fewer >= bar[0]]
        if name.startswith("kron") and gains and wanted:
            least, points = wanted[-1]
            verdict = "met" if mean(gains) >= points else "**missed**"
            lines.append(
                f"* {verdict} – {name}: {points:g} points above dense at {least}x under {FAST}: "
                f"{mean(gains):+.2f}{uncertainty(gains)}"
            )
    return lines


def _search(results: Sequence[Result]) -> list[str]:
    """Robust accuracy on held-out training images by learning rate."""
    if not results:
        return []
    rates = sorted({r["recipe"]["lr"] for r in results})
    table = Table(("net", *(f"lr {rate:g}" for rate in rates)), range(1, len(rates) + 1))
    for name in names(results):
        found = {r["recipe"]["lr"]: r["held_out"] for r in named(results, name)}
        table.add(name, *(f"{100 * found[r]:.2f}" if r in found else "–" for r in rates))
    return [
        f"Robust accuracy in % on the held-out training images at other learning rates, after "
        f"{schedule(results)} One seed.",
        "",
        *markdown(table),
        "",
    ]
