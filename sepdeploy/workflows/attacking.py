"""An adversarial set against a model, kept as an evaluation pack."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sepdeploy.data.evalpack import write_pack
from sepdeploy.errors import BadInput, Missing
from sepdeploy.exports.judged_images import (
    choose_attacks,
    find_data,
    make_pack,
    robust_share,
)
from sepdeploy.exports.options import ATTACKED, JudgingOptions
from sepdeploy.files import Watched
from sepdeploy.files.claims import claimed, outputs_of
from sepdeploy.models import load
from sepdeploy.records import Notify
from sepdeploy.threat import gradients_failed, no_gradient_note

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
    wanted: JudgingOptions,
    *,
    arch: str | None,
    notify: Notify,
) -> AttackSummary:
    """Attack a model's test images and write them; see ``sepdeploy.api.attack``."""
    with claimed(outputs_of(ATTACKED, out), (model_path,)):
        watched = Watched([model_path])
        model = load(model_path, arch=arch)
        data = find_data(model.provenance, wanted, model.input.shape, notify)
        if data is None:
            raise Missing(
                "no data set to attack on", hint="pass --data, and --data-dir where needed"
            )
        attacks = choose_attacks(model.provenance, wanted)
        if len(attacks) != 1:
            raise BadInput(
                "attack takes exactly one attack and its radius", hint="--attack pgd-40 --eps 8/255"
            )
        pack = make_pack(
            model,
            data,
            attacks[0],
            wanted,
            model_sha256=watched.digests[model_path],
            notify=notify,
        )
        watched.check()
        write_pack(pack, out)
        clean = float((pack.logits.argmax(1) == pack.labels).mean())
        blind = pack.provenance["attack"]["no_gradient"]
        return AttackSummary(str(out), len(pack), str(attacks[0]), clean, robust_share(pack), blind)
