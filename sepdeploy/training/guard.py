"""A guard against catastrophic overfitting of training with one attack step.

Such a training can, within a few hundred steps, learn to bend its own gradient: the one step no
longer finds what several steps find at once, and robustness is gone while the training's accuracy
rises. The guard compares both attacks on a few held-out images. Where the longer one leaves less
than a third of what the one step leaves, the training goes back to its last good state and on with
all of the recipe's attack steps, which do not collapse.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, fields, replace
from typing import Any

import torch

from sepdeploy.attacks.losses import right
from sepdeploy.data import Split
from sepdeploy.training.checkpoint import Held
from sepdeploy.training.descent.steps import Moment, Stepper
from sepdeploy.training.judge import accuracies
from sepdeploy.training.objectives.fast_at import one_step
from sepdeploy.training.objectives.inner import evaluating
from sepdeploy.training.sources import take_batch, validation_attack

EVERY = 200  # steps; besides, after each epoch
IMAGES = 256
LEAST = 1 / 3  # share of what stands one step that has to stand the longer attack
GAP = 0.2  # by which both must differ too: at the start hardly an image stands any attack


@dataclass(frozen=True)
class Look:
    """Fractions of the guard's images that stand one attack step, and the longer attack."""

    one_step: float = 0.0
    longer: float = 0.0

    @property
    def collapsed(self) -> bool:
        """Whether one step is fooled and no longer tells what stands."""
        gap = self.one_step - self.longer
        return self.longer < LEAST * self.one_step and gap > GAP


class Guard:
    """Watches a training with one attack step.

    Args:
        stepper: What is trained.
        validation: Held-out images; some of them are used.

    Attributes:
        fallen: Whether the training takes all its attack steps by now.
        last: The last look.
        good: The state at the last look that found nothing.
    """

    def __init__(self, stepper: Stepper, validation: Split) -> None:
        self.stepper = stepper
        self.images = validation.take(IMAGES, stepper.recipe.seed)
        self.fallen = False
        self.last = Look()
        self.good = deepcopy(stepper.state())

    def after(self, at: Moment, steps: int) -> str:
        """Look after a step, where it is time; return what to say where something was done.

        Args:
            at: The step that was taken.
            steps: Of an epoch.
        """
        last = at.step + 1 == steps
        # within an epoch adapting ranks may be augmented, and such a state may not be kept
        between = self.stepper.dynamics is None and (at.step + 1) % EVERY == 0
        if self.fallen or not (last or between):
            return ""
        look = self.last = self.look(at)
        if not look.collapsed:
            self.good = deepcopy(self.stepper.state())
            return ""
        self.fallen = True
        self.stepper.restore(self.good)
        recipe = self.stepper.recipe
        return (
            f"catastrophic overfitting, {look.one_step:.0%} of {len(self.images)} held-out images "
            f"stand one attack step, {look.longer:.0%} stand {validation_attack(recipe).name}; "
            f"back to the last good state, and on with {recipe.steps} attack steps (slower)"
        )

    def look(self, at: Moment) -> Look:
        """Compare both attacks at a step's radius; all processes find the same."""
        stepper = self.stepper
        terms, team, count = stepper.terms(at), stepper.team, len(self.images)
        attack = replace(validation_attack(stepper.recipe), eps=terms.attack.eps)
        longer = accuracies(stepper.form, self.images, attack, team=team)
        standing = torch.zeros(1, dtype=torch.int64, device=stepper.device)
        with evaluating(stepper.form):
            for index in team.share(torch.arange(count).tensor_split(min(team.world, count))):
                batch = take_batch(self.images, index).to(stepper.device)
                found = one_step(stepper.form, batch, terms)
                with torch.no_grad():
                    standing += right(stepper.form(found), batch.labels).sum()
        return Look(int(team.total(standing)) / count, longer.robust or 0.0)

    def state(self) -> dict[str, object]:
        """What a checkpoint keeps."""
        return self.entry() | {"good": {} if self.fallen else vars(self.good)}

    def entry(self) -> dict[str, object]:
        """What a line of the history keeps."""
        return {"fallen": self.fallen, **vars(self.last)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from ``state``."""
        self.fallen = bool(state["fallen"])
        self.last = Look(*(state[f.name] for f in fields(Look)))
        if not self.fallen:
            self.good = Held(**{f.name: state["good"][f.name] for f in fields(Held)})
