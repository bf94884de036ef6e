"""Why two numbers are not compared, in words, with what the user can do about it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from sepdeploy.gate.config import Rules
from sepdeploy.gate.evidence import INTERLEAVED_KINDS, is_latency, variant, void_reason
from sepdeploy.gate.report import Entry, Key
from sepdeploy.gate.verdict import Finding, Outcome
from sepdeploy.records import Measurement

UPDATE = "sepdeploy baseline update adds it"


def reported(old: Measurement | None, new: Measurement) -> Finding:
    """Show a number that is never judged against a baseline."""
    before = old.value if old else None
    if new.value is None:
        reason = new.details.get("reason")
        return Finding(Outcome.REPORTED, str(reason or "not measured"), before)
    why = "shown, not judged"
    if is_latency(new) and new.kind in INTERLEAVED_KINDS:
        why = f"a {new.kind} clock is judged by bench --against OLD only"
    why = "; ".join(filter(None, (void_reason(new), why)))
    return Finding(Outcome.REPORTED, why, before, new.value)


def lost(old: Measurement, new: Measurement | None = None) -> Finding:
    """Report a number that the baseline has and the result has not."""
    reason = new.details.get("reason") if new else None
    why = f"in the baseline but not measured now{f': {reason}' if reason else ''}"
    return Finding(Outcome.INCOMPARABLE, why, old.value)


def other_job(old: Measurement, device: str) -> Finding:
    """Report a number of a device that this result is not about."""
    return Finding(Outcome.REPORTED, f"device {device} is not in this result", old.value)


def elsewhere(new: Measurement, device: str) -> Finding:
    """Show a number of a device that the baseline does not know, and that is judged by turns."""
    why = f"the baseline has nothing of {device}: judged by bench --against alone"
    return Finding(Outcome.REPORTED, why, None, new.value)


def unknown(new: Measurement, old: Entry, rules: Rules) -> Finding:
    """Report a number that a matching entry of the baseline does not hold."""
    others = [variant(m) for m in old.measurements if m.metric == new.metric]
    why = f"not in the baseline; {UPDATE}"
    if others:
        known = " or ".join(", ".join(parts) or "no settings" for parts in others)
        why = f"the baseline has it for {known} only"
    return Finding(_outcome_of_new(rules), why, None, new.value)


def unmatched(key: Key, known: Sequence[Entry], rules: Rules) -> tuple[Outcome, str]:
    """Return what to say about an entry whose key the baseline does not hold."""
    slot = next((e.key for e in known if e.key.slot == key.slot), None)
    if slot is not None:
        return Outcome.INCOMPARABLE, _difference(slot, key)
    return _outcome_of_new(rules), _absence(key, [e.key for e in known])


def _difference(old: Key, new: Key) -> str:
    changes = []
    for f in dataclasses.fields(Key):
        was, now = getattr(old, f.name), getattr(new, f.name)
        if was == now:
            continue
        if f.name == "profile":
            changes.append("the device profile changed (emulation or clusters)")
        else:
            name = f.name.replace("_", " ")
            changes.append(f"{name} {now or 'unknown'}, baseline {was or 'unknown'}")
    return "; ".join(changes)


def _absence(key: Key, known: list[Key]) -> str:
    """Name the first part of the key that the baseline does not have for the artifact."""
    near = [k for k in known if k.artifact == key.artifact]
    if not near:
        return f"the artifact is not in the baseline; {UPDATE}"
    for name, text in (
        ("device", "the baseline has it on {} only"),
        ("kind", "the baseline has kind {} only, and kinds are never compared"),
        ("runtime", "the baseline has it in {} only"),
    ):
        matching = [k for k in near if getattr(k, name) == getattr(key, name)]
        if not matching:
            return text.format(", ".join(sorted({str(getattr(k, name)) for k in near})))
        near = matching
    threads = ", ".join(sorted({str(k.threads) for k in near}))
    return f"the baseline has it with {threads} threads only"


def _outcome_of_new(rules: Rules) -> Outcome:
    return Outcome.REPORTED if rules.new == "reported" else Outcome.INCOMPARABLE
