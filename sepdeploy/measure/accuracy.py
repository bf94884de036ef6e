"""Accuracy of the artifact itself, judged inside its runtime."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from sepdeploy.errors import BadInput
from sepdeploy.measure.child import run_logits
from sepdeploy.measure.summary import wilson_interval
from sepdeploy.records import Kind, Measurement

Images = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]
EPS_SLACK = 1e-6  # float32 rounding of image + perturbation


def clean_accuracy(
    path: str | os.PathLike[str],
    runtime: str,
    images: Images,
    labels: Labels,
    *,
    threads: int = 1,
    batch: int = 32,
    kind: Kind = Kind.HOST,
    details: Mapping[str, Any] | None = None,
) -> Measurement:
    """Measure ``clean_accuracy``: the fraction of images that the artifact labels rightly.

    Args:
        path: The artifact.
        runtime: A name of ``runtimes.RUNTIMES``.
        images: float32 (N, *shape) in [0, 1], NCHW or NF.
        labels: (N,), class numbers.
        threads: Threads of the runtime.
        batch: Samples per run.
        kind: HOST, EMULATED or MEASURED.
        details: Further fields of the measurement.

    Raises:
        BadInput: The file or the arrays are not usable.
        Missing: The runtime is not installed.
    """
    labels = _checked(images, labels)
    digest = {"images_sha256": images_digest(images, labels)}
    outcomes, facts = judge(path, runtime, images, labels, threads=threads, batch=batch)
    return outcome_measurement(
        "clean_accuracy", outcomes, kind, {**(details or {}), **digest, **facts}
    )


def adversarial_accuracy(
    path: str | os.PathLike[str],
    runtime: str,
    images: Images,
    adversarial: Images,
    labels: Labels,
    *,
    attack: str,
    eps: float,
    norm: str = "linf",
    steps: int = 0,
    restarts: int = 1,
    seed: int = 0,
    threads: int = 1,
    batch: int = 32,
    kind: Kind = Kind.HOST,
    details: Mapping[str, Any] | None = None,
) -> Measurement:
    """Measure ``adversarial_accuracy`` on examples that were made for the artifact's twin.

    Args:
        path: The artifact.
        runtime: A name of ``runtimes.RUNTIMES``.
        images: The clean images: their digest pairs results by image, and the examples must lie
            within ``eps`` of them.
        adversarial: The examples, as ``images``.
        labels: (N,), class numbers.
        attack: Name as written on the command line ("pgd-40").
        eps: Largest perturbation in ``norm``, of images in [0, 1].
        norm: "linf" or "l2".
        steps: Steps of the attack.
        restarts: Restarts of the attack.
        seed: Seed of the attack.
        threads: Threads of the runtime.
        batch: Samples per run.
        kind: HOST, EMULATED or MEASURED.
        details: Further fields of the measurement.

    Raises:
        BadInput: The file or the arrays are not usable, or an example is further away than eps.
        Missing: The runtime is not installed.
    """
    labels = _checked(images, labels)
    _checked(adversarial, labels)
    check_distance(images, adversarial, eps, norm)
    outcomes, facts = judge(path, runtime, adversarial, labels, threads=threads, batch=batch)
    made = {"attack": attack, "eps": eps, "norm": norm, "steps": steps, "restarts": restarts}
    digest = {"seed": seed, "images_sha256": images_digest(images, labels)}
    return outcome_measurement(
        "adversarial_accuracy", outcomes, kind, {**(details or {}), **made, **digest, **facts}
    )


def judge(
    path: str | os.PathLike[str],
    runtime: str,
    images: Images,
    labels: Labels,
    *,
    threads: int = 1,
    batch: int = 32,
) -> tuple[npt.NDArray[np.int64], dict[str, Any]]:
    """Run images through an artifact and return 1 where it is right, 0 elsewhere, per image.

    Logits that are not finite count as wrong. Also returns the batch size and the threads.

    Raises:
        BadInput: The file is not usable, or it has fewer classes than the labels name.
        Missing: The runtime is not installed.
    """
    logits, _ = run_logits(path, runtime, images, batches=(batch,), threads=threads)
    classes = logits.shape[-1]
    if logits.ndim != 3 or int(labels.max()) >= classes:
        raise BadInput(
            f"{path}: gives {classes} classes, the labels go up to {int(labels.max())}",
            hint="is this the data set that the model was trained on?",
        )
    right = (logits[0].argmax(axis=1) == labels) & np.isfinite(logits[0]).all(axis=1)
    return right.astype(np.int64), {"batch": batch, "threads": threads}


def outcome_measurement(
    metric: str, outcomes: npt.NDArray[np.int64], kind: Kind, details: Mapping[str, Any]
) -> Measurement:
    """Return an accuracy with its outcome per image and Wilson's 95 % interval."""
    n, right = len(outcomes), int(outcomes.sum())
    return Measurement(
        metric,
        right / n,
        "fraction",
        kind,
        n=n,
        ci=wilson_interval(right, n),
        samples=tuple(int(o) for o in outcomes),
        details=dict(details),
    )


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
        raise BadInput(f"adversarial images are {adversarial.shape}, the clean ones {images.shape}")
    if norm not in ("linf", "l2"):
        raise BadInput(f"unknown norm '{norm}'", hint="known: linf, l2")
    change = (adversarial.astype(np.float64) - images).reshape(len(images), -1)
    sizes = np.abs(change).max(axis=1) if norm == "linf" else np.linalg.norm(change, axis=1)
    worst = float(sizes.max())
    if not worst <= eps + EPS_SLACK * max(1.0, eps):
        raise BadInput(
            f"an adversarial image is {worst:.6g} ({norm}) from its original, eps is {eps:.6g}",
            hint="make the examples again with this eps",
        )
    if adversarial.min() < 0 or adversarial.max() > 1:
        raise BadInput("adversarial images leave the range [0, 1]")


def _checked(images: Images, labels: Labels) -> Labels:
    if not len(images) or len(images) != len(labels):
        raise BadInput(
            f"accuracy needs as many labels as images, found {len(labels)} and {len(images)}"
        )
    labels = np.asarray(labels, dtype=np.int64)
    if labels.ndim != 1 or labels.min() < 0:
        raise BadInput("labels must be a list of class numbers from 0")
    return labels
