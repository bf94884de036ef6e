"""Attacks on the file itself: by its answers alone, or by these and its twin's gradient.

Examples made on the torch twin flatter a file that rounds: they never met its rounding. What was
found here travels to devices like any other example.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sepdeploy import measure, runtimes
from sepdeploy.exporters.modes import MODES
from sepdeploy.exports.judged_images import attack_images
from sepdeploy.files import scratch
from sepdeploy.jobs import read_search, search_job
from sepdeploy.measure.accuracy import check_distance
from sepdeploy.measure.served import served
from sepdeploy.records import Notify
from sepdeploy.workflows.bench.judging import FILE, Judging, JudgingSet
from sepdeploy.workflows.bench.subjects import Subject

if TYPE_CHECKING:
    from sepdeploy.models import Model

BATCH = 64  # images that a file is asked for at once
UNASKED = 10  # steps through a file: each is a pass of both, where a pack has its examples ready


def attacked_here(
    subject: Subject, runtime: str, judging: Judging, asked: bool, notify: Notify
) -> tuple[JudgingSet, ...]:
    """Return the judging sets of one file in one runtime, with the attacks that were made on it.

    Attacks that need logits alone are made on every file; gradient attacks are made through one
    that computes otherwise than its twin, beside those on the twin, where that is at hand.

    Args:
        subject: The file.
        runtime: Where it runs.
        judging: What it is judged on.
        asked: Whether the attacks were asked for; else they take ``UNASKED`` steps at most.
        notify: Told what goes on.

    Raises:
        BadInput: The file breaks down under the questions.
    """
    return tuple(_sets(subject, runtime, judging, asked, notify))


def _sets(
    subject: Subject, runtime: str, judging: Judging, asked: bool, notify: Notify
) -> Iterator[JudgingSet]:
    twin = judging.twin() if rounds(subject, runtime) else None
    for own in judging.sets:
        if own.searched:
            notify(f"searching {subject.path} in {runtime} with {own.attack}")
            yield replace(own, adversarial=_searched(subject, runtime, own))
            continue
        yield own
        if twin is not None and own.attack is not None and own.attack.eps:
            attack = own.attack.through
            if not asked and attack.steps > UNASKED:
                attack = replace(attack, name=f"{attack.family}-{UNASKED}")
            notify(f"attacking {subject.path} in {runtime} with {attack}")
            yield _through(subject, runtime, replace(own, attack=attack), twin, notify)


def rounds(subject: Subject, runtime: str) -> bool:
    """Tell whether a file computes otherwise than the torch model: rounded, or in own kernels."""
    mode = None if subject.record is None else MODES.get(subject.record.quantization)
    if mode is None or mode.quantized:
        return True
    return bool(runtimes.custom_nodes(subject.path, runtime).nodes)


def _searched(subject: Subject, runtime: str, own: JudgingSet) -> NDArray[np.float32]:
    assert own.attack is not None
    with scratch() as folder:
        job = search_job(
            subject.path,
            runtime,
            own.labelled,
            own.attack,
            folder,
            batch=BATCH,
        )
        measure.run_job(job.fixed(subject.shapes))
        found, _ = read_search(job, own.images)
    check_distance(own.images, found, own.attack.eps, own.attack.norm)
    return found


def _through(
    subject: Subject, runtime: str, own: JudgingSet, twin: Model, notify: Notify
) -> JudgingSet:
    assert own.attack is not None
    attack = own.attack
    with served(subject.path, runtime, batch=BATCH) as answers:
        made, found = attack_images(
            twin, own.images, own.labels, own.ids, attack, notify, answers=answers
        )
    return replace(
        own,
        adversarial=made,
        attack=attack,
        no_gradient=found["no_gradient"],
        made_on=FILE,
        twin_attacked=None,
    )


def to_search(sets: Sequence[JudgingSet]) -> tuple[JudgingSet, ...]:
    """Return what a recording can hold again: no examples that depend on this machine's runtime."""
    return tuple(
        replace(s, adversarial=None) if s.searched else s
        for s in sets
        if s.made_on != FILE or s.searched
    )
