"""The rules: what a pair of measurements, baseline and current, says about one metric.

Each rule is a pure function ``(old, new, rules, floor) -> Finding`` of two measurements of the
same metric, variant and kind. ``JUDGES`` is the table of them, by the names that the rows of
``sepdeploy.metrics`` use; a metric without a rule is reported.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from sepdeploy.gate.config import Rules
from sepdeploy.gate.evidence import void_reason
from sepdeploy.gate.latency import judge_separate
from sepdeploy.gate.verdict import Finding, Outcome
from sepdeploy.gate.wording import exceeds, growth, moved_layer, number, percent, probability
from sepdeploy.measure.statistics import mcnemar_p
from sepdeploy.metrics import row
from sepdeploy.records import Measurement

Judge = Callable[[Measurement, Measurement, Rules, float], Finding]


def judge_count(old: Measurement, new: Measurement, rules: Rules, floor: float) -> Finding:
    """Judge what is counted, not timed: any growth fails unless it is allowed."""
    before, after = _values(old, new)
    allowed = rules.allow.get(new.metric, 0.0)
    change = growth(before, after)
    if after <= before:
        outcome = Outcome.OK if after == before else Outcome.IMPROVED
    else:
        outcome = Outcome.REGRESSION if exceeds(before, after, allowed) else Outcome.OK
    parts = ["unchanged" if after == before else f"{_signed(after - before)} ({percent(change)})"]
    if outcome is Outcome.OK and after > before:
        parts.append("allowed")
    if after > before:
        parts.append(moved_layer(old.details, new.details))
    limit = before if allowed == 0 else None if allowed == float("inf") else before * (1 + allowed)
    return Finding(outcome, _join(parts), before, after, limit)


def judge_instructions(old: Measurement, new: Measurement, rules: Rules, floor: float) -> Finding:
    """Judge instructions per inference, which repeat exactly, and the dot-product path."""
    before, after = _values(old, new)
    limit = before * (1 + rules.instructions_fail)
    reason = void_reason(new)
    if reason:
        return Finding(Outcome.UNSTABLE, reason, before, after, limit)
    change = growth(before, after)
    parts = [percent(change)]
    outcome = Outcome.IMPROVED if change < -rules.instructions_warn else Outcome.OK
    if exceeds(before, after, rules.instructions_warn):
        outcome = Outcome.WARNING
        parts.append(moved_layer(old.details, new.details))
    if exceeds(before, after, rules.instructions_fail):
        outcome = Outcome.REGRESSION
        parts[0] += f", more than {percent(rules.instructions_fail)}"
    lost = old.details.get("dot", 0)
    if lost > 0 and new.details.get("dot") == 0:
        outcome = Outcome.REGRESSION
        parts.append(f"dot-product path lost ({number(lost)} dot instructions before, now 0)")
    return Finding(outcome, _join(parts), before, after, limit)


def judge_accuracy(old: Measurement, new: Measurement, rules: Rules, floor: float) -> Finding:
    """Judge accuracy on the same images: a loss must be large enough and significant."""
    before, after = _values(old, new)
    limit = before - rules.accuracy_drop
    reason = void_reason(new)
    if reason:
        return Finding(Outcome.UNSTABLE, reason, before, after, limit)
    reason = _difference(old, new)
    if reason:
        return Finding(Outcome.INCOMPARABLE, reason, before, after, limit)
    pairs = list(zip(old.samples, new.samples, strict=True))
    lost = sum(was > now for was, now in pairs)
    gained = sum(now > was for was, now in pairs)
    p = mcnemar_p(lost, gained)
    net, n = lost - gained, len(pairs)
    points = f"{-100 * net / n:+.3g} points" if net else "unchanged"
    why = f"{points}: {lost} images lost, {gained} gained of {n:,}, {probability(p)}"
    # In whole images, so that a loss of exactly the allowed share passes whatever its rounding.
    is_large = net > rules.accuracy_drop * n + 1e-9
    if is_large and p < rules.accuracy_p:
        outcome = Outcome.REGRESSION
    elif net > 0 and (is_large or p < rules.accuracy_p):
        outcome = Outcome.WARNING
        why += ", not significant" if is_large else ", within the allowed loss"
    else:
        outcome = Outcome.IMPROVED if net < 0 and p < rules.accuracy_p else Outcome.OK
    return Finding(outcome, why, before, after, limit)


JUDGES: Mapping[str, Judge] = {
    "count": judge_count,
    "instructions": judge_instructions,
    "accuracy": judge_accuracy,
    "latency": judge_separate,
}


def _difference(old: Measurement, new: Measurement) -> str:
    """Return why two accuracies are not about the same images and attack, or nothing."""
    for name in row(new.metric).same:
        was, now = old.details.get(name), new.details.get(name)
        if was != now:
            what = "the images" if name == "images_sha256" else name
            shown = "" if name == "images_sha256" else f" ({was} in the baseline, now {now})"
            return f"{what} differ{'' if name == 'images_sha256' else 's'}{shown}"
    if not new.samples:
        return "no outcomes per image in the result"
    if len(old.samples) != len(new.samples):
        return f"{len(old.samples)} images in the baseline, now {len(new.samples)}"
    if new.details.get("images_sha256") is None:
        return "the result does not say on which images (images_sha256)"
    return ""


def _values(old: Measurement, new: Measurement) -> tuple[float | int, float | int]:
    assert old.value is not None
    assert new.value is not None
    return old.value, new.value


def _signed(difference: float | int) -> str:
    return f"{'+' if difference > 0 else '-'}{number(abs(difference))}"


def _join(parts: list[str]) -> str:
    return "; ".join(p for p in parts if p)
