"""Threat models as users write them: names and budgets of attacks.

A leaf without torch: benching a stored evaluation pack must understand "pgd-40" and "8/255" too.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from fractions import Fraction

from sepdeploy.errors import BadInput, unknown_name

ATTACK_NAMES = ("fgsm", "pgd")  # the keys of ``attacks.ATTACKS``
NORMS = ("linf", "l2")
DEFAULT_STEPS = 20
MAX_STEPS = 100_000
SINGLE_STEP = frozenset({"fgsm"})


@dataclass(frozen=True)
class AttackSpec:
    """An attack by name and number of steps; ``str`` gives what ``parse_attack`` accepts."""

    name: str
    steps: int

    def __str__(self) -> str:
        return self.name if self.name in SINGLE_STEP else f"{self.name}-{self.steps}"


def parse_attack(text: str) -> AttackSpec:
    """Parse "fgsm" or "pgd-40", in any case.

    Raises:
        BadInput: Unknown attack or an impossible number of steps.
    """
    name, _, steps = text.strip().lower().partition("-")
    if name not in ATTACK_NAMES:
        raise unknown_name("attack", text, ATTACK_NAMES, hint="for example: fgsm, pgd-40")
    if name in SINGLE_STEP:
        if steps not in ("", "1"):
            raise BadInput(f"attack '{text}': {name} has one step", hint="for more steps: pgd-10")
        return AttackSpec(name, 1)
    if not steps:
        return AttackSpec(name, DEFAULT_STEPS)
    if not re.fullmatch(r"[0-9]{1,6}", steps) or not 1 <= int(steps) <= MAX_STEPS:
        raise BadInput(
            f"attack '{text}': '{steps}' is not a number of steps", hint=f"for example: {name}-40"
        )
    return AttackSpec(name, int(steps))


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
