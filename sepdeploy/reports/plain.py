"""Words and characters that every rendering of a verdict shares."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from sepdeploy.gate.verdict import PASSING, Item, Outcome, Verdict


@dataclass(frozen=True)
class Shown:
    """How an outcome is shown: in plain text, in rich text, and counted in the headline."""

    mark: str
    sign: str
    counted: str = ""


# Worst first: the order in which people read, and in which services cut lists off.
SHOWN = {
    Outcome.REGRESSION: Shown("FAIL", "❌ worse", "worse"),
    Outcome.UNSTABLE: Shown("VOID", "🌀 unstable", "unstable"),
    Outcome.INCOMPARABLE: Shown("N/A", "❔ not comparable", "not comparable"),
    Outcome.WARNING: Shown("warn", "⚠️ watch", "to watch"),
    Outcome.IMPROVED: Shown("good", "✅ better", "better"),
    Outcome.OK: Shown("ok", "✅ ok"),
    Outcome.REPORTED: Shown("-", "shown"),
}


def headline(verdict: Verdict) -> str:
    """Return the verdict in one line: "regression: 12 compared, 1 worse, 1 to watch (exit 1)"."""
    counts = Counter(i.verdict for i in verdict.items)
    compared = sum(counts[o] for o in (*PASSING, Outcome.REGRESSION))
    parts = [f"{compared} compared"]
    parts += [f"{counts[o]} {s.counted}" for o, s in SHOWN.items() if s.counted and counts[o]]
    return f"{verdict.verdict}: {', '.join(parts)} (exit {verdict.exit_code})"


def worst_first(verdict: Verdict) -> list[Item]:
    """Return the items by severity, otherwise in their order."""
    severity = list(SHOWN)
    return sorted(verdict.items, key=lambda i: severity.index(i.verdict))
