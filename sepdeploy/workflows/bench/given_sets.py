"""Adversarial sets that were made before (``sepdeploy attack``), and whom they may judge."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from sepdeploy.data.evalpack import EvalPack, read_pack
from sepdeploy.errors import BadInput
from sepdeploy.exports.export import Export
from sepdeploy.threat import Attack, parse_attack, parse_eps
from sepdeploy.workflows.bench.judging import JudgingSet, stored_blind
from sepdeploy.workflows.bench.options import BenchOptions

MADE_AGAIN = "make one of this model: sepdeploy attack model.pt -o adv.npz"


def given_set(
    path: Path, export: Export | None, shape: tuple[int, ...], options: BenchOptions
) -> JudgingSet:
    """Return a stored adversarial set as what a file is judged on.

    Args:
        path: The set.
        export: Of the file, where it has a manifest: tells model, data and radius.
        shape: What the file takes as one sample.
        options: ``samples``, ``transfer``, and a radius, norm or data set that must be the set's.

    Raises:
        BadInput: It is no adversarial set, or one of another model, data set, radius or norm, and
            ``transfer`` does not say that this is meant.
    """
    try:
        pack = read_pack(path)
    except BadInput as error:
        raise BadInput(error.message, hint=MADE_AGAIN) from error
    attack = _attack(path, pack)
    if pack.images.shape[1:] != shape:
        raise BadInput(
            f"{path} has images {pack.images.shape[1:]}, the file takes {shape}", hint=MADE_AGAIN
        )
    foreign = list(_foreign(pack, attack, export, options))
    if foreign and not options.transfer:
        raise BadInput(
            f"{path} is another one's set: {'; '.join(foreign)}",
            hint=f"{MADE_AGAIN}; or --transfer, if this is meant",
        )
    n = min(options.samples, len(pack))
    assert pack.adversarial is not None
    said = None if pack.adversarial_logits is None else pack.adversarial_logits[:n].argmax(axis=1)
    return JudgingSet(
        pack.clean()[:n],
        pack.labels[:n],
        pack.ids[:n],
        str(pack.provenance.get("data", "unknown")),
        "set",
        pack.adversarial[:n],
        attack,
        stored_blind(pack),
        twin_classes=None if foreign else pack.logits[:n].argmax(axis=1),
        twin_attacked=None if foreign else said,
        transfer="; ".join(foreign),
    )


def _attack(path: Path, pack: EvalPack) -> Attack:
    """Return the attack that made a set."""
    stored = pack.provenance.get("attack")
    if pack.adversarial is None or not isinstance(stored, dict):
        raise BadInput(f"{path} has no adversarial images", hint=MADE_AGAIN)
    try:
        return parse_attack(
            str(stored["attack"]),
            float(stored["eps"]),
            str(stored["norm"]),
            seed=int(stored["seed"]),
        )
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise BadInput(
            f"{path} does not say which attack made it: {error}", hint=MADE_AGAIN
        ) from error


def _foreign(
    pack: EvalPack, attack: Attack, export: Export | None, options: BenchOptions
) -> Iterator[str]:
    """Give what a set was made for that is not what is benched."""
    known = {} if export is None else export.manifest.provenance
    own = None if export is None else export.manifest.model.sha256
    made_for = str(pack.provenance.get("model_sha256"))
    if own is None:
        yield f"it was made for the model {made_for[:12]}, and no manifest says the file's"
    elif made_for != own:
        yield f"it was made for the model {made_for[:12]}, the file is of {own[:12]}"
    if not attack.made(pack.provenance["attack"]):
        yield f"another {attack.name} than today's made it"
    data, wanted = pack.provenance.get("data"), options.data or known.get("data")
    if wanted is not None and data != wanted:
        yield f"its images are of {data}, not of {wanted}"
    eps = known.get("eps") if options.eps is None else options.eps
    if eps is not None and abs(parse_eps(eps) - attack.eps) > 1e-12:
        yield f"its radius is {attack.eps:.4g}, not {parse_eps(eps):.4g}"
    norm = options.norm or known.get("norm")
    if norm is not None and norm != attack.norm:
        yield f"its norm is {attack.norm}, not {norm}"
