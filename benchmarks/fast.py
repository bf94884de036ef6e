"""What does an epoch of a shipped recipe cost, with one attack step and with all, and dense?

    SEPDEPLOY_DATA=DIR python -m benchmarks.fast [RECIPE] [--rounds 20]

Optimiser steps in turns in one process, one thread; lower quartiles of processor time. An epoch is
its steps with, for `fast-at`, the looks of the guard; validation, the same for all, stands apart.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from benchmarks.ratios import QUIET, take_turns
from sepdeploy.data import Dataset, load, split_validation
from sepdeploy.models import create
from sepdeploy.reports.tables import Table, markdown
from sepdeploy.training import Recipe, load_recipe
from sepdeploy.training.descent.steps import Moment, Stepper
from sepdeploy.training.guard import EVERY, Guard
from sepdeploy.training.judge import accuracies
from sepdeploy.training.machine.batches import epoch_order, take_parts
from sepdeploy.training.plan_widths import plan_network
from sepdeploy.training.sources import Sources, validation_attack

HIDDEN = (1024, 1024)  # of the dense net that the recipes are compared with


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe", nargs="?", default="mnist-100x")
    parser.add_argument("--rounds", type=int, default=20)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    recipe = load_recipe(asked.recipe)
    data = load(recipe.data)
    sources = Sources(*split_validation(data.train, recipe.validation, recipe.seed))
    steps = math.ceil(len(sources.train) / recipe.batch_size)
    choices = {
        recipe.objective: recipe,
        "fast-at": replace(recipe, objective="fast-at"),
        f"{recipe.objective}, dense": replace(recipe, structure="", hidden=HIDDEN),
    }
    steppers = {name: _stepper(choice, data, steps) for name, choice in choices.items()}
    runs: dict[str, Callable[[], object]] = {n: _step(s, sources) for n, s in steppers.items()}
    fast = steppers["fast-at"]
    guard = Guard(fast, sources.validation)
    runs["look"] = lambda: guard.look(Moment(0, 0))
    times = take_turns(runs, asked.rounds)
    attack = validation_attack(recipe)
    judged = take_turns({"": lambda: accuracies(fast.form, sources.validation, attack)}, 2)
    ms = {name: float(np.percentile(t, QUIET)) * 1e3 for name, t in times.items()}
    seconds = {name: steps * ms[name] / 1e3 for name in steppers}
    seconds["fast-at"] += math.ceil(steps / EVERY) * ms["look"] / 1e3
    table = Table(("training", "ms a step", "s an epoch", "times fast-at"), (1, 2, 3))
    for name, value in seconds.items():
        ratio = f"{value / seconds['fast-at']:.1f}"
        table.add(name, f"{ms[name]:.1f}", f"{value:.1f}", ratio)
    print("\n".join(markdown(table)))
    print(f"\na look of the guard: {ms['look']:.0f} ms; validation: {min(judged['']):.1f} s")


def _stepper(recipe: Recipe, data: Dataset, steps: int) -> Stepper:
    plan = plan_network(recipe, data.input, data.classes)
    torch.manual_seed(recipe.seed)
    model = create(recipe.arch, data.input, data.classes, structure=plan.structure, **plan.options)
    return Stepper(recipe, model, steps_per_epoch=steps)


def _step(stepper: Stepper, sources: Sources) -> Callable[[], object]:
    recipe = stepper.recipe
    index = epoch_order(recipe, 0, len(sources.train))[: recipe.batch_size]
    parts = take_parts(recipe, sources.train, index, 0)
    return lambda: stepper.take(parts, Moment(0, 0))


if __name__ == "__main__":
    main()
