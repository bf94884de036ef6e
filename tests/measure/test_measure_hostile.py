"""Mutants of good files: the parent gets a result or one line, whatever they do to the child."""

import random
from functools import partial

import pytest

from sepdeploy import measure
from sepdeploy.errors import BadInput


def mutant(data, seed):
    """Cut the file or change some bytes, near its front as often as anywhere."""
    rng = random.Random(seed)
    changed = bytearray(data)
    if rng.random() < 0.2:
        return bytes(changed[: rng.randrange(8, len(changed))])
    reach = len(changed) if rng.random() < 0.5 else min(4000, len(changed))
    for _ in range(rng.choice([1, 2, 8, 40])):
        changed[rng.randrange(reach)] = rng.choice([0, 128, 255, rng.randrange(256)])
    return bytes(changed)


def complaint(use):
    """Return the error of a use as text, "" where it works."""
    try:
        use()
    except BadInput as error:
        return error.message + error.hint
    return ""


def try_mutants(path, runtime, network, images, folder, seeds):
    target = folder / f"mutant{path.suffix}"
    for seed in seeds:
        target.write_bytes(mutant(path.read_bytes(), seed))
        run = partial(measure.run_logits, target, runtime, images[:2])
        for use in (run, partial(measure.check_residency, target, network.layers)):
            assert "\n" not in complaint(use), f"seed {seed}"


@pytest.mark.slow
def test_a_few_mutants(runtime_and_path, network, images, tmp_path):
    runtime, path = runtime_and_path
    try_mutants(path, runtime, network, images, tmp_path, range(4))


@pytest.mark.slow
def test_many_mutants(runtime_and_path, network, images, tmp_path):
    runtime, path = runtime_and_path
    try_mutants(path, runtime, network, images, tmp_path, range(4, 60))
