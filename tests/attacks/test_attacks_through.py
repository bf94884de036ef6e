"""A file attacked by its own answers: what the wrapper gives, and that it finds weak points."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from sepdeploy import attacks
from sepdeploy.attacks.scores import Through
from sepdeploy.threat import ATTACKS, parse_attack


class Linear(nn.Module):
    """Two classes, decided by the mean of the image."""

    def __init__(self, shift: float = 0.0) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.tensor(shift))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        score = images.flatten(1).mean(dim=1) - 0.5 + self.shift
        return torch.stack([-score, score], dim=1)


def file_of(shift: float):
    """A file that decides by another threshold than its twin."""

    def predict(images: np.ndarray) -> np.ndarray:
        score = images.reshape(len(images), -1).mean(axis=1) - 0.5 + shift
        return np.stack([-score, score], axis=1).astype(np.float32)

    return predict


def test_values_are_the_files_and_gradients_the_twins():
    twin, images = Linear().eval(), torch.rand(3, 1, 4, 4)
    leaf = images.clone().requires_grad_(True)
    out = Through(twin, file_of(0.25))(leaf)
    assert torch.equal(out, torch.from_numpy(file_of(0.25)(images.numpy())))
    (found,) = torch.autograd.grad(out[:, 1].sum(), leaf)
    alone = images.clone().requires_grad_(True)
    (own,) = torch.autograd.grad(twin(alone)[:, 1].sum(), alone)
    assert torch.equal(found, own)


@pytest.mark.parametrize("name", ["pgd-margin-20", "apgd-ce-20", "apgd-dlr-20", "fgsm"])
def test_what_falls_by_the_file_alone_is_found(name):
    """The image is 0.1 from the twin's threshold and 0.02 from the file's."""
    images, labels = torch.full((2, 1, 4, 4), 0.6), torch.ones(2, dtype=torch.int64)
    attack = parse_attack(name, 0.05)
    twin = Linear().eval()
    file = file_of(-0.08)
    on_twin = attacks.run(twin, images, labels, attack).numpy()
    through = attacks.run(Through(twin, file), images, labels, attack).numpy()
    assert twin(torch.from_numpy(on_twin)).argmax(1).tolist() == [1, 1]
    assert file(through).argmax(axis=1).tolist() == [0, 0]
    assert np.abs(through - images.numpy()).max() <= 0.05


def test_pgd_climbs_the_margin_through_a_file():
    assert str(parse_attack("pgd-20x3", 0.1).through) == "pgd-margin-20x3 linf eps 0.1"
    assert parse_attack("apgd-ce", 0.1).through == parse_attack("apgd-ce", 0.1)
    for row in ATTACKS.values():
        assert not row.through or row.through in ATTACKS
