"""What a training step minimises: one file an objective, and a row of ``OBJECTIVES``.

Each objective returns the mean loss of one batch. torch is imported with the first one that is
used: a recipe can be read without it.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn

    from sepdeploy.training.objectives.batch import Batch, Terms

    Loss = Callable[[nn.Module, Batch, Terms], Tensor]


@dataclass(frozen=True)
class Row:
    """One objective.

    Attributes:
        function: The loss, or "module:function" of it, imported when used.
        robust: Whether it trains on attacked images.
        settings: Keys of a recipe that have an effect with it alone (or with others of them).
        mixes: Key and value with which it mixes the images of a batch, which then cannot be
            divided; and what to do instead.
        watches: Key and value with which it looks at feature maps, which a compiled network does
            not show; and what to do instead.
        guarded: Whether it takes one attack step and is watched for catastrophic overfitting.
    """

    function: str | Loss
    robust: bool = True
    settings: tuple[str, ...] = ()
    mixes: tuple[str, str, str] | None = None
    watches: tuple[str, str, str] | None = None
    guarded: bool = False

    def __call__(self, model: nn.Module, batch: Batch, terms: Terms) -> Tensor:
        """Return the mean loss of one batch."""
        if not isinstance(self.function, str):
            return self.function(model, batch, terms)
        loss: Tensor = pkgutil.resolve_name(self.function)(model, batch, terms)
        return loss


HERE = "sepdeploy.training.objectives"
OBJECTIVES: dict[str, Row] = {
    "natural": Row(f"{HERE}.natural:natural", robust=False),
    "pgd-at": Row(f"{HERE}.pgd_at:pgd_at"),
    "trades": Row(f"{HERE}.trades:trades", settings=("trades_beta",)),
    "mart": Row(f"{HERE}.mart:mart", settings=("mart_beta",)),
    "fast-at": Row(f"{HERE}.fast_at:fast_at", guarded=True),
    "fr": Row(
        f"{HERE}.frequency:frequency",
        settings=("align_weight", "align_start", "align_axes"),
        mixes=("align_axes", "batch-class", 'align_axes = "class" (with align_weight about 1.1)'),
    ),
    "sar": Row(
        f"{HERE}.alignment:alignment",
        settings=("align_weight", "align_start", "align_on"),
        watches=("align_on", "features", 'leave compile out, or align_on = "logits"'),
    ),
}


@dataclass(frozen=True)
class Inner:
    """An inner attack: what it climbs, where it starts ("ball", "near", "image"), how it steps.

    A single step goes ``step`` times ε; None = the recipe's steps. A random start lies within
    ``noise`` times ε; where that is beyond the ball, the step is not cut to the ball either.
    """

    climbs: str
    start: str
    step: float | None = None
    noise: float = 1.0


INNER: dict[str, Inner] = {
    "ce": Inner("ce", "ball"),
    "kl": Inner("kl", "near"),
    "near": Inner("ce", "near"),
    "margin": Inner("margin", "ball"),
    "fgsm": Inner("ce", "image", 1.0),
    "rs-fgsm": Inner("ce", "ball", 1.25),
    "n-fgsm": Inner("ce", "ball", 1.0, noise=2.0),
}
"""PGD on the cross entropy, the divergence from the clean output, the cross entropy from a point
beside the image (as the released MART does), or the margin of Carlini and Wagner; FGSM, FGSM from
a random start (Wong et al., 2001.03994) and from stronger noise (de Jorge et al., 2202.01181), with
the constants of these papers."""
