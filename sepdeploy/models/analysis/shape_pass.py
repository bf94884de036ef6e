"""One forward pass of a single sample, for the shapes on the way."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from sepdeploy.errors import BadInput
from sepdeploy.records import InputSpec

ONE_SAMPLE = "give the shape of one sample, without the batch dimension"
ANY_BATCH = "forward must take (N, ...) for any N: x.flatten(1), not x.flatten() or a fixed size"

Visit = Callable[[nn.Module, tuple[Any, ...], Any], None]


def shape_pass(
    net: nn.Module, input: InputSpec, visits: Mapping[nn.Module, Visit], samples: int = 1
) -> Tensor:
    """Run one sample of zeros, or a batch of them, through a network in evaluation mode.

    Zeros are computed with for real: storage-less tensors would spare that, but pull in seconds
    of imports and stop at the first tensor that the network creates itself.

    Args:
        net: The network; its mode and parameters are left as they were.
        input: What one sample looks like.
        visits: What to call after which module, with its inputs and output.
        samples: How many.

    Returns:
        The network's output.

    Raises:
        BadInput: The network does not take such inputs, or its output is no tensor.
    """
    floats = (p for p in net.parameters() if p.is_floating_point())
    parameter = next(floats, torch.zeros(()))
    batch = torch.zeros(samples, *input.shape, device=parameter.device, dtype=parameter.dtype)
    with _evaluating(net), _visiting(visits):
        try:
            output = net(batch)
        except BadInput:
            raise
        except Exception as error:  # the user's own code may raise anything
            first = str(error).strip().split("\n", 1)[0]
            raise BadInput(
                f"the network does not take {_what(samples)} of shape {input.shape}: {first[:200]}",
                hint=ONE_SAMPLE if samples == 1 else ANY_BATCH,
            ) from error
    if not isinstance(output, Tensor):
        raise BadInput(
            f"the network returns a {type(output).__name__}, expected one tensor of logits",
            hint="wrap it in a module that returns the logits only",
        )
    return output


def _what(samples: int) -> str:
    return "an input" if samples == 1 else f"a batch of {samples} inputs"


def check_takes_batches(net: nn.Module, input: InputSpec) -> None:
    """Check that a network answers a batch sample by sample.

    Raises:
        BadInput: It takes one sample only, or mixes them into one answer.
    """
    one, two = (tuple(shape_pass(net, input, {}, samples=n).shape) for n in (1, 2))
    if two != (2, *one[1:]):
        raise BadInput(f"the network returns {two} for two samples, {one} for one", hint=ANY_BATCH)


def first_tensor(value: Any) -> Tensor | None:
    """The first tensor in what a module takes or gives: itself, or inside tuples and tables."""
    if isinstance(value, Tensor):
        return value
    inner = list(value.values()) if isinstance(value, Mapping) else value
    if not isinstance(inner, (list, tuple)):
        return None
    return next((found for x in inner if (found := first_tensor(x)) is not None), None)


@contextmanager
def _visiting(visits: Mapping[nn.Module, Visit]) -> Iterator[None]:
    def calling(visit: Visit) -> Callable[..., None]:
        return lambda module, args, named, output: visit(module, (*args, *named.values()), output)

    hooks = [
        module.register_forward_hook(calling(visit), with_kwargs=True)
        for module, visit in visits.items()
    ]
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
