"""Trainings by two processes, run under torchrun by the tests; arguments: folder, data folder.

Every process writes what it saw to ``rank<N>.json`` in the folder.
"""

import dataclasses
import gc
import json
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

from sepdeploy.errors import SepdeployError
from sepdeploy.layers import LowRankLinear
from sepdeploy.models import create, wrap
from sepdeploy.records import InputSpec
from sepdeploy.threat import Attack
from sepdeploy.training import fit, fitting, load_recipe
from sepdeploy.training.checkpoint import read_checkpoint, state_sha256
from sepdeploy.training.descent import steps
from sepdeploy.training.machine.team import bare, joined, without_exchange
from sepdeploy.training.objectives import OBJECTIVES, Row
from sepdeploy.training.objectives.batch import Batch, Terms
from sepdeploy.training.objectives.inner import adversarial
from sepdeploy.training.ranks import windows as rank_windows

FOLDER = Path(sys.argv[1])
JOBS = json.loads((FOLDER / "jobs.json").read_text())
RANK = int(os.environ["RANK"])


def batch_norm_model():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Flatten(), nn.Linear(64, 40), nn.BatchNorm1d(40), nn.ReLU(), nn.Dropout(0.3),
        nn.Linear(40, 10),
    )  # fmt: skip
    return wrap(net, (1, 8, 8))


class Stopped(Exception):
    """The training is interrupted in both processes."""


def stop_at(count):
    """Let the next training stop before its step ``count``."""
    plain, calls = steps.Stepper.take, []

    def take(self, parts, at):
        calls.append(1)
        if len(calls) == count:
            steps.Stepper.take = plain
            raise Stopped
        return plain(self, parts, at)

    steps.Stepper.take = take


def break_loss(rank, count):
    """Let one process's loss be NaN at its call ``count``."""
    plain, calls = OBJECTIVES["natural"], []

    def broken(model, batch, attack):
        calls.append(1)
        loss = plain(model, batch, attack)
        return loss * float("nan") if (RANK, len(calls)) == (rank, count) else loss

    OBJECTIVES["natural"] = Row(broken, robust=False)
    return lambda: OBJECTIVES.update(natural=plain)


def differ():
    """Let this process start with other weights, and everything that turns bases do it otherwise.

    Its truncations lose more than they may, and its augmentations find less.
    """
    plain = {name: vars(rank_windows)[name] for name in ("truncate", "augment", "orthonormalize")}
    place = steps.place

    def moved(model, *where):
        place(model, *where)
        with torch.no_grad():
            for weight in model.net.parameters():
                weight.mul_(1.001)

    def harder(layer, tolerance, **options):
        plain["truncate"](layer, 4 * tolerance, **options)

    def turned(layer):
        plain["orthonormalize"](layer)
        if isinstance(layer, LowRankLinear):
            layer.set_factors(-layer.U.data, layer.S.data, -layer.V.data)

    steps.place = moved
    rank_windows.truncate = harder
    rank_windows.augment = lambda *them, energy: plain["augment"](*them, energy=0.3)
    rank_windows.orthonormalize = turned

    def restore():
        steps.place = place
        vars(rank_windows).update(plain)

    return restore


def run(job):
    out = FOLDER / f"{job['name']}.pt"
    events = []
    restore = break_loss(*job["break"]) if "break" in job else None
    if job.get("differs") == RANK:
        restore = differ()
    if "stop" in job:
        stop_at(job["stop"])
    recipe = job["recipe"] | (job.get("rank1", {}) if RANK else {})
    model = batch_norm_model() if job.get("batch_norm") else None
    try:
        result = fit(
            load_recipe(None, recipe),
            out=out,
            resume=job.get("resume", False),
            on_progress=lambda event: events.append(str(event)),
            model=model,
            checkpoint_every_s=0.0 if "stop" in job or "break" in job else 1e9,
        )
    except Stopped:
        found = {"stopped": True}
    except SepdeployError as error:
        found = {"error": error.message, "kind": type(error).__name__, "code": error.exit_code}
    else:
        assert "stop" not in job, "it was to stop before its end"
        found = {
            "sha256": state_sha256(result.model.net.state_dict()),
            "history": result.history,
            "processes": result.model.provenance["processes"],
        }
    if restore is not None:
        restore()
    return found | {"events": len(events)}


def exchanges():
    """Count the exchanges of gradients of an attack, of a part, and of a step."""
    counts, calls = {}, []

    def hook(state, bucket):
        calls.append(1)
        future = torch.futures.Future()
        future.set_result(bucket.buffer())
        return future

    with joined() as team:
        model = create("mlp", InputSpec((1, 8, 8)), 10, structure="kron", hidden=(64, 36))
        network = team.wrap(model, torch.device("cpu"))
        network.register_comm_hook(None, hook)
        batch = Batch(torch.rand(8, 1, 8, 8), torch.arange(8), torch.arange(8))
        attack = Terms(Attack("pgd-4", 0.1, seed=0, step_size=0.03))
        adversarial(network, batch, attack)
        counts["attack"] = len(calls)
        counts["gradients"] = sum(p.grad is not None for p in model.parameters())
        with without_exchange(network):
            OBJECTIVES["trades"](network, batch, attack).backward()
        counts["part"] = len(calls)
        OBJECTIVES["trades"](network, batch, attack).backward()
        counts["step"] = len(calls)
        counts["bare"] = bare(network) is model
    return counts


def main():
    digits = fitting.load("digits")
    short = dataclasses.replace(digits, test=digits.test.take(40))
    fitting.load = lambda name, folder: short
    found = {job["name"]: run(job) for job in JOBS}
    found["exchanges"] = exchanges()
    found["threads"] = torch.get_num_threads()
    if RANK == 0:
        kept = read_checkpoint(FOLDER / "nan.training.pt")
        found["kept"] = [kept.epoch, kept.step]
    (FOLDER / f"rank{RANK}.json").write_text(json.dumps(found))
    dist.barrier()
    gc.collect()
    dist.destroy_process_group()  # after a failure that is caught, leaving is up to us


if __name__ == "__main__":
    main()
