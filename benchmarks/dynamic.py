"""What changing bases add to an epoch of low-rank training."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch

from benchmarks.ratios import QUIET, Ratio
from sepdeploy.data import Split, load
from sepdeploy.errors import BadInput
from sepdeploy.models import Model, create
from sepdeploy.threat import Attack
from sepdeploy.training.descent.optimizers import make_optimizer
from sepdeploy.training.objectives import OBJECTIVES
from sepdeploy.training.objectives.batch import Batch, Terms
from sepdeploy.training.ranks.dynamic import (
    cores_of,
    match_ranks,
    ranks_of,
    start_with_decay,
)
from sepdeploy.training.ranks.windows import RankDynamics

RANK, EVERY = 40, 10
WARM_WINDOWS = 60  # steps of training before anything is timed: the gradients' spectrum flattens
SAMPLES = 128
ATTACK = Terms(Attack("pgd-7", 0.1, seed=0, step_size=0.02))


class Training:
    """A low-rank MLP 784–1024–1024–10 in adversarial training, bases frozen or not."""

    def __init__(self, tolerance: float, *, frozen: bool) -> None:
        torch.manual_seed(0)
        low = f"lowrank:{RANK}"
        self.data: Split = load("mnist").train
        self.model: Model = create(
            "mlp", load("mnist").input, 10, structure={"fc1": low, "fc2": low}
        )
        start_with_decay(self.model.net)
        self.optimizer = make_optimizer(
            "adamw", self.model, lr=1e-3, momentum=0.9, weight_decay=1e-4,
            alone=cores_of(self.model.net),
        )  # fmt: skip
        self.dynamics = RankDynamics(
            self.model.net, self.optimizer, tolerance=tolerance, every=EVERY, largest=RANK
        )
        self.frozen = frozen
        self.order = np.random.default_rng(0).permutation(len(self.data))
        self.done = 0

    def step(self, place: int) -> float:
        """Take step ``place`` of a window; return the seconds of augmenting and truncating."""
        index = self.order[np.arange(self.done, self.done + SAMPLES) % len(self.order)]
        self.done += SAMPLES
        batch = Batch(
            torch.from_numpy(self.data.batch(index)),
            torch.from_numpy(self.data.labels[index]),
            torch.from_numpy(self.data.ids[index]),
        )
        self.optimizer.zero_grad(set_to_none=True)
        place = 1 if self.frozen else place  # a step of the cores alone
        augmenting = self.dynamics.before(place, EVERY + 1, frozen=False)
        self._backward(batch)
        spent = _timed(self.dynamics.augment) if augmenting else 0.0
        self.optimizer.step()
        return spent + _timed(lambda: self.dynamics.after(place, EVERY + 1, frozen=False))

    @property
    def ranks(self) -> tuple[int, ...]:
        """The ranks as they are."""
        return tuple(r for pair in ranks_of(self.model.net).values() for r in pair)

    def follow(self, other: Training) -> None:
        """Take over another training's network."""
        if self.ranks != other.ranks:
            self.optimizer.state.clear()
        state = other.model.net.state_dict()
        match_ranks(self.model.net, state)
        self.model.net.load_state_dict(state)

    def _backward(self, batch: Batch) -> None:
        OBJECTIVES["pgd-at"](self.model, batch, ATTACK).backward()  # type: ignore[no-untyped-call]


def _timed(run: Callable[[], object]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def dynamic_rows(rounds: int) -> Iterator[Ratio]:
    """Yield the cost of an epoch with turning bases in units of one with frozen bases."""
    for tolerance in (0.05, 1e-4):
        what = f"dynamical low rank, mlp 784–1024–1024–10, PGD-7 epoch, τ = {tolerance:g}"
        try:
            turning, fixed = (Training(tolerance, frozen=f) for f in (False, True))
        except BadInput:
            yield Ratio(what, "the same, bases frozen", note="no MNIST in SEPDEPLOY_DATA")
            continue
        for _ in range(WARM_WINDOWS):
            for place in range(EVERY):
                turning.step(place)
        yield from _compare(what, turning, fixed, rounds)


def _compare(what: str, turning: Training, fixed: Training, rounds: int) -> Iterator[Ratio]:
    times: dict[str, list[list[float]]] = {
        name: [[] for _ in range(EVERY)] for name in ("turning", "fixed", "turns")
    }
    wide: list[tuple[int, ...]] = []
    for _ in range(rounds):
        fixed.follow(turning)
        for place in range(EVERY):
            for name, training in (("turning", turning), ("fixed", fixed)):
                start = time.process_time()
                spent = training.step(place)
                times[name][place].append(time.process_time() - start)
                if training is turning:
                    times["turns"][place].append(spent)
            if not place:
                wide.append(turning.ranks)
    own, other, turns = (_window(places) * 1e3 for places in times.values())
    ranks, augmented = _text(fixed.ranks), _text(np.mean(wide, axis=0).round())
    against = f"the same, bases frozen at ranks {ranks}"
    yield Ratio(f"{what}, augmented to {augmented}", against, own, other, at_most=1.15)
    yield Ratio("of it, augmenting and truncating alone", against, other + turns, other, 1.15)


def _text(ranks: Iterable[float]) -> str:
    return ", ".join(f"{r:.0f}" for r in ranks)


def _window(times: list[list[float]]) -> float:
    """Seconds of one window: per step, what a quiet machine takes."""
    return float(sum(np.percentile(place, QUIET) for place in times))
