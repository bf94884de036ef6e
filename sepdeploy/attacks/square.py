"""Square attack on a torch model; the search itself is in ``patches``, in numpy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sepdeploy.attacks.patches import Array, Search
from sepdeploy.threat import Attack

if TYPE_CHECKING:
    from torch import Tensor, nn

    from sepdeploy.attacks.gradient import Made


@dataclass(frozen=True, kw_only=True)
class Square:
    """Random search that sees nothing but logits.

    Attributes:
        share: Of the pixels that the first square covers.
    """

    share: float = 0.8

    def __call__(
        self, model: nn.Module, images: Tensor, labels: Tensor, ids: Tensor, attack: Attack
    ) -> Made:
        """Return the points that fell an image, and the images that none was found for."""
        import torch

        from sepdeploy.attacks.gradient import Made
        from sepdeploy.attacks.scores import scores_of

        scores = scores_of(model)

        def predict(batch: Array) -> Array:
            with torch.no_grad():
                logits: Array = scores(torch.from_numpy(batch).to(images.device)).cpu().numpy()
            return logits

        arrays = (images.cpu().numpy(), labels.cpu().numpy(), ids.cpu().numpy())
        found = self.search(attack).run(predict, *arrays)
        return Made(torch.from_numpy(found).to(images.device))

    def search(self, attack: Attack) -> Search:
        """Return the search of an attack: its ``steps`` are the queries."""
        return Search(
            attack.norm, attack.eps, attack.steps, attack.restarts, attack.seed, self.share
        )


SQUARE = Square()
