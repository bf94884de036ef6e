"""The verdict: one item per judged number, and the exit code that follows from them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum

from sepdeploy.records import Kind

CHECK_SCHEMA = "sepdeploy.check/1"


class Outcome(StrEnum):
    """What was found for one item.

    ``warning`` and ``improved`` count as compared and fine; ``reported`` means shown and never
    gated, so that a result of nothing else has measured nothing.
    """

    OK = "ok"
    IMPROVED = "improved"
    WARNING = "warning"
    REPORTED = "reported"
    REGRESSION = "regression"
    UNSTABLE = "unstable"
    INCOMPARABLE = "incomparable"


# Worst first: a mixed verdict is the first of these that occurs.
EXIT_CODES = {Outcome.REGRESSION: 1, Outcome.UNSTABLE: 5, Outcome.INCOMPARABLE: 3}
PASSING = frozenset({Outcome.OK, Outcome.IMPROVED, Outcome.WARNING})


@dataclass(frozen=True)
class Item:
    """One judged number; ``limit`` is the last value that would have passed."""

    metric: str
    artifact: str
    device: str
    kind: Kind | None
    baseline: float | int | None
    current: float | int | None
    limit: float | int | None
    verdict: Outcome
    why: str


@dataclass(frozen=True)
class Finding:
    """What a rule says about one number, before it is known which file and device it is from."""

    outcome: Outcome
    why: str
    baseline: float | int | None = None
    current: float | int | None = None
    limit: float | int | None = None

    def about(self, metric: str, artifact: str, device: str, kind: Kind | None) -> Item:
        """Return the finding with the names of what it is about."""
        values = self.baseline, self.current, self.limit
        return Item(metric, artifact, device, kind, *values, self.outcome, self.why)


@dataclass(frozen=True)
class Verdict:
    """What ``sepdeploy check`` found; every output is rendered from this record alone."""

    schema: str = field(default=CHECK_SCHEMA, kw_only=True)
    verdict: Outcome
    exit_code: int
    items: tuple[Item, ...] = ()


def conclude(items: Iterable[Item]) -> Verdict:
    """Return the verdict over all items: 1 over 5 over 3 over 0, and 3 if nothing was compared."""
    listed = tuple(items)
    for outcome, code in EXIT_CODES.items():
        if any(i.verdict is outcome for i in listed):
            return Verdict(outcome, code, listed)
    if any(i.verdict in PASSING for i in listed):
        return Verdict(Outcome.OK, 0, listed)
    nothing = Finding(Outcome.INCOMPARABLE, "nothing was measured that the rules judge")
    empty = nothing.about("*", "*", "*", None)
    return Verdict(Outcome.INCOMPARABLE, EXIT_CODES[Outcome.INCOMPARABLE], (*listed, empty))
