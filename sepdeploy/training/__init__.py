"""Robust training of separable networks, reproducible to the bit and resumable at any moment.

The names below are loaded on first use: a recipe can be read, and its keys listed, without torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sepdeploy.training.beside import checkpoint_path, history_path
    from sepdeploy.training.checkpoint import Checkpoint
    from sepdeploy.training.events import Event
    from sepdeploy.training.finishing import TrainResult
    from sepdeploy.training.fitting import fit, new_model
    from sepdeploy.training.machine.team import is_first_process, joined
    from sepdeploy.training.recipe.fields import Recipe
    from sepdeploy.training.recipe.reading import load_recipe

_HOMES = {
    "Checkpoint": "checkpoint",
    "Event": "events",
    "Recipe": "recipe.fields",
    "TrainResult": "finishing",
    "checkpoint_path": "beside",
    "fit": "fitting",
    "history_path": "beside",
    "is_first_process": "machine.team",
    "joined": "machine.team",
    "load_recipe": "recipe.reading",
    "new_model": "fitting",
}

__all__ = [
    "Checkpoint",
    "Event",
    "Recipe",
    "TrainResult",
    "checkpoint_path",
    "fit",
    "history_path",
    "is_first_process",
    "joined",
    "load_recipe",
    "new_model",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    message = f"module '{__name__}' has no attribute '{name}'"
    raise AttributeError(message)
