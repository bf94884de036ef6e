"""What a recipe must hold before anything is loaded or trained."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sepdeploy.compression.masks import PRUNING_SCOPES
from sepdeploy.compression.request import parse_target, structure_map
from sepdeploy.errors import BadInput, unknown_name
from sepdeploy.threat import check_norm, parse_eps
from sepdeploy.training.augmentation import AUGMENTATIONS
from sepdeploy.training.descent.optimizers import OPTIMIZERS
from sepdeploy.training.descent.schedule import SCHEDULES
from sepdeploy.training.objectives import ALIGNED, FREQUENCY_AXES, INNER, OBJECTIVES
from sepdeploy.training.penalties.matrices import SCOPES
from sepdeploy.training.penalties.regularizers import TERMS

if TYPE_CHECKING:
    from sepdeploy.training.recipe_fields import Recipe

PRUNING = ("", "magnitude", "hydra")
ACCELERATORS = ("auto", "cpu", "cuda")
PRECISIONS = ("fp32", "bf16")


_RANGES: dict[str, tuple[float, float]] = {
    "steps": (1, 10_000),
    "step_size": (0, 1e6),
    "trades_beta": (0, 1e6),
    "mart_beta": (0, 1e6),
    "align_weight": (0, 1e6),
    "align_start": (0, 1_000_000),
    "eps_warmup": (0, 1_000_000),
    "ema": (0, 0.999999),
    "average_start": (0, 1_000_000),
    "patience": (0, 1_000_000),
    "epochs": (1, 1_000_000),
    "batch_size": (1, 1 << 20),
    "lr": (0, 1e6),
    "momentum": (0, 1),
    "weight_decay": (0, 1e6),
    **dict.fromkeys(TERMS, (0, 1e6)),
    "sparsity": (0, 0.999999),
    "prune_start": (0, 1_000_000),
    "prune_epochs": (1, 1_000_000),
    "rank_max": (0, 1 << 20),
    "rank_every": (2, 1_000_000),
    "rank_frozen": (0, 1_000_000),
    "conv_rank": (0, 1 << 20),
    "seed": (0, (1 << 63) - 1),
    "accumulate": (1, 1 << 20),
    "threads": (0, 1024),
}

ROBUST = tuple(name for name in OBJECTIVES if name != "natural")
# key -> keys that give it an effect, with the values that do; () = any but the default. Radius,
# norm and steps of the attack are free: a natural training hands them on to its fine-tuning.
NEEDS: dict[str, dict[str, tuple[str, ...]]] = {
    "inner": {"objective": ROBUST},
    "eps_warmup": {"objective": ROBUST},
    "trades_beta": {"objective": ("trades",)},
    "mart_beta": {"objective": ("mart",)},
    "align_weight": {"objective": ("fr", "sar")},
    "align_start": {"objective": ("fr", "sar")},
    "align_axes": {"objective": ("fr",)},
    "align_on": {"objective": ("sar",)},
    "momentum": {"optimizer": ("sgd",)},
    "rank_max": {"rank_tolerance": ()},
    "rank_every": {"rank_tolerance": ()},
    "rank_frozen": {"rank_tolerance": ()},
    "sparsity": {"prune": ()},
    "prune_scope": {"prune": ()},
    "prune_classifier": {"prune": ()},
    "prune_start": {"prune": ()},
    "prune_epochs": {"prune": ("hydra",)},
    "average_start": {"ema": (), "swa": ()},
    "regularize": dict.fromkeys(TERMS, ()),
}
# keys that count epochs -> what would never happen where they count all of them
STARTS = {
    "eps_warmup": "the attack never reaches its radius",
    "align_start": "the spectral term never sets in",
    "average_start": "no weights are averaged",
}


def check_nothing_ignored(recipe: Recipe) -> None:
    """Check that every key that differs from its default has an effect.

    Raises:
        BadInput: One has none, because another key is not set or has another value, or because it
            counts more epochs than there are.
    """
    plain = type(recipe)()

    def effective(other: str, values: tuple[str, ...]) -> bool:
        found = getattr(recipe, other)
        return found in values if values else found != getattr(plain, other)

    for name, needed in NEEDS.items():
        changed = getattr(recipe, name) != getattr(plain, name)
        if changed and not any(effective(other, values) for other, values in needed.items()):
            lacking = " and ".join(
                f"{other} is not" + " or".join(f' "{value}"' for value in values)
                for other, values in needed.items()
            )
            raise BadInput(
                f"recipe: {name} is set and {lacking}",
                hint=f"leave {name} out, or set {' or '.join(needed)}",
            )
    for name, never in STARTS.items():
        if getattr(recipe, name) >= recipe.epochs:
            raise BadInput(
                f"recipe: {name} = {getattr(recipe, name)} of {recipe.epochs} epochs: {never}",
                hint=f"more epochs, or a smaller {name}",
            )


def check_recipe(recipe: Recipe) -> None:
    """Check names, ranges and what excludes each other.

    Raises:
        BadInput: The first thing that is wrong.
    """
    _check_names(recipe)
    for name, (low, high) in _RANGES.items():
        value = getattr(recipe, name)
        if not low <= value <= high:  # also refuses NaN
            raise BadInput(f"recipe: {name} = {value} is outside {low:g} .. {high:g}")
    if any(width < 1 for width in recipe.hidden):
        raise BadInput(f"recipe: hidden widths {list(recipe.hidden)} must be positive")
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


def _check_names(recipe: Recipe) -> None:
    for name, table in (
        ("objective", OBJECTIVES),
        ("optimizer", OPTIMIZERS),
        ("schedule", SCHEDULES),
        ("regularize", SCOPES),
        ("inner", ("", *INNER)),
        ("augment", AUGMENTATIONS),
        ("prune", PRUNING),
        ("prune_scope", PRUNING_SCOPES),
        ("align_axes", FREQUENCY_AXES),
        ("align_on", ALIGNED),
        ("accelerator", ACCELERATORS),
        ("precision", PRECISIONS),
    ):
        if getattr(recipe, name) not in table:
            raise unknown_name(name, getattr(recipe, name), table)
    check_norm(recipe.norm)
    parse_eps(recipe.eps)
    parse_target(recipe.target)
    if recipe.structure:
        structure_map(recipe.structure)


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
    if recipe.compile and recipe.objective == "sar" and recipe.align_on == "features":
        raise BadInput(
            "recipe: a compiled network shows no feature maps to align",
            hint='leave compile out, or align_on = "logits"',
        )


def check_divisible(recipe: Recipe, by: str) -> None:
    """Check that the loss of a batch is the mean over its parts.

    Args:
        recipe: What is trained.
        by: What divides its batches, in words.

    Raises:
        BadInput: The objective mixes the images of a batch.
    """
    if recipe.objective == "fr" and recipe.align_axes == "batch-class":
        raise BadInput(
            f"{by}: frequency regularisation over 'batch-class' mixes the images of a batch, "
            "which cannot be divided",
            hint='align_axes = "class" (with align_weight about 1.1)',
        )
