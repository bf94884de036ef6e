"""One forward pass that looks at shapes only."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from sepdeploy.errors import BadInput
from sepdeploy.records import InputSpec

Visit = Callable[[nn.Module, tuple[Any, ...], Any], None]


def shape_pass(net: nn.Module, input: InputSpec, visits: dict[nn.Module, Visit]) -> Tensor:
    """Run one sample of zeros through a network in evaluation mode, if possible without computing.

    The parameters are replaced by storage-less ones for the pass. A network that creates its own
    tensors on the way cannot mix those in; it is then run for real.

    Args:
        net: The network; its mode and parameters are left as they were.
        input: What one sample looks like.
        visits: What to call after which module, with its inputs and output.

    Returns:
        The network's output for one sample (shapes only, no values).

    Raises:
        BadInput: The network does not take such inputs, or its output is no tensor.
    """
    state: dict[str, Tensor] = {**dict(net.named_parameters()), **dict(net.named_buffers())}
    device = next((t.device for t in state.values()), torch.device("cpu"))
    dtype = next((t.dtype for t in state.values() if t.is_floating_point()), torch.float32)
    with _evaluating(net):
        output = _without_storage(net, input, visits, state, dtype)
        if output is None:
            sample = torch.zeros(1, *input.shape, device=device, dtype=dtype)
            try:
                with _visiting(visits):
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


def _without_storage(
    net: nn.Module,
    input: InputSpec,
    visits: dict[nn.Module, Visit],
    state: dict[str, Tensor],
    dtype: torch.dtype,
) -> Any:
    """The output of a pass on the meta device, or None where the network does not allow one."""
    shapes = {name: tensor.to("meta") for name, tensor in state.items()}
    sample = torch.zeros(1, *input.shape, device="meta", dtype=dtype)
    try:
        torch.func.functional_call(net, shapes, (sample,))  # once in vain, to see if it works
        with _visiting(visits):
            return torch.func.functional_call(net, shapes, (sample,))
    except Exception:  # whatever stops it, the pass on real tensors decides
        return None


@contextmanager
def _visiting(visits: dict[nn.Module, Visit]) -> Iterator[None]:
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
