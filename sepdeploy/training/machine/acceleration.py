"""Where and how a training computes: device, precision, memory layout, compilation.

The model itself stays as it is, in float32; ``running_form`` wraps it. Precision is the wrapper's
affair and ends with it, so losses and penalties are always computed in float32 or better.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from sepdeploy.errors import BadInput, Missing
from sepdeploy.models import Model
from sepdeploy.training.recipe.fields import Recipe

CPU = torch.device("cpu")
TRIAL = 2  # samples that a compiled network is tried on

T = TypeVar("T")


def choose_device(recipe: Recipe, local_rank: int = 0) -> torch.device:
    """Return the device that a recipe trains on.

    Args:
        recipe: "auto" takes a GPU where there is one.
        local_rank: Number of the process on its machine; each takes a GPU of its own.

    Raises:
        Missing: "cuda" without a GPU, fewer GPUs than processes, or a GPU without bf16.
    """
    if recipe.accelerator == "cpu":
        return CPU
    if not torch.cuda.is_available():
        if recipe.accelerator == "auto":
            return CPU
        raise Missing(
            "accelerator = 'cuda' and torch sees no GPU",
            hint='accelerator = "auto" falls back to the CPU; is this torch built with CUDA?',
        )
    if local_rank >= torch.cuda.device_count():
        raise Missing(
            f"process {local_rank} of this machine has no GPU of its own",
            hint=f"torchrun --nproc-per-node {torch.cuda.device_count()}",
        )
    if recipe.precision == "bf16" and not torch.cuda.is_bf16_supported():
        raise Missing("precision = 'bf16' and this GPU has no bf16", hint='precision = "fp32"')
    return torch.device("cuda", local_rank)


class Forward(nn.Module):
    """A model in the precision and memory layout of its training.

    Each call is an autocast region of its own: the copies of weights that autocast keeps never
    outlive it, so none that an attack or a validation made without gradients is used in a step.

    Args:
        model: Its parameters stay float32.
        bf16: Whether it computes in bfloat16 where autocast finds that safe.
        channels_last: Whether images come to it with their channels innermost.
    """

    def __init__(self, model: nn.Module, *, bf16: bool, channels_last: bool) -> None:
        super().__init__()
        self.model = model
        self.bf16 = bf16
        self.channels_last = channels_last

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits (N, classes) in float32."""
        if self.channels_last and images.dim() == 4:
            images = images.contiguous(memory_format=torch.channels_last)
        with torch.autocast(images.device.type, dtype=torch.bfloat16, enabled=self.bf16):
            logits: Tensor = self.model(images)
        return logits.float()


def place(model: Model, recipe: Recipe, device: torch.device) -> None:
    """Move a model to its device and layout; parameters keep their identity."""
    model.to(device)
    if recipe.channels_last:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def bring_back(model: Model) -> None:
    """Undo ``place``."""
    model.to(CPU)
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.data = tensor.data.contiguous()


def running_form(model: Model, recipe: Recipe) -> nn.Module:
    """Return what a training runs instead of the model: the same parameters, in its precision.

    Raises:
        BadInput: ``compile`` is set and the network cannot be compiled here.
    """
    form: nn.Module = model
    if recipe.precision == "bf16" or recipe.channels_last:
        form = Forward(model, bf16=recipe.precision == "bf16", channels_last=recipe.channels_last)
    return _compiled(form, model) if recipe.compile else form


def _compiled(form: nn.Module, model: Model) -> nn.Module:
    images = torch.zeros(TRIAL, *model.input.shape, device=next(model.parameters()).device)
    modes = [m for m in model.modules() if m.training]
    try:
        compiled = cast(nn.Module, torch.compile(form))
        compiled.eval()
        with torch.no_grad():
            compiled(images)
    except RuntimeError as error:
        reason = str(error).strip().split("\n", 1)[0]
        raise BadInput(
            f"compile = true and torch.compile fails here: {reason}", hint="leave compile out"
        ) from error
    finally:
        for module in modes:
            module.training = True
    return compiled


def moved(value: T, device: torch.device) -> T:
    """Return plain containers with every tensor on ``device``."""
    result: Any = value
    if isinstance(value, Tensor):
        result = value.detach().to(device)
    elif isinstance(value, Mapping):
        result = {key: moved(item, device) for key, item in value.items()}
    elif isinstance(value, (list, tuple)):
        result = type(value)(moved(item, device) for item in value)
    return result  # type: ignore[no-any-return]
