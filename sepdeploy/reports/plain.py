"""Words and characters that every rendering of a verdict shares."""

from __future__ import annotations

from collections import Counter

from sepdeploy.gate.verdict import PASSING, Item, Outcome, Verdict

# Worst first: the order in which people read, and in which services cut lists off.
SEVERITY = (
    Outcome.REGRESSION,
    Outcome.UNSTABLE,
    Outcome.INCOMPARABLE,
    Outcome.WARNING,
    Outcome.IMPROVED,
    Outcome.OK,
    Outcome.REPORTED,
)

_COUNTED = {
    Outcome.REGRESSION: "worse",
    Outcome.UNSTABLE: "unstable",
    Outcome.INCOMPARABLE: "not comparable",
    Outcome.WARNING: "to watch",
    Outcome.IMPROVED: "better",
}


def headline(verdict: Verdict) -> str:
    """Return the verdict in one line: "regression: 12 compared, 1 worse, 1 to watch (exit 1)"."""
    counts = Counter(i.verdict for i in verdict.items)
    compared = sum(counts[o] for o in (*PASSING, Outcome.REGRESSION))
    parts = [f"{compared} compared"]
    parts += [f"{counts[o]} {word}" for o, word in _COUNTED.items() if counts[o]]
    return f"{verdict.verdict}: {', '.join(parts)} (exit {verdict.exit_code})"


def worst_first(verdict: Verdict) -> list[Item]:
    """Return the items by severity, otherwise in their order."""
    return sorted(verdict.items, key=lambda i: SEVERITY.index(i.verdict))


def printable(text: str) -> str:
    """Return text without control characters, which a file or device name may carry.

    They could move the cursor of a terminal, break a workflow command or make XML invalid.
    """
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def shorten(text: str, width: int) -> str:
    """Return text cut in the middle to a width: "a-very-l…el.onnx"."""
    if len(text) <= width:
        return text
    head = (width - 1) // 2
    return f"{text[:head]}…{text[len(text) - (width - 1 - head) :]}"
