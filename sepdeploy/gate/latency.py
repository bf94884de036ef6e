"""Latency: when is a difference between clocks a slowdown, and when is it noise?

Noise of a clock only ever adds time, comes in bursts and drifts. A slowdown of the file therefore
has to show in three ways at once: in the typical inference (median), in the undisturbed one (10th
percentile, which bursts hardly reach), and beyond what the machine does by itself (noise floor).
A p-value alone means little here: consecutive timings are not independent, and of a thousand
samples even a drift of 0.1 % is "significant".
"""

from __future__ import annotations

import math

import numpy as np

from sepdeploy.gate.config import Rules
from sepdeploy.gate.evidence import rounds_of, void_reason
from sepdeploy.gate.verdict import Finding, Outcome
from sepdeploy.gate.wording import growth, percent, probability
from sepdeploy.measure.statistics import drift, mann_whitney_p, wilcoxon_p
from sepdeploy.records import Measurement

UNDISTURBED = 10  # percentile
SIGMAS = 3.0  # of a run's own drift that a difference must exceed
LONG_RUN = 300  # samples


def judge_separate(old: Measurement, new: Measurement, rules: Rules, floor: float) -> Finding:
    """Judge two runs of one device at different times.

    Args:
        old: Baseline; ``samples`` in time order.
        new: Current result.
        rules: The rules.
        floor: The device's calibrated noise floor for separate runs; 0 when unknown.
    """
    before, after = float(np.median(old.samples)), _median(new)
    limit = before * (1 + rules.latency_effect)
    fewest = min(len(old.samples), len(new.samples))
    reason = void_reason(new)
    if reason:
        return Finding(Outcome.UNSTABLE, reason, before, after, limit)
    if fewest < rules.latency_samples:
        why = f"{fewest} samples, at least {rules.latency_samples} are needed"
        return Finding(Outcome.INCOMPARABLE, why, before, after, limit)
    effect = growth(before, after)
    low, high = (float(np.percentile(m.samples, UNDISTURBED)) for m in (old, new))
    undisturbed = growth(low, high)
    # A run sees bursts up to its own length only; of slower ones a short run knows nothing.
    unseen = math.sqrt(max(1.0, LONG_RUN / fewest))
    drifted = SIGMAS * unseen * math.hypot(drift(old.samples), drift(new.samples))
    # Where both runs were disturbed, typical inferences vary by what the disturbance adds.
    disturbed = min(growth(low, before), growth(high, after))
    noise = max(floor, drifted, disturbed)
    slower = mann_whitney_p(new.samples, old.samples, "greater")
    outcome, remark = _weigh(
        min(effect, undisturbed), noise, slower, rules.latency_effect, rules.latency_p
    )
    faster = mann_whitney_p(new.samples, old.samples, "less")
    if max(effect, undisturbed) < -max(rules.latency_effect, noise) and faster < rules.latency_p:
        outcome, remark = Outcome.IMPROVED, ""
    elif outcome is Outcome.OK and effect > max(rules.latency_effect, noise):
        outcome, remark = Outcome.WARNING, "only disturbed inferences are slower"
    why = (
        f"{percent(effect)}, undisturbed {percent(undisturbed)}, noise {percent(noise)[1:]}, "
        f"{probability(slower)}"
    )
    return Finding(outcome, f"{why}; {remark}" if remark else why, before, after, limit)


def judge_interleaved(new: Measurement, rules: Rules, floor: float) -> Finding:
    """Judge old and new timed by turns in one run, paired by round.

    Args:
        new: The measurement with both sides.
        rules: The rules.
        floor: The machine's calibrated noise floor for interleaved rounds; 0 when unknown.
    """
    sides = [np.array([np.median(r) for r in side]) for side in rounds_of(new, new.metric)]
    before, after = (float(np.median(side)) for side in sides)
    ratios = np.log(sides[1] / sides[0])
    effect = math.expm1(float(np.median(ratios)))
    limit = before * (1 + rules.latency_effect_interleaved)
    reason = void_reason(new)
    if reason:
        return Finding(Outcome.UNSTABLE, reason, before, after, limit)
    if ratios.size < rules.latency_rounds:
        why = f"{ratios.size} rounds, at least {rules.latency_rounds} are needed"
        return Finding(Outcome.INCOMPARABLE, why, before, after, limit)
    slower, faster = wilcoxon_p(ratios, "greater"), wilcoxon_p(ratios, "less")
    tolerance = rules.latency_effect_interleaved
    outcome, remark = _weigh(effect, floor, slower, tolerance, rules.latency_p)
    if effect < -max(tolerance, floor) and faster < rules.latency_p:
        outcome, remark = Outcome.IMPROVED, ""
    why = f"{percent(effect)} in {ratios.size} interleaved rounds, {probability(slower)}"
    if floor:
        why += f", noise {percent(floor)[1:]}"
    return Finding(outcome, f"{why}; {remark}" if remark else why, before, after, limit)


def _weigh(
    effect: float, noise: float, p: float, tolerance: float, significance: float
) -> tuple[Outcome, str]:
    if effect > tolerance and p < significance:
        if effect > noise:
            return Outcome.REGRESSION, f"more than {percent(tolerance)}"
        return Outcome.UNSTABLE, "slower, but not beyond the noise of this machine"
    if noise > 2 * tolerance:
        return Outcome.WARNING, f"the noise hides slowdowns below {percent(noise)[1:]}"
    return Outcome.OK, ""


def _median(measurement: Measurement) -> float:
    """Return the median of the samples; the value where there are too few to judge anyway."""
    if measurement.samples:
        return float(np.median(measurement.samples))
    return float(measurement.value or 0)
