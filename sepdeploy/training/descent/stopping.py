"""When a training ends, as a pure function of what is known so far."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sepdeploy.training.judge import score
from sepdeploy.training.recipe.fields import Recipe


def planned_epochs(recipe: Recipe, history: Sequence[Mapping[str, Any]]) -> int:
    """Return after how many epochs a training ends, by its recipe and its history.

    Once validation has not improved for ``patience`` epochs it ends, except that adaptive ranks
    still get their finish: ``rank_frozen`` epochs in which ranks stay and all factors train. As
    good as the best is no improvement here, though it is the later of two such that is kept.
    """
    stale = _stale_after(recipe, history)
    if not stale:
        return recipe.epochs
    finish = recipe.rank_frozen if recipe.rank_tolerance else 0
    return min(recipe.epochs, stale + finish)


def ranks_frozen(recipe: Recipe, history: Sequence[Mapping[str, Any]], epoch: int) -> bool:
    """Return whether an epoch (from 0) belongs to the finish with frozen ranks."""
    return epoch >= planned_epochs(recipe, history) - recipe.rank_frozen


def may_be_kept(recipe: Recipe, epoch: int) -> bool:
    """Return whether the weights of an epoch (from 0) may become the result: masks are fixed."""
    return not recipe.prune or epoch >= recipe.prune_start + recipe.score_epochs


def _stale_after(recipe: Recipe, history: Sequence[Mapping[str, Any]]) -> int:
    """The first epoch with which patience ran out, 0 = it did not."""
    best, reached = 0, (-1.0, -1.0)
    for epoch, entry in enumerate(history, start=1):
        if may_be_kept(recipe, epoch - 1) and score(entry) > reached:
            best, reached = epoch, score(entry)
        if recipe.patience and best and epoch - best >= recipe.patience:
            return epoch
    return 0
