"""Every metric of a report: one row says all that measuring, judging and drawing it needs.

A new metric is a row of ``METRICS`` and the file that takes it. Fields that are read beside those
of ``Measurement`` itself:

``latency_ms``, plain
    ``samples``: milliseconds per inference, in time order; ``batch``. On a host ``value`` is the
    10th percentile (``statistic``), ``median`` beside it, and ``disturbed`` says what spoiled it.
``latency_ms``, interleaved (``bench --against OLD``)
    ``interleaved``: true; ``against``: {``path``, ``sha256``} of the old artifact; ``rounds``: how
    many rounds both were timed in by turns; ``old_samples``, ``new_samples``: milliseconds per
    inference in time order, the same number in every round (so their lengths are multiples of
    ``rounds``). ``value`` is that of the new one.
``noise_floor`` (``bench --calibrate``)
    The relative difference between two runs of the same file that noise alone explains.
    ``value`` for two separate runs, ``interleaved`` for rounds by turns; see
    ``sepdeploy.measure.statistics.noise_floor``, which computes both.
``instructions``
    ``dot``: how many of them are dot products; ``simd``, ``ldst``, ``fmla`` are shown only.
``clean_accuracy``, ``adversarial_accuracy``
    ``samples``: 0 or 1 per image; ``images_sha256``: digest of the images and labels; and for the
    second ``attack``, ``eps``, ``norm``, ``steps``, ``restarts``; ``made_on``: "file" where the
    attack saw the file's answers, absent where it saw its torch model's; ``checks``, and
    ``unreliable`` where one failed. ``attack`` is "worst" for what stands under all ``of`` several.
    ``transfer`` says for what else the adversarial set was made.
``accuracy_difference``
    of ``accuracy`` (a metric) to that of ``against`` (file and runtime, or "torch model") on the
    same images: how many are ``lost`` and ``gained``, and McNemar's exact ``p``.
any metric
    ``layers``: {layer name: its share of ``value``}, so that a verdict can name the layer that
    moved; ``throttled`` or ``unstable``: true when the measurement is void, with ``reason``.
    A ``throttled`` device voids its latencies.
``Result.device``
    ``id``; ``profile_sha256``: digest of the emulation and cluster parts of the profile (absent
    for the host); ``emulator``: {``name``, ``version``, ``libc``, ``plugin``} where emulated;
    ``throttled``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sepdeploy.records import Kind, Measurement

TORCH_MODEL = "torch model"  # what an accuracy may be compared with, beside files
HERE, THERE = "here", "there"  # the tables of a bench: of this machine, of a device

_STATIC = frozenset({Kind.STATIC})
_DEVICE = frozenset({Kind.MEASURED})
_CLOCKS = frozenset({Kind.HOST, Kind.MEASURED, Kind.MEASURED_EMULATOR})
_COMPUTED = _CLOCKS | {Kind.EMULATED}


def count(value: float | None) -> str:
    """Return a whole number with thin grouping: 1,862,666."""
    return "-" if value is None else f"{int(value):,}"


def size(value: float | None) -> str:
    """Return bytes as a short human number."""
    if value is None:
        return "-"
    for unit in ("B", "KiB", "MiB"):
        if abs(value) < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.2f} GiB"


def micros(milliseconds: float | None) -> str:
    """Return a latency in µs with two decimals below 10 and one below 100."""
    if milliseconds is None:
        return "-"
    value = milliseconds * 1000
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:,.0f}"


def percent(value: float | None) -> str:
    """Return a fraction as a percentage with one decimal."""
    return "-" if value is None else f"{100 * value:.1f}"


def ratio(value: float | None) -> str:
    """Return a factor like 3.4x."""
    if value is None:
        return "-"
    return f"{value:.0f}x" if value >= 100 else f"{value:.1f}x" if value >= 10 else f"{value:.2f}x"


@dataclass(frozen=True)
class Column:
    """A metric's column in the tables of a bench.

    ``leads``: it stands before the others; ``spread``: half its interval stands beside it.
    """

    title: str
    draw: Callable[[float | None], str]
    tables: tuple[str, ...] = (HERE, THERE)
    leads: bool = False
    spread: bool = False

    def cell(self, value: float | None, ci: tuple[float, float] | None) -> str:
        """Return what stands in the table."""
        drawn = self.draw(value)
        if not self.spread or not value or ci is None:
            return drawn
        return f"{drawn} ±{50 * (ci[1] - ci[0]) / value:.0f}%"


@dataclass(frozen=True)
class Metric:
    """One row.

    Args:
        unit: Of its values.
        kinds: That a measurement of it may have.
        rule: The rule of ``sepdeploy.gate`` that judges it: "count" (no growth beside the
            allowed), "instructions", "accuracy" (paired by image) or "latency"; "" = shown only.
        gated: The kinds that are judged against a baseline. Clocks of a host are judged only by
            interleaving.
        budget: The kinds that can support an absolute limit.
        variants: The details in which two measurements of it in one result differ.
        same: The details that must be equal before two values are compared.
        worse: What a regression means, in a sentence.
        column: In the tables of a bench.
        taken_by: "module:function" that takes it on the host, of (path, runtime, threads, shapes of
            its open inputs), for what needs no more than the file; the function may take several
            metrics at once.
        signed: Whether its values may be below 0.
        holds: Details that a value of it always has, with their types; an int is a float too.
    """

    unit: str
    kinds: frozenset[Kind]
    rule: str = ""
    gated: frozenset[Kind] = frozenset()
    budget: frozenset[Kind] = frozenset()
    variants: tuple[str, ...] = ()
    same: tuple[str, ...] = ()
    worse: str = ""
    column: Column | None = None
    taken_by: str = ""
    signed: bool = False
    holds: Mapping[str, type] = field(default_factory=dict)


def _counted(unit: str, worse: str = "", column: Column | None = None, taken: str = "") -> Metric:
    """Return the row of what is counted in a file and must not grow."""
    return Metric(unit, _STATIC, "count", _STATIC, _STATIC, (), (), worse, column, taken)


_ATTACK = ("attack", "eps", "norm", "steps", "restarts", "made_on", "of", "transfer", "seed")
_MEMORY = "sepdeploy.measure.memory:measure_memory"

_SHOWN = Metric("", frozenset(Kind))

# In the order of tables and verdicts.
METRICS: dict[str, Metric] = {
    "params": _counted(
        "parameters", "The model has more parameters than its baseline.",
        Column("params", count, (HERE,)),
    ),
    "macs": _counted(
        "MAC", "One inference takes more multiply-accumulates than its baseline."
    ),
    "file_bytes": _counted(
        "bytes", "The file is larger than its baseline.", Column("file", size, (HERE,))
    ),
    "factor_bytes": _counted(
        "bytes", "The parameters take more bytes than in the baseline."
    ),
    "resident_bytes": _counted(
        "bytes", "The runtime keeps more constants in memory than in the baseline.",
        taken="sepdeploy.measure.proof.residency:measure_resident",
    ),
    "params_dense": Metric("parameters", _STATIC, budget=_STATIC),
    "peak_rss_bytes": Metric(
        "bytes", _COMPUTED, budget=frozenset({Kind.MEASURED, Kind.HOST}),
        column=Column("peak RSS", size, (THERE,)), taken_by=_MEMORY,
    ),
    "latency_ms": Metric(
        "ms", _CLOCKS | {Kind.ESTIMATED}, "latency", _DEVICE, _DEVICE, ("batch", "kernels"),
        worse="One inference takes longer than its baseline.",
        column=Column("µs", micros, spread=True),
    ),
    "load_ms": Metric("ms", _CLOCKS, budget=_DEVICE, taken_by=_MEMORY),
    "latency_vs_dense": Metric(
        "ratio", _CLOCKS | {Kind.ESTIMATED}, budget=_CLOCKS, variants=("batch", "kernels"),
        column=Column("vs dense", ratio, spread=True),
    ),
    "clean_accuracy": Metric(
        "fraction", _COMPUTED, "accuracy", _COMPUTED, _COMPUTED,
        same=("images_sha256",), worse="The artifact classifies fewer test images correctly.",
        column=Column("clean %", percent),
    ),
    "adversarial_accuracy": Metric(
        "fraction", _COMPUTED, "accuracy", _COMPUTED, _COMPUTED,
        variants=_ATTACK[:-1], same=("images_sha256", *_ATTACK),
        worse="The artifact withstands fewer adversarial images.", column=Column("adv %", percent),
    ),
    "accuracy_difference": Metric(
        "fraction", _COMPUTED, variants=(_PAIRED := ("accuracy", "against", *_ATTACK[:-1])),
        same=_PAIRED, signed=True,
        holds={"accuracy": str, "against": str, "lost": int, "gained": int, "p": float},
    ),
    "instructions": Metric(
        "instructions", frozenset({Kind.EMULATED}), "instructions",
        frozenset({Kind.EMULATED}), frozenset({Kind.EMULATED}), ("batch",),
        worse="One inference takes more instructions than its baseline.",
        column=Column("instructions", count, (THERE,), leads=True),
    ),
    "parity_max_rel": Metric("1", _COMPUTED | _STATIC, budget=_COMPUTED),
    "condition_number": Metric("1", _STATIC, budget=_STATIC),
    "noise_floor": Metric("ratio", _CLOCKS, budget=_CLOCKS),
}  # fmt: skip


def row(metric: str) -> Metric:
    """Return the row of a metric; one that users' files hold and no row is only shown."""
    return METRICS.get(metric, _SHOWN)


def measured(
    metric: str,
    value: float | int | None,
    kind: Kind,
    *,
    n: int = 1,
    ci: tuple[float, float] | None = None,
    samples: tuple[float | int, ...] = (),
    details: Mapping[str, Any] | None = None,
) -> Measurement:
    """Return a measurement in the unit of its row.

    Raises:
        KeyError: The metric has no row.
        ValueError: It never has that kind; an emulator's time is no latency.
    """
    row = METRICS[metric]
    if kind not in row.kinds:
        message = f"{metric} is never {kind}"
        raise ValueError(message)
    return Measurement(metric, value, row.unit, kind, n, ci, samples, dict(details or {}))
