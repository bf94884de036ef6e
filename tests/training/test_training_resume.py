"""Interrupted trainings: killed, stopped, resumed to the same bits, or refused."""

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from compared_trainings import same_bits, state
from torch import nn

from sepdeploy.errors import BadInput
from sepdeploy.models import load, read_tensor_file, wrap, write_tensor_file
from sepdeploy.training import checkpoint_path, fit, history_path, load_recipe
from sepdeploy.training.checkpoint import read_checkpoint, read_history
from sepdeploy.training.descent import steps
from sepdeploy.training.machine.threads import cpu_threads
from sepdeploy.training.objectives import Row

CHILD = Path(__file__).with_name("killed_training.py")
RECIPE = {
    "hidden": "64,36", "epochs": 3, "batch_size": 128, "steps": 2, "threads": 1, "seed": 11,
    "lr": 0.02,
}  # fmt: skip


def child(recipe, out, *, resume=False, every=1e9, kill_at=None):
    job = {"recipe": recipe, "out": str(out), "resume": resume, "every": every, "kill_at": kill_at}
    return subprocess.Popen([sys.executable, str(CHILD), json.dumps(job)], stdout=subprocess.PIPE)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("choices", "every", "left"),
    [
        pytest.param(
            {"structure": "kron", "objective": "trades", "optimizer": "sgd"},
            1e9,
            (1, 0),
        ),
        pytest.param(
            {"structure": "kron", "objective": "fast-at", "inner": "fgsm"},
            0.0,
            (1, 4),
        ),
        ({"structure": "kron", "condition": 0.01, "l1": 0.1, "norm": "l2"}, 0.0, (1, 4)),
    ],
)
def test_killed_in_the_middle_of_an_epoch(tmp_path, choices, every, left):
    recipe = RECIPE | choices
    out = tmp_path / "killed.pt"
    victim = child(recipe, out, every=every, kill_at=[2, 5])
    assert victim.wait(timeout=120) == -signal.SIGKILL
    victim.stdout.close()
    assert not out.exists()
    found = read_checkpoint(checkpoint_path(out))
    assert (found.epoch, found.step) == left
    events = []
    resumed = fit(load_recipe(None, recipe), out=out, resume=True, on_progress=events.append)
    where = f"resuming in epoch {left[0] + 1}, step {left[1] + 1}"
    assert where in [e.message for e in events]
    whole = fit(load_recipe(None, recipe), out=tmp_path / "whole.pt")
    assert same_bits(state(resumed.model), state(whole.model))
    assert resumed.history == whole.history == read_history(history_path(out))
    assert same_bits(state(load(out)), state(load(tmp_path / "whole.pt")))
    assert resumed.model.provenance == whole.model.provenance
    assert not checkpoint_path(out).exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "killed.history.jsonl", "killed.pt", "whole.history.jsonl", "whole.pt",
    ]  # fmt: skip


@pytest.mark.slow
def test_killed_at_any_moment_again_and_again(tmp_path):
    recipe = RECIPE | {"structure": "kron", "epochs": 12}
    whole = fit(load_recipe(None, recipe), out=tmp_path / "whole.pt")
    out = tmp_path / "killed.pt"
    patience, kills = random.Random(5), 0
    while not out.exists():
        victim = child(recipe, out, resume=True, every=0.02)
        victim.stdout.readline()  # it trains, or has ended
        time.sleep(patience.uniform(0, 0.4))
        if victim.poll() is None and kills < 6:
            victim.kill()
            kills += 1
        victim.communicate()
    assert kills
    assert same_bits(state(load(out)), state(whole.model))
    assert read_history(history_path(out)) == whole.history


@pytest.mark.slow
@pytest.mark.parametrize("moment", [(1, 1), (2, 3), (3, 6)])
def test_interrupted_by_hand(resumed_and_whole, moment):
    resumed_and_whole(moment)


@pytest.mark.slow
def test_interrupted_between_the_last_epoch_and_the_report(train, monkeypatch):
    def stop(event):
        if event.kind == "epoch" and event.epoch == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train("stopped", watch=stop)
    resumed = train("stopped", resume=True)
    assert "resuming after the last epoch" in [e.message for e in train.events]
    assert same_bits(state(resumed.model), state(train("whole").model))


def dropout_model(seed=0):
    torch.manual_seed(seed)
    net = nn.Sequential(
        nn.Flatten(), nn.Linear(64, 40), nn.BatchNorm1d(40), nn.ReLU(), nn.Dropout(0.3),
        nn.Linear(40, 10),
    )  # fmt: skip
    return wrap(net, (1, 8, 8))


def test_dropout_and_batch_statistics_resume_too(resumed_and_whole):
    resumed_and_whole((2, 3), make_model=dropout_model)


def test_other_starting_weights_are_refused(train):
    train_partly(train, model=dropout_model())
    with pytest.raises(BadInput, match="the weights it starts from"):
        train("stopped", resume=True, model=dropout_model(seed=1))


def train_partly(train, **changes):
    def interrupt(event):
        if event.kind == "epoch":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train("stopped", watch=interrupt, **changes)


def test_another_recipe_is_refused_with_the_difference(train):
    train_partly(train)
    with pytest.raises(BadInput) as error:
        train("stopped", resume=True, lr=0.5, epochs=4)
    assert "epochs: 3 -> 4; lr: 0.02 -> 0.5" in error.value.message
    assert "\n" not in error.value.message
    train("stopped", resume=True)  # the refusal cost nothing


def test_other_data_is_refused(train, small_digits):
    train_partly(train)
    small_digits.train.images[0, 0, 0, 0] ^= 1
    with pytest.raises(BadInput, match="images or labels"):
        train("stopped", resume=True)


def test_the_stored_number_of_threads_is_used_again(train):
    train_partly(train)
    seen = []
    train("stopped", resume=True, threads=2, watch=lambda e: seen.append(torch.get_num_threads()))
    assert set(seen[1:]) == {1}
    assert load(train.folder / "stopped.pt").provenance["threads"] == 1


@pytest.mark.slow
def test_the_threads_of_the_environment_do_not_matter(train):
    with cpu_threads(1):
        train_partly(train)
    with cpu_threads(2):
        resumed = train("stopped", resume=True)
        whole = train("whole")
    assert "resuming in epoch 2, step 1" in [e.message for e in train.events]
    assert same_bits(state(resumed.model), state(whole.model))


def test_resuming_nothing_starts(train):
    assert train("fresh", resume=True).best_epoch >= 1


def test_resuming_a_finished_training_loads_it(train):
    first = train("done")
    before = (train.folder / "done.pt").stat().st_mtime_ns
    again = train("done", resume=True)
    assert (train.folder / "done.pt").stat().st_mtime_ns == before
    assert same_bits(state(first.model), state(again.model))
    assert (again.history, again.best_epoch) == (first.history, first.best_epoch)
    with pytest.raises(BadInput, match=r"finished result of another training; changed: seed: 11"):
        train("done", resume=True, seed=12)


def test_resuming_a_model_that_was_not_trained_here(train):
    from sepdeploy.models import create, save
    from sepdeploy.records import InputSpec

    save(create("mlp", InputSpec((1, 8, 8)), 10), train.folder / "foreign.pt")
    with pytest.raises(BadInput, match="no training of it to resume"):
        train("foreign", resume=True)


@pytest.mark.parametrize("damage", ["cut", "garbage", "other", "field", "shape"])
def test_damaged_checkpoints(train, damage):
    train_partly(train)
    path = checkpoint_path(train.folder / "stopped.pt")
    data = read_tensor_file(path)
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-100])
    elif damage == "garbage":
        path.write_bytes(b"garbage")
    elif damage == "other":
        write_tensor_file({"format": "something"}, path)
    elif damage == "field":
        write_tensor_file(data | {"order": [1, 2]}, path)
    else:
        data["model"] = {k: v[:1] for k, v in data["model"].items()}
        write_tensor_file(data, path)
    with pytest.raises(BadInput, match=r"stopped\.training\.pt") as error:
        train("stopped", resume=True)
    assert "\n" not in error.value.message


def test_a_pickle_that_runs_code_is_refused(train):
    class Bomb:
        def __reduce__(self):
            return (Path.touch, (train.folder / "ran",))

    torch.save({"format": "sepdeploy.training", "x": Bomb()}, train.folder / "m.training.pt")
    with pytest.raises(BadInput):
        train("m", resume=True)
    assert not (train.folder / "ran").exists()


@pytest.mark.parametrize("kind", ["loss", "penalty"])
def test_divergence_keeps_the_last_good_state(train, monkeypatch, kind):
    calls = []
    if kind == "loss":
        objective = steps.OBJECTIVES["pgd-at"]

        def sometimes_nan(model, batch, attack):
            calls.append(1)
            factor = float("nan") if len(calls) == 9 else 1.0
            return objective(model, batch, attack) * factor

        monkeypatch.setitem(steps.OBJECTIVES, "pgd-at", Row(sometimes_nan))
    else:

        def infinite(matrices, coefficients):
            calls.append(1)
            return torch.tensor(float("inf")) if len(calls) == 9 else None

        monkeypatch.setattr(steps, "penalty", infinite)
    with pytest.raises(BadInput) as error:
        train("diverged", every=0)
    assert "epoch 2, step 3 of 6" in error.value.message
    assert "diverged.training.pt keeps the last good state" in error.value.message
    assert not (train.folder / "diverged.pt").exists()
    kept = read_checkpoint(checkpoint_path(train.folder / "diverged.pt"))
    assert (kept.epoch, kept.step) == (1, 2)
    assert all(torch.isfinite(t).all() for t in kept.model.values())
    assert kept.best_epoch == 1


def test_a_gradient_without_a_value_never_reaches_the_weights(train, monkeypatch):
    """The last step of an epoch: no later loss would tell before the epoch is judged and kept."""
    objective, calls = steps.OBJECTIVES["pgd-at"], []

    def sometimes_rootless(model, batch, attack):
        calls.append(1)
        loss = objective(model, batch, attack)
        if len(calls) < 12:
            return loss
        zero = sum((0 * p).square().sum() for p in model.parameters())
        return loss + zero.sqrt()  # finite, but its gradient is 0/0

    monkeypatch.setitem(steps.OBJECTIVES, "pgd-at", Row(sometimes_rootless))
    with pytest.raises(BadInput, match=r"gradient of the loss became .* epoch 2, step 6 of 6"):
        train("diverged", every=0)
    kept = read_checkpoint(checkpoint_path(train.folder / "diverged.pt"))
    assert (kept.epoch, kept.step, kept.best_epoch) == (1, 5, 1)
    assert all(torch.isfinite(t).all() for t in kept.model.values())


@pytest.mark.parametrize("structure", ["dense", "lowrank:8"])
def test_weights_that_overflow_are_not_kept(train, structure, monkeypatch):
    objective = steps.OBJECTIVES["pgd-at"]
    monkeypatch.setitem(steps.OBJECTIVES, "pgd-at", Row(lambda *given: objective(*given) * 1e36))
    adaptive = {} if structure == "dense" else {"rank_tolerance": 0.1}
    with pytest.raises(BadInput, match="the weights became infinite or nan in epoch 1, step 1"):
        train(
            "burst", optimizer="sgd", lr=1e6, schedule="constant", epochs=2,
            structure=structure, **adaptive,
        )  # fmt: skip
    kept = read_checkpoint(checkpoint_path(train.folder / "burst.pt"))
    assert (kept.epoch, kept.step) == (0, 0)


def test_divergence_for_real(train):
    with pytest.raises(BadInput, match="the loss became") as error:
        train("diverged", optimizer="sgd", lr=1e6, schedule="constant", epochs=40)
    assert "lr" in error.value.hint


def test_a_state_file_that_cannot_be_written(train):
    checkpoint_path(train.folder / "model.pt").mkdir()
    with pytest.raises(BadInput, match="is a folder, not a file"):
        train()
    assert not (train.folder / "model.pt").exists()


def test_an_output_folder_that_is_a_file(train):
    (train.folder / "file").write_text("x")
    with pytest.raises(BadInput):
        train("file/model")
