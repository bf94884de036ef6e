"""An adversarial attack as a record: how it is named, stored and compared, and its radius.

A leaf without torch: benching a stored evaluation pack must understand "pgd-40" and "8/255" too.
Which attacks there are is the table ``ATTACKS``; what they do is in ``sepdeploy.attacks``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

from sepdeploy.errors import BadInput, unknown_name

NORMS = ("linf", "l2")
MAX_STEPS = 100_000
# Of what the attacks do: images that another revision made are not the same attack's. 2: they
# climb a loss that the scale of logits does not change.
REVISION = 2
MOST_BLIND = 0.01  # share of images without a usable gradient
UNITS = "write it as 8/255 or 0.1 (pixels in [0, 1])"
MEANT = f"did you mean 8/255? {UNITS}"


@dataclass(frozen=True)
class Attack:
    """One attack with everything that decides its result.

    Args:
        name: As users write it and files keep it: "fgsm", "pgd-40", "pgd-20x5", "square@1000".
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
        check_norm(self.norm)
        check_radius(self.eps, self.norm)
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
        """The name without its numbers: a key of ``ATTACKS``."""
        return _parts(self.name)[0]

    @property
    def steps(self) -> int:
        """The number of steps or queries that the name holds; 1 where it holds none."""
        return int(_parts(self.name)[1] or 1)

    @property
    def step(self) -> float:
        """The step size that is used."""
        if self.step_size is None:
            return default_step_size(self.eps, self.steps)
        return self.step_size

    @property
    def through(self) -> Attack:
        """The attack that is made through a file in place of this one."""
        row = ATTACKS[self.family]
        if not row.through:
            return self
        return replace(self, name=row.through + self.name.removeprefix(self.family))

    def details(self) -> dict[str, Any]:
        """Return the fields that stand beside an adversarial accuracy and in evaluation packs."""
        return {
            "attack": self.name,
            "eps": self.eps,
            "norm": self.norm,
            "steps": self.steps,
            "restarts": self.restarts,
            "seed": self.seed,
            "revision": REVISION,
        }

    def made(self, stored: Mapping[str, Any] | None) -> bool:
        """Tell whether stored details are exactly those of this attack."""
        return stored is not None and all(stored.get(k) == v for k, v in self.details().items())


@dataclass(frozen=True)
class Row:
    """One attack: how it is written, what makes its images, and what it can do.

    Args:
        example: How users write it; with a number of steps where it takes one.
        function: "module:function" of (model, images, labels, ids, attack) that returns
            ``attacks.gradient.Made``; imported when used. "" for an ensemble.
        steps: Where none are written; 0 = the attack has no number of steps.
        norms: That it supports.
        gradients: Whether it needs those of the model.
        on_file: Whether logits are enough for it: it is made on the file itself, where that runs.
        through: The attack of the same numbers that is made through a file, by its answers forward
            and its twin's gradient backward; "" = this one.
        members: Of an ensemble: each attacks what those before it left standing.
        passes: Forward passes of the network that a step takes, about (a gradient takes two more):
            what an estimate of time goes by.
    """

    example: str
    function: str = ""
    steps: int = 0
    norms: tuple[str, ...] = NORMS
    gradients: bool = True
    on_file: bool = False
    through: str = ""
    members: tuple[str, ...] = ()
    passes: int = 3


_ROOM = "sepdeploy.attacks."
ATTACKS: dict[str, Row] = {
    "fgsm": Row("fgsm", _ROOM + "gradient:fgsm"),
    "pgd": Row("pgd-40", _ROOM + "gradient:pgd", steps=20, through="pgd-margin"),
    "pgd-margin": Row("pgd-margin-40", _ROOM + "projected:MARGIN", steps=20),
    "pgd-dlr": Row("pgd-dlr-40", _ROOM + "projected:DLR", steps=20),
    "pgd-t": Row("pgd-t-40", _ROOM + "projected:TARGETED", steps=20, passes=27),
    "jitter": Row("jitter-40", _ROOM + "projected:JITTER", steps=20),
    "apgd-ce": Row("apgd-ce", _ROOM + "apgd:CE", steps=100),
    "apgd-dlr": Row("apgd-dlr", _ROOM + "apgd:DLR", steps=100),
    "apgd-t": Row("apgd-t", _ROOM + "apgd:TARGETED", steps=100, passes=27),
    "fab-t": Row("fab-t", _ROOM + "fab:TARGETED", steps=100, passes=36),
    "cw": Row("cw", _ROOM + "carlini_wagner:L2", steps=1000, norms=("l2",)),
    "square": Row(
        "square@1000",
        _ROOM + "square:SQUARE",
        steps=5000,
        gradients=False,
        on_file=True,
        passes=1,
    ),
    "aa-fast": Row("aa-fast", members=("apgd-ce-100", "apgd-t-100")),
    "aa-standard": Row(
        "aa-standard", members=("apgd-ce-100", "apgd-t-100", "fab-t-100", "square@5000")
    ),
}
# NAME, NAME-STEPS, NAME-STEPSxRESTARTS or NAME@QUERIES
_NAME = re.compile(r"(?P<family>[^@]*?)(?:[-@](?P<steps>[0-9]+)(?:x(?P<restarts>[0-9]+))?)?")


def _parts(name: str) -> tuple[str, str, str]:
    found = _NAME.fullmatch(name)
    if found is None:
        return name, "", ""
    return found["family"], found["steps"] or "", found["restarts"] or ""


def examples() -> str:
    """Return how users write the known attacks: "fgsm, pgd-40"."""
    return ", ".join(row.example for row in ATTACKS.values())


def parse_attack(text: str, eps: float = 0.0, norm: str = "linf", *, seed: int = 0) -> Attack:
    """Read "fgsm", "pgd-40", "pgd-20x5" or "square@1000", in any case.

    Without a radius it is a name for ``attacks.run``.

    Raises:
        BadInput: Unknown attack, an impossible number of steps, or a norm it does not support.
    """
    asked = text.strip().lower()
    name, steps, restarts = _parts(asked)
    row = ATTACKS.get(name)
    if row is None:
        near = [key for key in ATTACKS if asked.startswith((key + "-", key + "@"))]
        if not near:
            raise unknown_name("attack", text, ATTACKS, hint=f"for example: {examples()}")
        family = max(near, key=len)
        raise BadInput(
            f"attack '{text}': '{asked[len(family) + 1 :]}' is not a number of steps",
            hint=f"for example: {ATTACKS[family].example}",
        )
    if not row.steps and (steps not in ("", "1") or restarts):
        what = "is made of others" if row.members else "has one step"
        raise BadInput(f"attack '{text}': {name} {what}", hint="for more steps: pgd-10")
    counted = steps or str(row.steps)
    if row.steps and not (len(counted) <= 6 and 1 <= int(counted) <= MAX_STEPS):
        raise BadInput(
            f"attack '{text}': '{counted}' is not a number of steps",
            hint=f"for example: {row.example}",
        )
    if restarts and not (len(restarts) <= 3 and int(restarts) >= 1):
        raise BadInput(
            f"attack '{text}': '{restarts}' is not a number of restarts",
            hint=f"for example: {name}-{counted}x5",
        )
    if norm not in row.norms:
        only = ", ".join(row.norms)
        raise BadInput(f"attack '{text}' knows {only}, not {norm}", hint=f"--norm {row.norms[0]}")
    joint = "@" if "@" in row.example else "-"
    full = f"{name}{joint}{int(counted)}" if row.steps else name
    full += f"x{int(restarts)}" if restarts and int(restarts) > 1 else ""
    return Attack(full, eps, norm, restarts=int(restarts or 1), seed=seed)


def no_gradient_note(blind: int, images: int) -> str:
    """Return what a reader must know where gradients failed, "" where they did not."""
    note = f"{blind} of {images} images have a zero or infinite gradient and were searched without"
    return note if blind else ""


def gradients_failed(blind: int, images: int) -> bool:
    """Tell whether so many images had no usable gradient that an accuracy is not to be relied on.

    A search takes their place; of a few images it decides no accuracy.
    """
    return blind > MOST_BLIND * images


def parse_eps(text: str | float) -> float:
    """Parse a radius such as "8/255", "0.1" or 0.1 (pixels in [0, 1]).

    Raises:
        BadInput: Not a finite number >= 0.
    """
    try:
        value = float(Fraction(text.replace(" ", ""))) if isinstance(text, str) else float(text)
    except (TypeError, ValueError, ZeroDivisionError, OverflowError) as error:
        raise BadInput(f"eps '{text}' is not a number", hint=MEANT) from error
    return check_radius(value)


def check_radius(eps: float, norm: str = "") -> float:
    """Return ``eps`` if it can be the radius of a perturbation.

    Args:
        eps: In units of pixels in [0, 1].
        norm: Where it is known: beyond 1 an L∞ radius has no meaning.

    Raises:
        BadInput: Negative, infinite, not a number, or beyond the range of a pixel.
    """
    if not (math.isfinite(eps) and eps >= 0):
        raise BadInput(
            f"eps {eps:g} is not a finite number >= 0",
            hint=MEANT,
        )
    if norm == "linf" and eps > 1:
        meant = f"{eps:g}/255" if eps <= 255 and float(eps).is_integer() else "8/255"
        raise BadInput(
            f"eps {eps:g} is more than the whole range of a pixel, which is 1",
            hint=f"did you mean {meant}? {UNITS}",
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
