"""The numbers by which a classifier decides: a torch model's own, or those of a file made of it.

Probabilities of a sure network are exactly 0 and 1 in float32, and so is the gradient behind
them. What went into the last monotone function decides the same and keeps its gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

Scores = Callable[[Tensor], Tensor]  # (N, ...) to (N, classes)
Predict = Callable[[NDArray[np.float32]], NDArray[np.float32]]

_ALONG = (torch.softmax, F.softmax, Tensor.softmax, torch.log_softmax, F.log_softmax,
          Tensor.log_softmax)  # fmt: skip
_EACH = (torch.sigmoid, F.sigmoid, Tensor.sigmoid, F.logsigmoid, torch.log, Tensor.log)
MONOTONE = frozenset((*_ALONG, *_EACH))  # they keep the order of the classes


class _Watch(TorchFunctionMode):
    """Remembers what went into monotone functions; they are held, so that ids stay their own."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: dict[int, tuple[Tensor, Tensor]] = {}

    def __torch_function__(
        self,
        function: Any,
        types: Sequence[Any],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given = kwargs or {}
        out = function(*args, **given)
        if function in MONOTONE and isinstance(out, Tensor):
            source = args[0] if args else given.get("input")
            along = given.get("dim", args[1] if len(args) > 1 else None)
            if isinstance(source, Tensor) and (function in _EACH or along in (1, -1, None)):
                self.calls[id(out)] = (out, source)
        return out


def scores_of(model: nn.Module) -> Scores:
    """Return a function that gives what a model decides by; compiled models are taken as they are.

    Decisions are those of the model, but for ties that its own rounding makes.
    """
    if any(_is_compiled(module) for module in model.modules()):
        return model

    plain = False  # watching costs as much as a short pass: known once, it is left out

    def scores(images: Tensor) -> Tensor:
        nonlocal plain
        if plain:
            return model(images)  # type: ignore[no-any-return]
        watch = _Watch()
        with watch:
            out: Tensor = model(images)
        plain = id(out) not in watch.calls
        while id(out) in watch.calls:
            out = watch.calls[id(out)][1]
        return out

    return scores


def _is_compiled(module: nn.Module) -> bool:
    """Tell whether torch.compile made it: its graph is not run by functions that can be seen."""
    own = getattr(module, "_compiled_call_impl", None)
    return own is not None or type(module).__name__ == "OptimizedModule"


class Through(nn.Module):
    """A network that answers as an exported file does, with the gradient of its torch twin.

    A file has no gradient, and where it rounds, its twin's examples miss its weak points. The
    twin's gradient at the same image is close enough (BPDA: Athalye, Carlini, Wagner 2018).

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
