"""Evaluation data of a model: which images, attacked how, on what authority.

Data set, attack, ε and norm default to what the model was trained with. torch is imported inside
functions: without it a stored evaluation pack is still usable.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sepdeploy.data.evalpack import EvalPack, fits
from sepdeploy.errors import BadInput, Missing
from sepdeploy.exports.options import EVAL_STEPS, JudgingOptions
from sepdeploy.records import Notify
from sepdeploy.threat import (
    Attack,
    check_norm,
    gradients_failed,
    no_gradient_note,
    parse_attack,
    parse_eps,
)

if TYPE_CHECKING:
    from torch import Tensor

    from sepdeploy.attacks.course import Course, News
    from sepdeploy.data import Dataset
    from sepdeploy.models import Model

Drive = Callable[["Course"], None]
BATCH = 256  # samples per forward pass of the torch model, fewer where they are large
# Of a model that is copied in float64, which takes memory: weights, and values of a sample.
COPIED_PARAMS, COPIED_FEATURES = 1 << 22, 1 << 16
BATCH_VALUES = 1 << 17  # input values per forward pass
ATTACKED_VALUES = 1 << 18  # of a batch under attack: what a process loses that is killed
NEWS_S = 60.0  # between two lines about an attack that nobody else watches


def choose_attacks(provenance: Mapping[str, Any], wanted: JudgingOptions) -> tuple[Attack, ...]:
    """Return the attacks to judge by: what was asked, else what the model was trained against.

    Args:
        provenance: Of the model (``objective``, ``eps``, ``norm``).
        wanted: Names, separated by commas, radius and norm, as far as they were asked for.

    Returns:
        Empty when nothing was asked and the model has no adversarial provenance.

    Raises:
        BadInput: An attack was asked for and no ε is known, or one of another norm only.
    """
    attack, eps, norm = wanted.attack, wanted.eps, wanted.norm
    trained_norm = str(provenance.get("norm") or "linf")
    chosen = check_norm(norm or trained_norm)
    if eps is None and provenance.get("eps") is not None and chosen != trained_norm:
        raise BadInput(
            f"the model's attack radius is one of {trained_norm}, not of {chosen}",
            hint=f"pass --eps for {chosen} too",
        )
    known = provenance.get("eps") if eps is None else eps
    radius = None if known is None else parse_eps(known)
    trained = provenance.get("objective", "natural") != "natural" and radius is not None
    if attack is None and eps is None and not trained:
        return ()
    if radius is None:
        raise BadInput(
            "the model's provenance has no attack radius", hint="pass --eps, e.g. --eps 8/255"
        )
    names = wanted.attacks or (f"pgd-{EVAL_STEPS}",)
    return tuple(parse_attack(name, radius, chosen, seed=wanted.seed) for name in names)


def find_data(
    provenance: dict[str, Any], wanted: JudgingOptions, shape: tuple[int, ...], notify: Notify
) -> Dataset | None:
    """Return the data set that was asked for or trained on, from where the training had it.

    A set that was asked for must load; the one the model was trained on may be absent, which is
    said and answered with None.

    Raises:
        BadInput: The set cannot be read, or its images do not fit the model.
    """
    from sepdeploy.data import load

    name = wanted.data or provenance.get("data")
    if not name:
        return None
    remembered = provenance.get("data_dir") if name == provenance.get("data") else None
    is_there = isinstance(remembered, str) and Path(remembered).is_dir()
    try:
        dataset = load(str(name), wanted.data_dir or (remembered if is_there else None))
    except (BadInput, Missing) as error:
        if wanted.data is not None or wanted.data_dir is not None:
            raise
        gone = f"; its folder {remembered} is gone" if remembered and not is_there else ""
        notify(f"data set of the training not at hand: {error.message}{gone}")
        return None
    for note in dataset.notes:
        notify(note)
    if dataset.input.shape != shape:
        raise BadInput(
            f"data set '{name}' has images {dataset.input.shape}, the model takes {shape}",
            hint="pass the data set the model was trained on with --data",
        )
    return dataset


def torch_logits(model: Model, images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the model's logits (N, classes) in evaluation mode."""
    import torch

    with torch.no_grad():
        parts = [model(part).numpy() for part in _parts(model, images)]
    logits: NDArray[np.float32] = np.concatenate(parts).astype(np.float32)
    return logits


def _parts(model: Model, images: NDArray[np.float32]) -> Iterator[Tensor]:
    """Give images in batches, small ones where the images are large."""
    import torch

    batch = max(1, min(BATCH, BATCH_VALUES // model.input.features))
    for start in range(0, len(images), batch):
        yield torch.from_numpy(np.ascontiguousarray(images[start : start + batch]))


def exact_logits(model: Model, images: NDArray[np.float32]) -> NDArray[np.float64] | None:
    """Return the logits that a float64 copy of the model gives.

    None where the network or its images are too large for a copy (exporting is to take little
    memory; how far rounding moves its outputs is then known from its inputs alone), or where it
    insists on float32.
    """
    import torch

    params = sum(p.numel() for p in model.parameters())
    if params > COPIED_PARAMS or model.input.features > COPIED_FEATURES:
        return None
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)  # of what the network makes itself
    try:
        copy, parts = deepcopy(model).double(), []
        with torch.no_grad():
            for part in _parts(model, images):
                parts.append(copy(part.double()).numpy())
    except Exception:  # the user's own code may raise anything
        return None
    finally:
        torch.set_default_dtype(before)
    logits: NDArray[np.float64] = np.concatenate(parts)
    return logits


def attack_images(
    model: Model,
    images: NDArray[np.float32],
    labels: NDArray[np.int64],
    ids: NDArray[np.int64],
    attack: Attack,
    notify: Notify,
    *,
    answers: Callable[[NDArray[np.float32]], NDArray[np.float32]] | None = None,
    drive: Drive | None = None,
) -> tuple[NDArray[np.float32], dict[str, Any]]:
    """Return adversarial images made on the torch model, and what stands beside them.

    Args:
        model: The torch model.
        images: (N, *shape) float32.
        labels: (N,) of the true classes.
        ids: (N,), what is random about an image is drawn for.
        attack: The attack.
        notify: Told how far it is.
        answers: Maps images to the logits of a file: the model then gives the gradient alone.
        drive: Brings the attack to its end; None = here and at once.

    Returns:
        The images, and the attack's details with ``no_gradient``: for how many of them a gradient
        was zero or not finite; they were searched without.
    """
    import torch

    from sepdeploy.attacks.course import Course
    from sepdeploy.attacks.scores import Through

    course = Course(
        model if answers is None else Through(model, answers),
        torch.from_numpy(np.ascontiguousarray(images)),
        torch.from_numpy(labels),
        torch.from_numpy(ids),
        attack,
        max(1, min(BATCH, ATTACKED_VALUES // model.input.features)),
    )
    if drive is None:
        course.run(_now_and_then(notify))
    else:
        drive(course)
    made = course.made()
    blind = 0 if made.blind is None else int(made.blind.sum())
    if blind:
        unreliable = "unreliable: " if gradients_failed(blind, len(images)) else ""
        notify(f"{attack}: {unreliable}{no_gradient_note(blind, len(images))}")
    return made.images.numpy(), {**attack.details(), "no_gradient": blind}


def _now_and_then(notify: Notify) -> Callable[[News], None]:
    """Return what says how far an attack is, once in a while, in lines that stay."""
    last = time.monotonic()

    def watch(news: News) -> None:
        nonlocal last
        if time.monotonic() - last >= NEWS_S:
            last = time.monotonic()
            notify(str(news))

    return watch


def robust_share(pack: EvalPack) -> float:
    """Return the fraction of a pack's images that the model has right, clean and attacked."""
    assert pack.adversarial_logits is not None
    faces = (pack.logits, pack.adversarial_logits)
    both = [(z.argmax(1) == pack.labels) & np.isfinite(z).all(1) for z in faces]
    return float((both[0] & both[1]).mean())


def make_pack(
    model: Model,
    dataset: Dataset,
    attack: Attack | None,
    wanted: JudgingOptions,
    *,
    model_sha256: str,
    notify: Notify,
    drive: Drive | None = None,
) -> EvalPack:
    """Build the evaluation pack of a model, reduced to what 16 MiB hold.

    Args:
        model: The torch model.
        dataset: The data set; its test images are taken.
        attack: The attack, or None for a pack of clean images.
        wanted: How many images, and the seed of their choice.
        model_sha256: Digest of the model file that the examples belong to.
        notify: Told when the number of images is reduced.
        drive: See ``attack_images``.
    """
    test = dataset.test
    classes = torch_logits(model, test.batch(slice(0, 1))).shape[1]
    room = fits(
        model.input.shape,
        classes,
        uint8=test.images.dtype == np.uint8,
        attacked=attack is not None,
    )
    n = min(wanted.samples, len(test), room)
    if n < min(wanted.samples, len(test)):
        notify(f"evaluation pack: {n} images instead of {wanted.samples}, to stay below 16 MiB")
    part = test.take(n, wanted.seed)
    clean = part.batch(slice(None))
    logits = torch_logits(model, clean)
    provenance: dict[str, Any] = {
        "data": dataset.name,
        "split": "test",
        "seed": wanted.seed,
        "model_sha256": model_sha256,
        "attack": None,
    }
    if attack is None:
        return EvalPack(part.images, part.labels, part.ids, logits, provenance=provenance)
    adversarial, details = attack_images(
        model, clean, part.labels, part.ids, attack, notify, drive=drive
    )
    return EvalPack(
        part.images,
        part.labels,
        part.ids,
        logits,
        adversarial,
        torch_logits(model, adversarial),
        provenance | {"attack": details},
    )


def reference_inputs(
    spec_shape: tuple[int, ...],
    images: Sequence[Any] | NDArray[np.float32] | None,
    n: int,
    seed: int,
) -> tuple[NDArray[np.float32], str]:
    """Return non-zero inputs for parity and their label: "data" or "synthetic"."""
    if images is not None and len(images):
        return np.asarray(images[:n], dtype=np.float32), "data"
    return np.random.default_rng(seed).random((n, *spec_shape), dtype=np.float32), "synthetic"
