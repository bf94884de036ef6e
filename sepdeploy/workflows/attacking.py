"""An adversarial set against a model, kept as an evaluation pack."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sepdeploy.data import Dataset
from sepdeploy.data.evalpack import write_pack
from sepdeploy.errors import BadInput, Missing
from sepdeploy.exports.judged_images import (
    choose_attacks,
    find_data,
    make_pack,
    robust_share,
)
from sepdeploy.exports.options import ATTACKED, JudgingOptions, ModelOptions, unfinished_path
from sepdeploy.files import Watched
from sepdeploy.files.claims import claimed, outputs_of
from sepdeploy.models import Model, load
from sepdeploy.records import Notify
from sepdeploy.settings import filled
from sepdeploy.threat import Attack, gradients_failed, no_gradient_note
from sepdeploy.training import joined
from sepdeploy.workflows.unfinished import Way, go

if TYPE_CHECKING:
    from sepdeploy.attacks.course import News

ATTACK_SCHEMA = "sepdeploy.attack/1"


@dataclass(frozen=True)
class AttackSummary:
    """An adversarial set and what it did to the model; accuracies are fractions in [0, 1].

    ``no_gradient``: how many images had no usable gradient and were searched without.
    """

    set: str
    images: int
    attack: str
    clean_accuracy: float
    adversarial_accuracy: float
    no_gradient: int = 0
    schema: str = ATTACK_SCHEMA

    def __str__(self) -> str:
        return (
            f"{self.set}: {self.images} images, {self.attack}; the model has "
            f"{100 * self.clean_accuracy:.1f} % clean, "
            f"{100 * self.adversarial_accuracy:.1f} % under attack"
            + ("; unreliable" if gradients_failed(self.no_gradient, self.images) else "")
            + (f"; {no_gradient_note(self.no_gradient, self.images)}" if self.no_gradient else "")
        )


def attack_model(
    model_path: Path,
    out: Path,
    options: Mapping[str, Any],
    resume: bool,
    notify: Notify,
    on_progress: Callable[[News], None],
) -> AttackSummary:
    """Attack a model's test images and write them; see ``sepdeploy.api.attack``."""
    unfinished = unfinished_path(out)
    with (
        joined() as team,
        team.outlived("the same command with --resume continues"),
        ExitStack() as stack,
    ):
        way = Way(team, resume, notify, on_progress) if team.first else Way(team, resume)
        with team.agreed():
            wanted = filled(JudgingOptions(), options, "attack", besides=(ModelOptions,))
            arch = filled(ModelOptions(), options, "attack", besides=(JudgingOptions,)).arch
            if team.first:
                stack.enter_context(claimed(outputs_of(ATTACKED, out), (model_path,)))
            watched = Watched([model_path])
            model = load(model_path, arch=arch)
            data, attack = _subject(model, wanted, way.notify)
        sha256 = watched.digests[model_path]
        pack = make_pack(
            model,
            data,
            attack,
            wanted,
            model_sha256=sha256,
            notify=way.notify,
            drive=lambda course: go(course, way, unfinished, sha256),
        )
        with team.agreed():
            watched.check()
            if team.first:
                write_pack(pack, out)
                unfinished.unlink(missing_ok=True)
    clean = float((pack.logits.argmax(1) == pack.labels).mean())
    blind = pack.provenance["attack"]["no_gradient"]
    return AttackSummary(str(out), len(pack), str(attack), clean, robust_share(pack), blind)


def _subject(model: Model, wanted: JudgingOptions, notify: Notify) -> tuple[Dataset, Attack]:
    """Return what is attacked, and how.

    Raises:
        Missing: There is no data set.
        BadInput: Not one attack with its radius was asked for.
    """
    data = find_data(model.provenance, wanted, model.input.shape, notify)
    if data is None:
        raise Missing("no data set to attack on", hint="pass --data, and --data-dir where needed")
    attacks = choose_attacks(model.provenance, wanted)
    if len(attacks) != 1:
        raise BadInput(
            "attack takes exactly one attack and its radius", hint="--attack pgd-40 --eps 8/255"
        )
    return data, attacks[0]
