"""A search that needs no gradients, for images that have none: random blocks, the better kept.

In the manner of the Square attack (Andriushchenko et al. 2020), kept small: it is the net below
attacks by gradient, and what it leaves standing is said to be unreliable.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sepdeploy.attacks.balls import BALLS
from sepdeploy.attacks.draws import derive_seed
from sepdeploy.attacks.losses import margin
from sepdeploy.attacks.noise import uniform
from sepdeploy.attacks.scores import Scores
from sepdeploy.threat import Attack

QUERIES = 200  # forward passes an image at most; pgd-40 costs about 120
SHARE, SHRINK = 0.5, 0.97  # of the image that a block covers, and of that per query
STREAM = 71  # of random numbers, apart from the starts of restarts


@torch.no_grad()
def search(
    scores: Scores, images: Tensor, labels: Tensor, ids: Tensor, attack: Attack, start: Tensor
) -> Tensor:
    """Return points of the ball at least as bad for the model as ``start``.

    Args:
        scores: Of the model.
        images: (N, ...) float32, the middle of the ball.
        labels: (N,) int64.
        ids: (N,) int64, what blocks are drawn for.
        attack: Radius, norm and seed.
        start: Where it begins, inside the ball.
    """
    best = start.clone()
    worst = margin(scores(best), labels)
    for query in range(QUERIES):
        rest = torch.nonzero(worst <= 0).flatten()
        if not len(rest):
            break
        ball = BALLS[attack.norm](images[rest], attack.eps)
        block = _block(derive_seed(attack.seed, STREAM, query), ids[rest], images[rest], query)
        if attack.norm == "l2":
            length = block.flatten(1).norm(dim=1).reshape(-1, *[1] * (block.dim() - 1))
            change = block * (attack.eps / length)
        else:
            change = block * (2 * attack.eps)  # from one border of the ball to the other
        point = ball.finish(ball.project(best[rest] + change))
        found = margin(scores(point), labels[rest])
        taken = found > worst[rest]
        best[rest[taken]], worst[rest[taken]] = point[taken], found[taken]
    return best


def _block(seed: int, ids: Tensor, images: Tensor, query: int) -> Tensor:
    """Return ±1 on a rectangle of each image, one sign a channel, and 0 elsewhere."""
    shape = tuple(images.shape[1:])
    channels, height, width = shape if len(shape) == 3 else (1, 1, math.prod(shape))
    share = max(SHARE * SHRINK**query, 1 / (height * width))
    tall = min(height, max(1, round(height * math.sqrt(share))))
    wide = min(width, max(1, round(share * height * width / tall)))
    drawn = uniform(seed, ids, (2 + channels,))
    top = ((drawn[:, 0] + 1) / 2 * (height - tall + 1)).long()[:, None]
    left = ((drawn[:, 1] + 1) / 2 * (width - wide + 1)).long()[:, None]
    rows = torch.arange(height, device=ids.device)[None]
    columns = torch.arange(width, device=ids.device)[None]
    inside = ((rows >= top) & (rows < top + tall))[:, None, :, None]
    inside = inside & ((columns >= left) & (columns < left + wide))[:, None, None, :]
    signs = drawn[:, 2:].sign()[:, :, None, None]
    return (inside * signs).to(images.dtype).reshape(images.shape)
