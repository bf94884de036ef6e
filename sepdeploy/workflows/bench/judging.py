"""The images an artifact is judged on, clean and attacked, from the best source at hand.

Order: an evaluation pack that holds exactly the attack that is wanted; else the torch model the
artifact was made from, attacked on its data set or on the pack's images; else nothing, which is
an error, after all the rest was measured, when an attack was wanted and a notice when not.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sepdeploy.data.evalpack import EvalPack
from sepdeploy.errors import Missing
from sepdeploy.exports.export import Export
from sepdeploy.exports.judged_images import (
    attack_images,
    choose_attacks,
    find_data,
    torch_logits,
)
from sepdeploy.exports.options import JudgingOptions
from sepdeploy.exports.torch_model import TorchModel
from sepdeploy.jobs import Labelled
from sepdeploy.records import Notify
from sepdeploy.threat import ATTACKS, Attack, gradients_failed, no_gradient_note

if TYPE_CHECKING:
    from sepdeploy.models import Model


TWIN, FILE = "twin", "file"  # whose answers an attack saw


@dataclass(frozen=True)
class JudgingSet:
    """Images with labels, and what an attack made of them.

    ``source`` says where they come from: "pack" or "data"; ``attack`` is what made ``adversarial``,
    ``no_gradient`` for how many of them without the help of a gradient, and ``made_on`` whose
    answers it saw: those of the torch "twin", or of the "file" itself. Of an attack that is still
    to be made on the file, wherever that runs, ``adversarial`` is None. ``twin_classes`` is what
    the torch model says of ``images``, ``twin_attacked`` of ``adversarial``, where that is known;
    ``transfer`` says for what else the set was made.
    """

    images: NDArray[np.float32]
    labels: NDArray[np.int64]
    ids: NDArray[np.int64]
    data: str
    source: str
    adversarial: NDArray[np.float32] | None = None
    attack: Attack | None = None
    no_gradient: int = 0
    made_on: str = TWIN
    twin_classes: NDArray[np.int64] | None = None
    twin_attacked: NDArray[np.int64] | None = None
    transfer: str = ""

    @property
    def searched(self) -> bool:
        """Whether the attack needs nothing but the file's logits."""
        attack = self.attack
        return attack is not None and attack.eps > 0 and ATTACKS[attack.family].on_file

    @property
    def labelled(self) -> Labelled:
        """What an attack is given."""
        return Labelled(self.images, self.labels, self.ids)

    def twin_outcomes(self, *, attacked: bool) -> NDArray[np.bool_] | None:
        """Return (N,) whether the torch model is right, on clean or on attacked images as well."""
        if self.twin_classes is None or (attacked and self.twin_attacked is None):
            return None
        right: NDArray[np.bool_] = self.twin_classes == self.labels
        if attacked:
            right &= self.twin_attacked == self.labels
        return right

    def origin(self) -> dict[str, object]:
        """Return where the images come from, as details of a measurement."""
        return {"data": self.data, "images_from": self.source}

    def attacked_origin(self) -> dict[str, object]:
        """Return the same for the attacked images, with the attack."""
        if self.attack is None:
            return self.origin()
        found = {**self.origin(), **self.attack.details(), "no_gradient": self.no_gradient}
        if self.made_on == FILE:
            found["made_on"] = FILE
        if self.transfer:
            found["transfer"] = self.transfer
        if gradients_failed(self.no_gradient, len(self.images)):
            found["unreliable"] = no_gradient_note(self.no_gradient, len(self.images))
        return found


@dataclass(frozen=True)
class Judging:
    """What an artifact is judged on, what was wanted and cannot be had.

    ``export`` leads to the torch model, where the artifact may be attacked through it.
    """

    sets: tuple[JudgingSet, ...] = ()
    missing: Missing | None = None
    export: Export | None = None

    def twin(self) -> Model | None:
        """Return the torch model; it is loaded when it is asked for."""
        return twin_of(self.export)[0]


def judging_sets(
    export: Export | None, shape: tuple[int, ...], options: JudgingOptions, notify: Notify
) -> Judging:
    """Return one set per attack (or one clean set); none when there are no images at all.

    Args:
        export: The artifact's export, where it has a manifest.
        shape: What the artifact takes as one sample.
        options: Images and attacks that were asked for.
        notify: Told where images come from.

    Raises:
        ArtifactCheckFailed: The evaluation pack is not the one the manifest describes.
        BadInput: Data or attack cannot be used.
    """
    provenance = {} if export is None else export.manifest.provenance
    pack = None if export is None else export.pack
    attacks = choose_attacks(provenance, options)
    clean = _clean(export, pack, shape, options, notify)
    if clean is None:
        notify("no images to judge on: accuracy is not measured; pass --data")
        return Judging(missing=_no_images(attacks) if options.asks_for_an_attack else None)
    if options.precision is not None and len(clean.labels) < options.samples:
        notify(
            f"{clean.data} has {len(clean.labels)} images, {options.precision} takes "
            f"{options.samples}: the interval is wider"
        )
    if not attacks:
        notify(
            "no attack known from the model's training: clean accuracy only; pass --attack, --eps"
        )
        return Judging((clean,))
    found, missing = [], None
    for attack in attacks:
        try:
            found.append(_attacked(clean, pack, export, attack, options, notify))
        except Missing as error:
            notify(error.message)
            missing = missing or error
    return Judging(tuple(found) or (clean,), missing, export)


def _no_images(attacks: tuple[Attack, ...]) -> Missing:
    return Missing(
        f"{', '.join(a.name for a in attacks)}: no images to attack",
        hint="pass --data, and --data-dir where needed",
    )


def _clean(
    export: Export | None,
    pack: EvalPack | None,
    shape: tuple[int, ...],
    options: JudgingOptions,
    notify: Notify,
) -> JudgingSet | None:
    """Return the clean images: the pack's, unless others or more were asked for and are there."""
    asked = options.data is not None or options.data_dir is not None
    enough = pack is not None and len(pack) >= options.samples
    if pack is not None and not asked and enough:
        return _from_pack(pack, options.samples)
    data = None
    if export is not None or asked:
        provenance = {} if export is None else export.manifest.provenance
        data = find_data(provenance, options, shape, notify if pack is None else lambda _: None)
    if data is None or (pack is not None and not asked and len(pack) >= len(data.test)):
        return None if pack is None else _from_pack(pack, options.samples)
    part = data.test.take(options.samples, options.seed)
    images, (twin, _) = part.batch(slice(None)), twin_of(export)
    said = None if twin is None else torch_logits(twin, images).argmax(axis=1)
    return JudgingSet(images, part.labels, part.ids, data.name, "data", twin_classes=said)


def _from_pack(pack: EvalPack, samples: int) -> JudgingSet:
    n = min(samples, len(pack))
    name = str(pack.provenance.get("data", "unknown"))
    said = pack.logits[:n].argmax(axis=1)
    images = pack.clean()[:n]
    return JudgingSet(images, pack.labels[:n], pack.ids[:n], name, "pack", twin_classes=said)


def twin_of(export: Export | None) -> tuple[Model | None, str]:
    """Return the torch model of an artifact; or None, and why it cannot be attacked."""
    if export is None:
        return None, "the artifact has no manifest beside it"
    source, why_not = export.source()
    if source is None or isinstance(source, TorchModel):
        return (None if source is None else source.model), why_not
    return None, f"{source.path} is no torch model"


def _attacked(
    clean: JudgingSet,
    pack: EvalPack | None,
    export: Export | None,
    attack: Attack,
    options: JudgingOptions,
    notify: Notify,
) -> JudgingSet:
    if ATTACKS[attack.family].on_file and attack.eps:
        return replace(clean, attack=attack, made_on=FILE)
    images, source, blind = clean.images, clean.source, 0
    said = None
    if attack.eps == 0:
        made, said = images, clean.twin_classes  # an attack of radius 0 is the image itself
    elif pack is not None and clean.source == "pack" and _in_pack(pack, attack):
        assert pack.adversarial is not None
        made = pack.adversarial[: len(images)]
        if pack.adversarial_logits is not None:
            said = pack.adversarial_logits[: len(images)].argmax(axis=1)
        blind = stored_blind(pack)
    else:
        model, why_not = twin_of(export)
        if model is not None:
            notify(f"attacking {len(images)} images with {attack.name}, eps {attack.eps:.4g}")
            made, found = attack_images(model, images, clean.labels, clean.ids, attack, notify)
            blind = found["no_gradient"]
            said = torch_logits(model, made).argmax(axis=1)
        elif pack is not None and options.data is None and _in_pack(pack, attack):
            notify(f"judging on the pack's {len(pack)} images: {why_not}")
            return _attacked(_from_pack(pack, len(pack)), pack, export, attack, options, notify)
        else:
            raise Missing(
                f"attack {attack.name} with eps {attack.eps:.4g} is not in the evaluation pack, "
                f"and the model cannot be attacked: {why_not}",
                hint="keep the .pt beside the manifest and install 'sepdeploy[train]'",
            )
    return replace(
        clean, source=source, adversarial=made, attack=attack, no_gradient=blind, twin_attacked=said
    )


def _in_pack(pack: EvalPack, attack: Attack) -> bool:
    return pack.adversarial is not None and attack.made(pack.provenance.get("attack"))


def stored_blind(pack: EvalPack) -> int:
    """Return for how many images of a pack gradients failed; a pack may say anything."""
    said = pack.provenance["attack"].get("no_gradient")
    return said if type(said) is int and 0 <= said <= len(pack) else 0
