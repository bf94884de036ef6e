"""An attack on many images, batch after batch: what is done is told, kept, shared and gone on from.

An ensemble has a leg for each member, which attacks what those before it left standing. How a leg
is cut into batches depends on its images alone, so whoever attacks one, now or later, here or in
another process, finds the same.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sepdeploy.attacks import make
from sepdeploy.attacks.gradient import Made
from sepdeploy.attacks.losses import right
from sepdeploy.attacks.scores import scores_of
from sepdeploy.records import duration
from sepdeploy.threat import ATTACKS, Attack

FALLING = 0.25  # of the work on an image that stands, what one that falls takes: for estimates


@dataclass(frozen=True)
class Found:
    """What came of one batch: (N, ...) points; (N,) where gradients failed; (N,) what stands."""

    points: Tensor
    blind: Tensor
    standing: Tensor


@dataclass(frozen=True)
class News:
    """How far an attack is.

    Attributes:
        attack: Its name; of an ensemble with the member that is at work.
        done: Images that this one has attacked.
        images: Images that it attacks in all.
        standing: Images that nothing has felled so far.
        seconds_left: Estimated from the work so far; None = not known yet.
    """

    attack: str
    done: int
    images: int
    standing: int
    seconds_left: float | None = None
    kind, lasting = "step", False  # it is shown as the events of a training are

    def __str__(self) -> str:
        parts = [f"{self.attack}: {self.done}/{self.images} images", f"{self.standing} still stand"]
        if self.seconds_left is not None:
            parts.append(f"about {duration(self.seconds_left)} left")
        return " · ".join(parts)


class Course:
    """An attack in progress; between two batches ``state`` is all that it takes to go on.

    Args:
        model: In evaluation mode.
        images: (N, ...) float32 in [0, 1].
        labels: (N,) int64.
        ids: (N,) int64, what is random about an image is drawn for.
        attack: The attack.
        batch_size: Most images of a batch.
    """

    def __init__(
        self,
        model: nn.Module,
        images: Tensor,
        labels: Tensor,
        ids: Tensor,
        attack: Attack,
        batch_size: int = 256,
    ) -> None:
        self.attacked = attack
        members = ATTACKS[attack.family].members
        self._legs = tuple(replace(attack, name=name) for name in members) or (attack,)
        self._model, self._scores, self._batch_size = model, scores_of(model), batch_size
        self._images, self._labels, self._ids = images, labels, ids
        self._points = images.clone()
        self._blind = torch.zeros(len(images), dtype=torch.bool, device=images.device)
        self._standing = torch.ones_like(self._blind)
        self._waiting = torch.arange(len(images), device=images.device)
        self._leg, self._size = 0, len(images)
        self._work, self._began = 0.0, time.monotonic()

    def batches(self) -> list[Tensor]:
        """Return the rows of the batches that this leg has before it; none at the end."""
        if not len(self._waiting):
            return []
        parts = math.ceil(self._size / self._batch_size)
        return list(torch.split(self._waiting, math.ceil(self._size / parts)))

    def attack(self, rows: Tensor) -> Found:
        """Attack a batch; this alone changes nothing."""
        images, labels = self._images[rows], self._labels[rows]
        leg, ids = self._legs[self._leg], self._ids[rows]
        made = make(self._model, images, labels, leg, ids=ids, batch_size=self._batch_size)
        with torch.no_grad():
            standing = right(self._scores(images), labels)
            standing &= right(self._scores(made.images), labels)
        blind = torch.zeros_like(standing) if made.blind is None else made.blind
        return Found(made.images, blind, standing)

    def book(self, found: Found) -> None:
        """Take what came of the first batch that waits."""
        rows = self._waiting[: len(found.points)]
        self._points[rows], self._standing[rows] = found.points, found.standing
        self._blind[rows] |= found.blind
        stood = int(found.standing.sum())
        self._work += _passes(self._legs[self._leg]) * (stood + FALLING * (len(rows) - stood))
        self._waiting = self._waiting[len(rows) :]
        if not len(self._waiting) and self._leg + 1 < len(self._legs):
            self._leg += 1
            self._waiting = torch.nonzero(self._standing).flatten()
            self._size = len(self._waiting)

    def run(self, watch: Callable[[News], None] | None = None) -> Made:
        """Attack all that waits, here and now."""
        while batches := self.batches():
            if watch is not None:
                watch(self.news())
            self.book(self.attack(batches[0]))
        return self.made()

    def made(self) -> Made:
        """Return the points; of an ensemble the images themselves where nothing felled them."""
        points = self._points.clone()
        if len(self._legs) > 1:
            points[self._standing] = self._images[self._standing]
        return Made(points, self._blind)

    def news(self) -> News:
        """Return how far it is."""
        leg, name = self._legs[self._leg], self.attacked.name
        if len(self._legs) > 1:
            name += f", {leg.name} ({self._leg + 1} of {len(self._legs)})"
        waiting, standing = len(self._waiting), int(self._standing.sum())
        left = self._seconds_left(standing) if self._work else None
        return News(name, self._size - waiting, self._size, standing, left)

    def _seconds_left(self, standing: int) -> float:
        """Go by the passes of the network that the rest takes if as many go on to stand."""
        waiting = len(self._waiting)
        done = self._size - waiting
        share = (standing - waiting) / done if done else 1.0  # of those attacked, what stands
        here = waiting * (share + FALLING * (1 - share)) * _passes(self._legs[self._leg])
        later = self._size * share * sum(map(_passes, self._legs[self._leg + 1 :]))
        return (time.monotonic() - self._began) * (here + later) / self._work

    def identity(self) -> dict[str, Any]:
        """Return what must be the same for a state to be gone on from; plain values by words."""
        digest = hashlib.sha256()
        for part in (self._images, self._labels, self._ids):
            digest.update(repr((tuple(part.shape), str(part.dtype))).encode())
            digest.update(part.cpu().contiguous().numpy().data)
        details = self.attacked.details() | {"step size": self.attacked.step_size}
        return {"images": digest.hexdigest(), "batch size": self._batch_size, **details}

    def state(self) -> dict[str, NDArray[Any]]:
        """Return all that changes."""
        tensors = {
            "points": self._points, "blind": self._blind, "standing": self._standing,
            "waiting": self._waiting,
        }  # fmt: skip
        place = np.array([self._leg, self._size], dtype=np.int64)
        return {name: tensor.cpu().numpy() for name, tensor in tensors.items()} | {"place": place}

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Go on from a state of the same attack.

        Raises:
            ValueError: It is none; nothing was changed.
        """
        for name, own in self.state().items():
            given, free = state[name], name == "waiting"
            if given.dtype != own.dtype or given.ndim != own.ndim:
                raise ValueError(f"'{name}' has another type")
            if given.shape != own.shape and not free:
                raise ValueError(f"'{name}' has another shape")
        points, waiting, (leg, size) = state["points"], state["waiting"], map(int, state["place"])
        count = len(points)
        if not (0 <= leg < len(self._legs) and len(waiting) <= size <= count):
            raise ValueError("'place' is none")
        if len(waiting) and not (waiting.min() >= 0 and waiting.max() < count):
            raise ValueError("'waiting' is out of range")
        if not (points.min(initial=0) >= 0 and points.max(initial=0) <= 1):
            raise ValueError("'points' are out of range")
        device = self._images.device
        self._points, self._blind, self._standing, self._waiting = (
            torch.from_numpy(state[name].copy()).to(device)
            for name in ("points", "blind", "standing", "waiting")
        )
        self._leg, self._size = leg, size


def _passes(leg: Attack) -> int:
    """Return what an image that stands costs, in forward passes of the network."""
    return ATTACKS[leg.family].passes * leg.steps * leg.restarts
