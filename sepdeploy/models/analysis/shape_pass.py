"""One forward pass of a single sample, for the shapes on the way."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from sepdeploy.errors import BadInput
from sepdeploy.records import InputSpec

Visit = Callable[[nn.Module, tuple[Any, ...], Any], None]


def shape_pass(net: nn.Module, input: InputSpec, visits: Mapping[nn.Module, Visit]) -> Tensor:
    """Run one sample of zeros through a network in evaluation mode.

    Zeros are computed with for real: storage-less tensors would spare that, but pull in seconds
    of imports and stop at the first tensor that the network creates itself.

    Args:
        net: The network; its mode and parameters are left as they were.
        input: What one sample looks like.
        visits: What to call after which module, with its inputs and output.

    Returns:
        The network's output for the sample.

    Raises:
        BadInput: The network does not take such inputs, or its output is no tensor.
    """
    floats = (p for p in net.parameters() if p.is_floating_point())
    parameter = next(floats, torch.zeros(()))
    sample = torch.zeros(1, *input.shape, device=parameter.device, dtype=parameter.dtype)
    with _evaluating(net), _visiting(visits):
        try:
            output = net(sample)
        except BadInput:
            raise
        except Exception as error:  # the user's own code may raise anything
            first = str(error).strip().split("\n", 1)[0]
            raise BadInput(
                f"the network does not take an input of shape {input.shape}: {first[:200]}",
                hint="give the shape of one sample, without the batch dimension",
            ) from error
    if not isinstance(output, Tensor):
        raise BadInput(
            f"the network returns a {type(output).__name__}, expected one tensor of logits",
            hint="wrap it in a module that returns the logits only",
        )
    return output


@contextmanager
def _visiting(visits: Mapping[nn.Module, Visit]) -> Iterator[None]:
    hooks = [module.register_forward_hook(visit) for module, visit in visits.items()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def _evaluating(net: nn.Module) -> Iterator[None]:
    before = {module: module.training for module in net.modules()}
    net.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in before.items():
            module.training = training
