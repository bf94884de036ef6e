"""What the keys of a recipe exclude; ranges, names and needs stand at the fields themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sepdeploy.errors import WIDTHS, BadInput
from sepdeploy.threat import check_radius
from sepdeploy.training.objectives import OBJECTIVES

if TYPE_CHECKING:
    from sepdeploy.training.recipe.fields import Recipe

# keys that count epochs -> what would never happen where they count all of them
STARTS = {
    "eps_warmup": "the attack never reaches its radius",
    "align_start": "the spectral term never sets in",
    "average_start": "no weights are averaged",
}


def check_starts(recipe: Recipe) -> None:
    """Check that what sets in after some epochs does so before the last one.

    Raises:
        BadInput: It does not.
    """
    for name, never in STARTS.items():
        if getattr(recipe, name) >= recipe.epochs:
            raise BadInput(
                f"recipe: {name} = {getattr(recipe, name)} of {recipe.epochs} epochs: {never}",
                hint=f"more epochs, or a smaller {name}",
            )


def check_together(recipe: Recipe) -> None:
    """Check what excludes each other.

    Raises:
        BadInput: The first thing that is wrong.
    """
    from sepdeploy.compression.request import parse_target, structure_map

    check_radius(recipe.eps, recipe.norm)
    parse_target(recipe.target)
    if recipe.structure:
        structure_map(recipe.structure)
    if any(width < 1 for width in recipe.hidden):
        raise BadInput(f"recipe: hidden widths {list(recipe.hidden)} must be positive", hint=WIDTHS)
    if not 0 <= recipe.rank_tolerance < 1:
        raise BadInput(
            f"recipe: rank_tolerance = {recipe.rank_tolerance} is not between 0 and 1",
            hint="0.01 to 0.1 is usual; 0 keeps the ranks as they are",
        )
    if recipe.rank_tolerance and recipe.rank_frozen >= recipe.epochs:
        raise BadInput(
            f"recipe: ranks are frozen in the last {recipe.rank_frozen} of {recipe.epochs} epochs, "
            "none is left in which they adapt",
            hint="more epochs, or a smaller rank_frozen",
        )
    if not 0 < recipe.validation < 1:
        raise BadInput(
            f"recipe: validation = {recipe.validation} is not between 0 and 1",
            hint="it is the share of training images held out; 0.1 is usual",
        )
    if recipe.prune:
        _check_pruning(recipe)
    _check_averages(recipe)
    _check_scale(recipe)


def _check_pruning(recipe: Recipe) -> None:
    done = recipe.prune_start + recipe.score_epochs
    if done >= recipe.epochs:
        raise BadInput(
            f"recipe: pruning ends after epoch {done} of {recipe.epochs}, "
            "none is left to fine-tune",
            hint="more epochs, or a smaller prune_start or prune_epochs",
        )
    if recipe.rank_tolerance:
        raise BadInput(
            "recipe: factors whose ranks adapt cannot be pruned",
            hint="leave prune out, or rank_tolerance",
        )
    if (recipe.ema or recipe.swa) and recipe.average_start < done:
        raise BadInput(
            f"recipe: averaging starts before the masks are fixed (epoch {done})",
            hint=f"average_start = {done}",
        )


def _check_averages(recipe: Recipe) -> None:
    if recipe.ema and recipe.swa:
        raise BadInput("recipe: ema and swa exclude each other", hint="choose one average")
    if recipe.rank_tolerance and (recipe.ema or recipe.swa):
        raise BadInput(
            "recipe: weights whose ranks adapt cannot be averaged",
            hint="leave ema and swa out, or rank_tolerance",
        )


def _check_scale(recipe: Recipe) -> None:
    if recipe.accumulate > recipe.batch_size:
        raise BadInput(
            f"recipe: accumulate = {recipe.accumulate} cuts batches of {recipe.batch_size} images "
            "into more parts than they have",
            hint="batch_size counts the images of a whole optimiser step",
        )
    if recipe.accumulate > 1:
        check_divisible(recipe, "accumulate")
    if recipe.compile and recipe.rank_tolerance:
        raise BadInput(
            "recipe: compile and rank_tolerance exclude each other: each new rank would be "
            "compiled anew",
            hint="leave compile out",
        )
    watches = OBJECTIVES[recipe.objective].watches
    if recipe.compile and watches and getattr(recipe, watches[0]) == watches[1]:
        raise BadInput("recipe: a compiled network shows no feature maps to align", hint=watches[2])


def check_divisible(recipe: Recipe, by: str) -> None:
    """Check that the loss of a batch is the mean over its parts.

    Args:
        recipe: What is trained.
        by: What divides its batches, in words.

    Raises:
        BadInput: The objective mixes the images of a batch.
    """
    mixes = OBJECTIVES[recipe.objective].mixes
    if mixes and getattr(recipe, mixes[0]) == mixes[1]:
        raise BadInput(
            f"{by}: {recipe.objective} with {mixes[0]} '{mixes[1]}' mixes the images of a batch, "
            "which cannot be divided",
            hint=mixes[2],
        )
