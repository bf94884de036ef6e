"""A file attacked by its own answers: its logits forward, its torch twin's gradient backward.

An exported file has no gradient, and where it rounds, its twin's examples miss its weak points.
The twin's gradient at the same image is close enough (BPDA: Athalye, Carlini, Wagner 2018).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sepdeploy.attacks.scores import scores_of

Predict = Callable[[NDArray[np.float32]], NDArray[np.float32]]


class Through(nn.Module):
    """A network that answers as a file does.

    Args:
        twin: The torch model the file was made from; a last softmax of it is looked through.
        predict: Maps (N, ...) float32 to the file's logits (N, classes).
    """

    def __init__(self, twin: nn.Module, predict: Predict) -> None:
        super().__init__()
        self.twin, self.training = twin, twin.training
        self._scores = scores_of(twin)
        self._predict = predict

    def forward(self, images: Tensor) -> Tensor:
        """Return the file's logits, with the twin's gradient where one is asked for."""
        answers = torch.from_numpy(self._predict(images.detach().cpu().numpy())).to(images.device)
        if not (torch.is_grad_enabled() and images.requires_grad):
            return answers
        found: Tensor = _Answers.apply(self._scores(images), answers)  # type: ignore[no-untyped-call]
        return found


class _Answers(torch.autograd.Function):
    """The second argument, with the gradient of the first."""

    @staticmethod
    def forward(ctx: Any, surrogate: Tensor, answers: Tensor) -> Tensor:
        return answers.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return gradients[0], None
