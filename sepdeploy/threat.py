"""An adversarial attack as a record: how it is named, stored and compared, and its radius.

A leaf without torch: benching a stored evaluation pack must understand "pgd-40" and "8/255" too.
Which attacks there are is the table of ``sepdeploy.attacks``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from sepdeploy.errors import BadInput, unknown_name

NORMS = ("linf", "l2")


@dataclass(frozen=True)
class Attack:
    """One attack with everything that decides its result.

    Args:
        name: As users write it and files keep it: "fgsm", "pgd-40".
        eps: Radius, in units of pixels in [0, 1].
        norm: "linf" or "l2".
        restarts: Number of random starts; per sample the worst result is kept.
        seed: Of the random starts.
        step_size: None = ``default_step_size``.

    Raises:
        BadInput: One of them makes no sense.
    """

    name: str
    eps: float
    norm: str = "linf"
    restarts: int = 1
    seed: int = 0
    step_size: float | None = None

    def __post_init__(self) -> None:
        check_radius(self.eps)
        check_norm(self.norm)
        if self.restarts < 1 or self.steps < 1:
            raise BadInput(
                f"{self.steps} steps with {self.restarts} restarts is no attack",
                hint="both are at least 1",
            )
        if self.step_size is not None and self.eps and not 0 < self.step_size < math.inf:
            raise BadInput(f"step size {self.step_size:g} is not positive", hint="leave it out")

    def __str__(self) -> str:
        return f"{self.name} {self.norm} eps {self.eps:.4g}"

    @property
    def family(self) -> str:
        """The name without its number of steps: a key of ``attacks.ATTACKS``."""
        return self.name.partition("-")[0]

    @property
    def steps(self) -> int:
        """The number of steps that the name holds; 1 where it holds none."""
        return int(self.name.partition("-")[2] or 1)

    @property
    def step(self) -> float:
        """The step size that is used."""
        if self.step_size is None:
            return default_step_size(self.eps, self.steps)
        return self.step_size

    def details(self) -> dict[str, Any]:
        """Return the fields that stand beside an adversarial accuracy and in evaluation packs."""
        return {
            "attack": self.name,
            "eps": self.eps,
            "norm": self.norm,
            "steps": self.steps,
            "restarts": self.restarts,
            "seed": self.seed,
        }

    def made(self, stored: Mapping[str, Any] | None) -> bool:
        """Tell whether stored details are exactly those of this attack."""
        return stored is not None and all(stored.get(k) == v for k, v in self.details().items())


def parse_eps(text: str | float) -> float:
    """Parse a radius such as "8/255", "0.1" or 0.1 (pixels in [0, 1]).

    Raises:
        BadInput: Not a finite number >= 0.
    """
    try:
        value = float(Fraction(text.replace(" ", ""))) if isinstance(text, str) else float(text)
    except (TypeError, ValueError, ZeroDivisionError, OverflowError) as error:
        raise BadInput(
            f"eps '{text}' is not a number", hint="write it as 8/255 or 0.1 (pixels in [0, 1])"
        ) from error
    return check_radius(value)


def check_radius(eps: float) -> float:
    """Return ``eps`` if it can be the radius of a perturbation.

    Raises:
        BadInput: Negative, infinite or not a number.
    """
    if not (math.isfinite(eps) and eps >= 0):
        raise BadInput(
            f"eps {eps:g} is not a finite number >= 0",
            hint="write it as 8/255 or 0.1 (pixels in [0, 1])",
        )
    return eps


def check_norm(norm: str) -> str:
    """Return ``norm`` if it is known.

    Raises:
        BadInput: Unknown norm.
    """
    if norm not in NORMS:
        raise unknown_name("norm", norm, NORMS)
    return norm


def default_step_size(eps: float, steps: int) -> float:
    """Return the step size of a projected attack that was given none.

    2.5 ε/k, which lets k steps cross the ball, held between ε/10 and ε/4 (ε/4 for the usual
    training attacks of 7 to 10 steps, ε/10 from 25 steps on); with fewer than five steps
    1.25 ε/k, so that the border can still be reached from the middle.
    """
    return eps * max(1.25 / steps, min(2.5 / steps, 0.25), 0.1)
