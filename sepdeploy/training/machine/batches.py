"""The batches of an epoch, prepared one step ahead in a thread of its own.

A batch is cut into the parts of all processes and, within a process, of gradient accumulation.
What is in a part is decided by the epoch's order alone, so preparing it early changes no bit.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sepdeploy.attacks.draws import derive_seed
from sepdeploy.data import Split
from sepdeploy.training.augmentation import augment_images
from sepdeploy.training.machine.acceleration import CPU
from sepdeploy.training.machine.team import ALONE, Team
from sepdeploy.training.objectives.batch import Batch
from sepdeploy.training.recipe.fields import Recipe
from sepdeploy.training.sources import AUGMENTATION, ORDER, take_batch


@dataclass(frozen=True)
class Part:
    """Samples that pass through the network together, and their share of the optimiser batch."""

    batch: Batch
    weight: float


def epoch_order(recipe: Recipe, epoch: int, count: int) -> Tensor:
    """Return the order of an epoch's images: positions in the training part."""
    rng = np.random.default_rng([recipe.seed, ORDER, epoch])
    return torch.from_numpy(rng.permutation(count))


def take_parts(
    recipe: Recipe, split: Split, index: Tensor, epoch: int, team: Team = ALONE
) -> list[Part]:
    """Return this process's parts of the optimiser batch at ``index``, augmented.

    Where there are fewer samples than parts, a part holds the first sample with weight 0: every
    process has to take its turn in the exchange of gradients.
    """
    cuts = index.tensor_split(team.world * recipe.accumulate)
    seed = derive_seed(recipe.seed, AUGMENTATION, epoch)
    parts = []
    for cut in team.share(cuts):
        batch = take_batch(split, cut if len(cut) else index[:1])
        images = augment_images(batch.images, batch.ids, seed, recipe.augment)
        parts.append(Part(Batch(images, batch.labels, batch.ids), len(cut) / len(index)))
    return parts


class Loader:
    """Prepares the parts of the next step while the current one computes.

    Args:
        recipe: Its batch size, seed and augmentation.
        split: The training images.
        team: Whose share is prepared.
        device: What will fetch the parts; for a GPU they wait in page-locked memory.
    """

    def __init__(
        self, recipe: Recipe, split: Split, team: Team, device: torch.device = CPU
    ) -> None:
        self.recipe = recipe
        self.split = split
        self.team = team
        self.device = device

    def steps(self, order: Tensor, epoch: int, first: int) -> Iterator[list[Part]]:
        """Yield the parts of every step of an epoch from step ``first`` on."""
        batches = torch.split(order, self.recipe.batch_size)[first:]
        with ThreadPoolExecutor(1, initializer=self._settle) as worker:
            waiting: list[Future[Any]] = []
            try:
                for index in batches:
                    waiting.append(worker.submit(self._parts, index, epoch))
                    if len(waiting) > 1:
                        yield waiting.pop(0).result()
                for last in waiting:
                    yield last.result()
            finally:
                worker.shutdown(wait=False, cancel_futures=True)

    def _settle(self) -> None:
        """Prepare the thread: a single one, since the network's own have the other cores."""
        torch.set_num_threads(1)
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)

    def _parts(self, index: Tensor, epoch: int) -> list[Part]:
        parts = take_parts(self.recipe, self.split, index, epoch, self.team)
        if self.device.type != "cuda":
            return parts
        return [Part(part.batch.pinned(), part.weight) for part in parts]
