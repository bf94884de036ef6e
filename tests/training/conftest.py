import dataclasses

import pytest

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
