"""What a training reports while it runs; drawing it is the caller's affair."""

from __future__ import annotations

from dataclasses import dataclass

from sepdeploy.records import duration
from sepdeploy.threat import Attack, gradients_failed

SHOWN_RANKS = 6


@dataclass(frozen=True)
class Event:
    """One report of progress.

    Attributes:
        kind: "note" (a decision worth knowing), "detail" (one for who asks for more), "step",
            "epoch" (with validation results) or "done".
        epoch: Current epoch, from 1.
        epochs: Planned epochs.
        step: Optimiser steps taken in this epoch.
        steps: Optimiser steps per epoch.
        loss: Mean loss of this epoch so far.
        rate: Training images per second.
        eta_s: Estimated seconds until the training ends.
        clean_accuracy: On the held-out split, fraction.
        robust_accuracy: On the held-out split, right as they are and under attack, fraction.
        judged_by: The attack and the number of images behind it.
        ranks: Ranks of the low-rank layers, where they adapt.
        compression: Parameters of the dense network over those of this one, where ranks adapt.
        message: For notes.
    """

    kind: str
    epoch: int = 0
    epochs: int = 0
    step: int = 0
    steps: int = 0
    loss: float | None = None
    rate: float | None = None
    eta_s: float | None = None
    clean_accuracy: float | None = None
    robust_accuracy: float | None = None
    judged_by: str = ""
    ranks: tuple[int, ...] = ()
    compression: float | None = None
    message: str = ""

    @property
    def lasting(self) -> bool:
        """Whether the report should stay visible (everything but steps)."""
        return self.kind != "step"

    def __str__(self) -> str:
        if self.kind in ("note", "detail", "done"):
            return self.message
        parts = [f"epoch {self.epoch}/{self.epochs}"]
        if self.kind == "step":
            parts.append(f"step {self.step}/{self.steps}")
        if self.loss is not None:
            parts.append(f"loss {self.loss:.4f}")
        if self.clean_accuracy is not None:
            parts.append(f"validation clean {self.clean_accuracy:.2%}")
        if self.robust_accuracy is not None:
            parts.append(f"robust {self.robust_accuracy:.2%} ({self.judged_by})")
        if self.compression is not None:
            parts.append(f"ranks {_listed(self.ranks)}, {self.compression:.1f}x smaller")
        if self.rate is not None:
            parts.append(f"{self.rate:.0f} images/s")
        if self.eta_s is not None and self.kind == "step":
            parts.append(f"{duration(self.eta_s)} left")
        return " · ".join(parts)


def judged_by(attack: Attack, images: int, no_gradient: int) -> str:
    """Return what stands behind a robust accuracy, for people."""
    lacking = f", {no_gradient} of them without a gradient" if no_gradient else ""
    lacking += ": unreliable" if gradients_failed(no_gradient, images) else ""
    return f"{attack}, {images} images{lacking}"


def _listed(ranks: tuple[int, ...]) -> str:
    if len(ranks) > SHOWN_RANKS:
        return f"{min(ranks)}–{max(ranks)}"
    return " ".join(map(str, ranks))
