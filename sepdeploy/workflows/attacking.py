"""An adversarial set against a model, kept as an evaluation pack."""

from __future__ import annotations

from pathlib import Path

from sepdeploy.data.evalpack import write_pack
from sepdeploy.errors import BadInput
from sepdeploy.exports.judged_images import choose_attacks, find_data, make_pack
from sepdeploy.exports.options import JudgingOptions
from sepdeploy.files import check_writable, sha256_file
from sepdeploy.models import load
from sepdeploy.records import Notify


def attack_model(
    model_path: Path,
    out: Path,
    wanted: JudgingOptions,
    *,
    arch: str | None,
    seed: int,
    notify: Notify,
) -> str:
    """Attack a model's test images and write them; return one line saying what came of it.

    Raises:
        BadInput: No data at hand, no attack radius known, or a file that cannot be used.
    """
    model = load(model_path, arch=arch)
    check_writable(out)
    data = find_data(model.provenance, wanted, model.input.shape, notify)
    if data is None:
        raise BadInput("no data set to attack on", hint="pass --data, and --data-dir where needed")
    attacks = choose_attacks(model.provenance, wanted, seed)
    if len(attacks) != 1:
        raise BadInput(
            "attack takes exactly one attack and its radius", hint="--attack pgd-40 --eps 8/255"
        )
    pack = make_pack(
        model,
        data,
        attacks[0],
        samples=wanted.samples,
        model_sha256=sha256_file(model_path),
        seed=seed,
        notify=notify,
    )
    write_pack(pack, out)
    assert pack.adversarial_logits is not None
    clean = float((pack.logits.argmax(1) == pack.labels).mean())
    robust = float((pack.adversarial_logits.argmax(1) == pack.labels).mean())
    return (
        f"{out}: {len(pack)} images, {attacks[0]}; "
        f"the model has {100 * clean:.1f} % clean, {100 * robust:.1f} % under attack"
    )
