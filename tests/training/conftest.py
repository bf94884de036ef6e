import dataclasses

import pytest
import torch
from compared_trainings import same_bits, state, stop_in

from sepdeploy.training import fit, fitting, load_recipe

FAST = {
    "structure": "kron",
    "hidden": "64,36",
    "epochs": 3,
    "batch_size": 256,
    "steps": 2,
    "threads": 1,
    "seed": 11,
    "lr": 0.02,
}


@pytest.fixture
def small_digits(monkeypatch):
    """The digits with a short test split, so that the final report costs nothing."""
    digits = fitting.load("digits")
    short = dataclasses.replace(digits, test=digits.test.take(40))
    monkeypatch.setattr(fitting, "load", lambda name, folder: short)
    return short


@pytest.fixture
def train(tmp_path, small_digits):
    """fit() on a fast recipe with changes; events end up in ``train.events``."""

    def run(name="model", *, resume=False, watch=None, model=None, every=1e9, **changes):
        def on_progress(event):
            run.events.append(event)
            if watch is not None:
                watch(event)

        return fit(
            load_recipe(None, FAST | changes),
            out=tmp_path / f"{name}.pt",
            resume=resume,
            on_progress=on_progress,
            model=model,
            checkpoint_every_s=every,
        )

    run.events = []
    run.folder = tmp_path
    return run


@pytest.fixture
def resumed_and_whole(train):
    """Train interrupted at (epoch, step) and resumed, then in one go: nothing may tell them apart.

    ``make_model`` makes the model that each starts from, where the recipe does not.
    """

    def run(at, *, make_model=lambda: None, **choice):
        def start(name, seed, **how):
            model = make_model()
            torch.manual_seed(seed)  # what the caller's generator holds must not matter
            return train(name, model=model, **choice, **how)

        threads = torch.get_num_threads()
        with pytest.raises(KeyboardInterrupt):
            start("stopped", 99, watch=stop_in(*at), every=0)
        assert torch.get_num_threads() == threads
        assert torch.equal(torch.get_rng_state(), torch.Generator().manual_seed(99).get_state())
        assert not (train.folder / "stopped.pt").exists()
        resumed = start("stopped", 1, resume=True)
        where = "resuming in epoch {}, step {}".format(*at)
        assert where in [e.message for e in train.events]  # a new start would end alike
        whole = start("whole", 2)
        assert same_bits(state(resumed.model), state(whole.model))
        assert resumed.history == whole.history
        return resumed, whole

    return run
