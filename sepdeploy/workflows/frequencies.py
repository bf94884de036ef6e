"""Which frequencies of its images a network depends on: a model with torch, or an exported file.

What is published of robust networks (Yin et al. 2019, 2203.08739, 2212.12732) is asked three ways:
where the energy of an attack's perturbations lies, what is left after filters, and which waves
mislead. All of it is done by ``measure.frequency``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from sepdeploy.errors import DATA, BadInput, Missing
from sepdeploy.measure.accuracy import accuracy, rightly
from sepdeploy.measure.frequency import (
    BANDS,
    Answers,
    Grid,
    band,
    heat_map,
    high_pass,
    low_pass,
    mean_spectrum,
    radii,
)
from sepdeploy.records import InputSpec, Kind, Notify
from sepdeploy.workflows.bench.judging import Judging, JudgingSet, judging_sets
from sepdeploy.workflows.options import FrequencyOptions

if TYPE_CHECKING:
    from sepdeploy.models import Model

CUTOFFS = (0.125, 0.25, 0.375, 0.5, 0.75, 1.0)
FILTERS = {"low": low_pass, "high": high_pass}
IMAGES, PERTURBATIONS, FLAT = "images", "perturbations", "white noise"
WAVE = 1 / 8  # root mean square of what is added to a pixel: a norm of 4 at 32×32, as published
TOLD = 4  # times that progress is said
DIGITS = 6  # of a share in a map

Map = tuple[tuple[float, ...], ...]
NO_ATTACK = (
    "no perturbations: the model was not trained against an attack; give --eps, e.g. --eps 8/255"
)


@dataclass(frozen=True)
class Energy:
    """Where energy lies, as the mean over images.

    Attributes:
        of: "images", "perturbations", or "white noise", which has the same at every frequency.
        images: How many had any.
        shares: By band; their sum is 1.
        constant: The part of the low band that is the mean of the pixels.
        map: The share at each frequency of the report's grid.
    """

    of: str
    images: int
    shares: dict[str, float]
    constant: float
    map: Map = ()


@dataclass(frozen=True)
class Filtered:
    """Accuracies, fractions in [0, 1], after a filter that keeps one side of a radius.

    Attributes:
        kept: "all", "low" (radius ≤ cutoff) or "high" (radius > cutoff, and the mean).
        cutoff: The radius; None where all is kept.
        clean_accuracy: Of filtered images.
        adversarial_accuracy: Of images that are right when filtered alone and when attacked, then
            filtered; the attack knows nothing of the filter. None without an attack.
    """

    kept: str
    cutoff: float | None
    clean_accuracy: float
    adversarial_accuracy: float | None


@dataclass(frozen=True)
class Misled:
    """Error over the frequencies of a band; None where it holds none."""

    mean: float | None
    worst: float | None


@dataclass(frozen=True)
class Sensitivity:
    """The Fourier heat map: the share of images misclassified with one wave added.

    Attributes:
        norm: Euclidean norm of the wave in a channel, pixels in [0, 1].
        clean_error: Without it.
        bands: Mean and largest error over the frequencies of each band.
        map: The error at each frequency of the report's grid.
    """

    norm: float
    clean_error: float
    bands: dict[str, Misled]
    map: Map


@dataclass(frozen=True)
class FrequencyReport:
    """The frequencies that a network depends on.

    Attributes:
        data: The data set.
        images: How many test images.
        seed: Of their choice, of the attack's start and of the waves' signs.
        attack: With its details; None where there is none.
        limits: The outer radius of each band but the last; see ``measure.frequency``.
        size: Height and width of the images.
        vertical: Waves from top to bottom of each row of the maps.
        horizontal: Waves from left to right of each column.
        energy: Of images, perturbations and, to compare with, white noise.
        filters: Everything first, then low-pass and high-pass filters.
        sensitivity: The heat map.
        notes: What could not be had.
    """

    data: str
    images: int
    seed: int
    attack: dict[str, object] | None
    limits: dict[str, float]
    size: tuple[int, int]
    vertical: tuple[int, ...]
    horizontal: tuple[int, ...]
    energy: tuple[Energy, ...]
    filters: tuple[Filtered, ...]
    sensitivity: Sensitivity
    notes: tuple[str, ...] = ()

    @property
    def shown_attack(self) -> str:
        """The attack with norm and radius, "" where there is none."""
        known = self.attack
        return "" if known is None else f"{known['attack']} {known['norm']} eps {known['eps']:.4g}"


def frequencies(
    path: Path, input: InputSpec, model: Model | None, wanted: FrequencyOptions, notify: Notify
) -> FrequencyReport:
    """Look at a network through the frequencies of its data set's test images.

    Args:
        path: Its file.
        input: What it takes.
        model: The torch model; None for an exported file, which answers in its runtime.
        wanted: Images, attack and the norm of waves.
        notify: Told what goes on.

    Raises:
        BadInput: Its inputs are no images, or several attacks are named.
        Missing: No data set is at hand; or an attack that was asked for cannot be made.
    """
    if len(input.shape) != 3 or math.prod(input.shape[1:]) == 1:
        raise BadInput(
            f"{path} takes {'×'.join(map(str, input.shape))} numbers, not images: they have no "
            "frequencies",
            hint="--frequency is for inputs of channels, height and width; leave it out",
        )
    if len(wanted.attacks) > 1:
        raise BadInput("--frequency takes one attack", hint="inspect once with each")
    opened = _file(path, input, wanted, notify) if model is None else _model(model, wanted, notify)
    with opened as (answers, own):
        return _report(path, answers, own, wanted, notify)


@contextmanager
def _model(
    model: Model, wanted: FrequencyOptions, notify: Notify
) -> Iterator[tuple[Answers, JudgingSet]]:
    """Give a torch model's answers, and its data set's images as they are and attacked."""
    from sepdeploy.exports.judged_images import (
        attack_images,
        choose_attacks,
        find_data,
        torch_logits,
    )

    attacks = choose_attacks(model.provenance, wanted)
    data = find_data(model.provenance, wanted, model.input.shape, notify)
    if data is None:
        raise _no_data()
    part = data.test.take(wanted.samples, wanted.seed)
    own = JudgingSet(part.batch(slice(None)), part.labels, part.ids, data.name, "data")
    for attack in attacks:
        notify(f"attacking {len(part)} images with {attack}")
        made, found = attack_images(model, own.images, part.labels, part.ids, attack, notify)
        blind = found["no_gradient"]
        own = replace(own, adversarial=made, attack=attack, no_gradient=blind)
    yield (lambda images: torch_logits(model, images)), own


@contextmanager
def _file(
    path: Path, input: InputSpec, wanted: FrequencyOptions, notify: Notify
) -> Iterator[tuple[Answers, JudgingSet]]:
    """Give the same of an exported file, which answers in the first runtime that is installed."""
    from sepdeploy.measure.served import served
    from sepdeploy.workflows.bench.on_file import attacked_here
    from sepdeploy.workflows.bench.subjects import choose_runtimes, find_subjects, no_runtime

    subject = find_subjects([path])[0]
    able = choose_runtimes(path, None)
    if not able:
        raise Missing(f"{path}: {no_runtime(path)}", hint="sepdeploy doctor shows what is missing")
    judging = judging_sets(subject.export, input.shape, wanted, notify)
    if not judging.sets:
        raise _no_data()
    if judging.missing is not None and wanted.asks_for_an_attack:
        raise judging.missing
    own = judging.sets[0]
    if own.searched:
        own = attacked_here(subject, able[0], Judging((own,)), True, notify)[0]
    with served(path, able[0], batch=64) as answers:
        yield answers, own


def _no_data() -> Missing:
    return Missing("no images to take the frequencies of", hint=DATA)


def _report(
    path: Path, answers: Answers, own: JudgingSet, wanted: FrequencyOptions, notify: Notify
) -> FrequencyReport:
    images, labels, attacked = own.images, own.labels, own.adversarial
    clean = accuracy(
        "clean_accuracy", answers(images), images, labels, Kind.HOST, {}, where=path
    ).value
    assert clean is not None
    size = (images.shape[2], images.shape[3])
    norm = WAVE * math.sqrt(size[0] * size[1]) if wanted.wave is None else wanted.wave

    def told(done: int, of: int) -> None:
        if done % max(1, of // TOLD) == 0:
            notify(f"waves added: {done} of {of} frequencies")

    filters = tuple(_filters(answers, own))
    grid, errors = heat_map(answers, images, labels, norm, seed=wanted.seed, on_step=told)
    energy = [_energy(IMAGES, *mean_spectrum(images), grid)]
    if attacked is not None:
        change = attacked.astype(np.float64) - images
        energy.append(_energy(PERTURBATIONS, *mean_spectrum(change), grid))
    flat = np.full(size, 1 / math.prod(size))
    energy.append(_energy(FLAT, flat, len(images), None))
    attack = own.attacked_origin() if attacked is not None else None
    return FrequencyReport(
        data=own.data,
        images=len(images),
        seed=wanted.seed,
        attack=attack,
        limits={name: outer for name, (_, outer) in BANDS.items() if math.isfinite(outer)},
        size=size,
        vertical=grid.vertical,
        horizontal=grid.horizontal,
        energy=tuple(energy),
        filters=filters,
        sensitivity=Sensitivity(norm, 1 - clean, _bands(errors, grid.radii()), _map(errors)),
        notes=_notes(attack, energy),
    )


def _notes(attack: dict[str, object] | None, energy: list[Energy]) -> tuple[str, ...]:
    notes = [] if attack is not None else [NO_ATTACK]
    notes += [f"no image was changed: no energy of {e.of}" for e in energy if not e.images]
    if attack is not None and "unreliable" in attack:
        notes.append(f"unreliable: {attack['unreliable']}")
    return tuple(notes)


def _energy(of: str, spectrum: npt.NDArray[np.float64], images: int, grid: Grid | None) -> Energy:
    sides = (spectrum.shape[0], spectrum.shape[1])
    shares = {name: float(spectrum[band(name, radii(sides))].sum()) for name in BANDS}
    shown = () if grid is None else _map(grid.of(spectrum))
    return Energy(of, images, shares, float(spectrum[0, 0]), shown)


def _filters(answers: Answers, own: JudgingSet) -> Iterator[Filtered]:
    def judged(kept: str, cutoff: float | None) -> Filtered:
        def passed(images: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
            left = images if cutoff is None else FILTERS[kept](images, cutoff)
            return rightly(answers(left), own.labels)

        clean = passed(own.images)
        stands = None if own.adversarial is None else clean & passed(own.adversarial)
        robust = None if stands is None else float(stands.mean())
        return Filtered(kept, cutoff, float(clean.mean()), robust)

    yield judged("all", None)
    for kept in FILTERS:
        yield from (judged(kept, cutoff) for cutoff in CUTOFFS)


def _bands(errors: npt.NDArray[np.float64], radius: npt.NDArray[np.float64]) -> dict[str, Misled]:
    found = {}
    for name in BANDS:
        own = errors[band(name, radius)]
        some = (float(own.mean()), float(own.max())) if own.size else (None, None)
        found[name] = Misled(*some)
    return found


def _map(values: npt.NDArray[np.float64]) -> Map:
    return tuple(tuple(float(f"{v:.{DIGITS}g}") for v in row) for row in values)
