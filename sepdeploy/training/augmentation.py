"""Random crops and flips that belong to (seed, epoch, sample), not to a batch or a worker."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sepdeploy.attacks.noise import uniform
from sepdeploy.errors import BadInput

PADDING = 4  # pixels per side, as usual for 32×32 images


def augment_images(images: Tensor, ids: Tensor, seed: int, kind: str) -> Tensor:
    """Shift images by up to 4 pixels (black beyond the border) and mirror half of them.

    Args:
        images: (N, C, H, W).
        ids: (N,) sample ids; the same id and seed always give the same crop and flip.
        seed: Changes every epoch.
        kind: "crop", "flip", "crop-flip", or "" for none.

    Raises:
        BadInput: Samples that are no images.
    """
    if not kind:
        return images
    if images.dim() != 4:
        raise BadInput(f"augment = '{kind}' needs images (C, H, W)", hint="leave augment out")
    draws = uniform(seed, ids, (3,)).add_(1).div_(2)  # in (0, 1)
    count, _, height, width = images.shape
    shifts = torch.full((count, 2), PADDING)
    if "crop" in kind:
        shifts = (draws[:, :2] * (2 * PADDING + 1)).long().clamp_max_(2 * PADDING)
    rows = shifts[:, 0, None] + torch.arange(height)
    columns = shifts[:, 1, None] + torch.arange(width)
    if "flip" in kind:
        columns = torch.where(draws[:, 2, None] < 0.5, columns.flip(1), columns)
    padded = F.pad(images, (PADDING,) * 4)
    sample = torch.arange(count)[:, None, None]
    picked = padded.permute(0, 2, 3, 1)[sample, rows[:, :, None], columns[:, None, :]]
    return picked.permute(0, 3, 1, 2).contiguous()
