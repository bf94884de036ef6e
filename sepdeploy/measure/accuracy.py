"""Accuracy of the artifact itself, judged inside its runtime."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from sepdeploy.errors import ARRAYS, BadInput
from sepdeploy.measure.summary import wilson_interval
from sepdeploy.metrics import measured
from sepdeploy.records import Kind, Measurement
from sepdeploy.threat import check_norm

Images = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]
EPS_SLACK = 1e-6  # float32 rounding of image + perturbation


def accuracy(
    metric: str,
    logits: Images,
    images: Images,
    labels: Labels,
    kind: Kind,
    details: Mapping[str, Any],
    *,
    where: str | os.PathLike[str],
    clean: Images | None = None,
) -> Measurement:
    """Return an accuracy from logits, wherever they were computed.

    It carries 1 per image that is labelled rightly, 0 per other, and Wilson's 95 % interval.
    Logits that are not finite count as wrong, and under attack so does what is wrong anyway.

    Args:
        metric: "clean_accuracy" or "adversarial_accuracy".
        logits: (N, classes).
        images: The clean images, whose digest pairs results by image.
        labels: (N,), class numbers.
        kind: HOST, EMULATED or MEASURED.
        details: Further fields of the measurement.
        where: The artifact.
        clean: (N, classes) on the images as they are, for an accuracy under attack.

    Raises:
        BadInput: The artifact has fewer classes than the labels name, or the arrays do not fit.
    """
    labels = _checked(images, labels)
    classes = logits.shape[-1]
    if logits.ndim != 2 or int(labels.max()) >= classes:
        raise BadInput(
            f"{where}: gives {classes} classes, the labels go up to {int(labels.max())}",
            hint="is this the data set that the model was trained on?",
        )
    outcomes = rightly(logits, labels)
    if clean is not None:
        outcomes &= rightly(clean, labels)
    n, right = len(outcomes), int(outcomes.sum())
    return measured(
        metric,
        right / n,
        kind,
        n=n,
        ci=wilson_interval(right, n),
        samples=tuple(int(o) for o in outcomes),
        details={**details, "images_sha256": images_digest(images, labels)},
    )


def rightly(logits: Images, labels: Labels) -> npt.NDArray[np.bool_]:
    """Return (N,) which images are labelled rightly; logits that are not finite are wrong."""
    found: npt.NDArray[np.bool_] = logits.argmax(axis=1) == labels
    found &= np.isfinite(logits).all(axis=1)
    return found


def images_digest(images: Images, labels: Labels) -> str:
    """Return the SHA-256 of images (as float32) and labels; where equal, results pair by image."""
    digest = hashlib.sha256()
    digest.update(repr(tuple(images.shape)).encode())
    digest.update(np.ascontiguousarray(images, dtype="<f4").data)
    digest.update(np.ascontiguousarray(labels, dtype="<i8").data)
    return digest.hexdigest()


def check_distance(images: Images, adversarial: Images, eps: float, norm: str) -> None:
    """Refuse adversarial examples that left the ball of radius eps or the range [0, 1].

    Raises:
        BadInput: Naming the largest distance.
    """
    if adversarial.shape != images.shape:
        raise BadInput(
            f"adversarial images are {adversarial.shape}, the clean ones {images.shape}",
            hint=ARRAYS,
        )
    check_norm(norm)
    change = (adversarial.astype(np.float64) - images).reshape(len(images), -1)
    sizes = np.abs(change).max(axis=1) if norm == "linf" else np.linalg.norm(change, axis=1)
    worst = float(sizes.max())
    if not worst <= eps + EPS_SLACK * max(1.0, eps):
        raise BadInput(
            f"an adversarial image is {worst:.6g} ({norm}) from its original, eps is {eps:.6g}",
            hint="make the examples again with this eps",
        )
    if adversarial.min() < 0 or adversarial.max() > 1:
        raise BadInput("adversarial images leave the range [0, 1]", hint=ARRAYS)


def _checked(images: Images, labels: Labels) -> Labels:
    if not len(images) or len(images) != len(labels):
        raise BadInput(
            f"accuracy needs as many labels as images, found {len(labels)} and {len(images)}",
            hint=ARRAYS,
        )
    labels = np.asarray(labels, dtype=np.int64)
    if labels.ndim != 1 or labels.min() < 0:
        raise BadInput("labels must be a list of class numbers from 0", hint=ARRAYS)
    return labels
