"""Robust training of separable networks, reproducible to the bit and resumable at any moment."""

from __future__ import annotations

from sepdeploy.training.checkpoint import Checkpoint, checkpoint_path, history_path
from sepdeploy.training.descent.optimizers import OPTIMIZERS
from sepdeploy.training.descent.schedule import SCHEDULES
from sepdeploy.training.events import Event
from sepdeploy.training.finishing import TrainResult
from sepdeploy.training.fitting import fit
from sepdeploy.training.machine.team import is_first_process, joined
from sepdeploy.training.objectives import OBJECTIVES
from sepdeploy.training.recipe import load_recipe
from sepdeploy.training.recipe_fields import Recipe

__all__ = [
    "OBJECTIVES",
    "OPTIMIZERS",
    "SCHEDULES",
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
]
