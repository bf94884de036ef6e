"""Which widths should a budget buy? The rule of `--target` beside others, trained shortly.

    SEPDEPLOY_DATA=DIR python -m experiments.plans [--only 100x] [--seeds 0,1] [--data mnist]

PGD-7 adversarial training (ε 0.1) on the first images of the training set, judged by PGD-40 on
2,000 of the last 10,000 training images (digits: on the last 400): no test image is looked at. The
nets of each budget are the plan of today, the plan of one width for all layers that it replaced,
and what else was tried.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time

import numpy as np
import torch

from experiments.trainings import recipe
from sepdeploy.data import Dataset, Split, load
from sepdeploy.models import Model, create
from sepdeploy.models.checkpoint import linear_specs
from sepdeploy.threat import Attack
from sepdeploy.training import Recipe
from sepdeploy.training.descent.steps import Moment, Stepper
from sepdeploy.training.judge import accuracies
from sepdeploy.training.machine.batches import epoch_order, take_parts
from sepdeploy.training.plan_widths import MACS_SHARE, MODES, Widths, plan_network
from sepdeploy.training.sources import Sources

BASE = {"arch": "mlp", "objective": "pgd-at", "eps": 0.1}
LEARNED, JUDGED = 10_000, 2_000
EPOCHS, HELD_OUT = {"mnist": 3, "digits": 40}, {"mnist": 10_000, "digits": 400}
TARGETS = ("30x", "100x", "200x", "340x")
PLANNED, PROPORTIONAL = "planned", "proportional"
# Structure and widths of what else was tried, for the sizes of MNIST.
OTHERS: dict[str, dict[str, tuple[str, Widths]]] = {
    "30x": {"hardly tapered": ("kron+sumbias", (72 * 72, 64 * 64))},
    "340x": {
        "factored classifier": ("*=kron+sumbias,head=kron*8+sumbias", (44 * 44, 20 * 20)),
    },
}


def main() -> int:
    """Print a line per net."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default=",".join(TARGETS))
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--data", default="mnist", choices=EPOCHS)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    data = load(asked.data)
    base = recipe(BASE, data=asked.data, epochs=EPOCHS[asked.data])
    for target in asked.only.split(","):
        nets = {PLANNED: ("", ()), PROPORTIONAL: ("kron", proportional(data, target))}
        for name, (structure, hidden) in (nets | OTHERS.get(target, {})).items():
            for seed in asked.seeds.split(","):
                budget = "" if hidden else target
                given = {"structure": structure, "hidden": hidden, "target": budget}
                wanted = dataclasses.replace(base, seed=int(seed), **given)
                print(f"| {target} | {name} | {seed} | {measured(wanted, data)} |", flush=True)
    return 0


def proportional(data: Dataset, target: str) -> Widths:
    """The plan of before: one width for all layers, a square, as large as the budget allows."""

    def cost(structure: str, hidden: Widths) -> tuple[int, int]:
        with torch.device("meta"):
            model = create("mlp", data.input, data.classes, structure, hidden=hidden)
        return model.params, sum(spec.macs for spec in linear_specs(model.net).values())

    params, macs = cost("dense", (1024, 1024))
    limit = params / float(target.removesuffix("x"))
    for side in reversed(MODES):
        found = cost("kron", (side * side, side * side))
        if found[0] <= limit and found[1] <= MACS_SHARE * macs:
            return (side * side, side * side)
    message = f"no net of one width reaches {target}"
    raise ValueError(message)


def measured(wanted: Recipe, data: Dataset) -> str:
    """Train one net; its widths, parameters, accuracies and seconds of processor."""
    held = np.arange(len(data.train) - HELD_OUT[wanted.data], len(data.train))
    judge = data.train.subset(held).take(JUDGED)
    learned = data.train.subset(np.arange(min(LEARNED, held[0])))
    plan = plan_network(wanted, data.input, data.classes)
    torch.manual_seed(wanted.seed)
    model = create(wanted.arch, data.input, data.classes, plan.structure, **plan.options)
    began = time.process_time()
    train(wanted, model, learned)
    spent = time.process_time() - began
    found = accuracies(model.eval(), judge, Attack("pgd-40", wanted.eps, wanted.norm))
    return (
        f"{'-'.join(map(str, plan.hidden))} | {model.params:,} | "
        f"{100 * found.clean:.2f} | {100 * (found.robust or 0):.2f} | {spent:.0f}"
    )


def train(wanted: Recipe, model: Model, learned: Split) -> None:
    """All epochs of a recipe on a part of the images; the last state counts."""
    sources = Sources(learned, learned)
    steps = -(-len(learned) // wanted.batch_size)
    stepper = Stepper(wanted, model, steps_per_epoch=steps)
    model.train()
    for epoch in range(wanted.epochs):
        order = epoch_order(wanted, epoch, len(learned))
        for step in range(steps):
            at = order[step * wanted.batch_size : (step + 1) * wanted.batch_size]
            parts = take_parts(wanted, sources.train, at, epoch)
            stepper.take(parts, Moment(epoch, step))


if __name__ == "__main__":
    sys.exit(main())
