"""Building a network whose weights come from elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

_DRAWING: frozenset[object] = frozenset(
    {
        Tensor.normal_,
        Tensor.uniform_,
        nn.init.uniform_,
        nn.init.normal_,
        nn.init.kaiming_uniform_,
        nn.init.kaiming_normal_,
    }
)


class _Undrawn(TorchFunctionMode):
    """Draws no random weights into tensors without storage.

    Doing so would change nothing, and the first such draw imports PyTorch's compiler, which takes
    longer than reading a small model.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func in _DRAWING:
            tensor = args[0] if args else kwargs.get("tensor")
            if isinstance(tensor, Tensor) and tensor.is_meta:
                return tensor
        return func(*args, **kwargs)


@contextmanager
def without_storage() -> Iterator[None]:
    """Make the tensors that are created inside have a shape only."""
    with torch.device("meta"), _Undrawn():
        yield
