"""Architectures, and models as they are saved and loaded."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from sepdeploy.models.accepting import accepted
from sepdeploy.models.analysis.shape_pass import check_takes_batches
from sepdeploy.models.checkpoint import load, save
from sepdeploy.models.factory import ARCHITECTURES, create
from sepdeploy.models.model import Model
from sepdeploy.models.tensor_file import read_tensor_file, write_tensor_file
from sepdeploy.records import InputSpec

__all__ = [
    "ARCHITECTURES",
    "Model",
    "create",
    "load",
    "read_tensor_file",
    "save",
    "wrap",
    "write_tensor_file",
]


def wrap(
    module: nn.Module,
    input_shape: Sequence[int],
    *,
    mean: Sequence[float] = (0.0,),
    std: Sequence[float] = (1.0,),
    class_names: Sequence[str] = (),
) -> Model:
    """Make a model of any module that maps (N, *input_shape) in [0, 1] to logits (N, classes).

    Args:
        module: The network, in float32; it is used, not copied. What DataParallel or
            ``torch.compile`` put around it is taken off.
        input_shape: Shape of one sample, (C, H, W) or (features,).
        mean: Subtracted inside the model, one per channel or one in all.
        std: Divided by inside the model, one per channel or one in all.
        class_names: Names of the logits, if known.

    Raises:
        BadInput: Shapes or normalisation that make no sense; no module, one in another floating
            type, quantised or in TorchScript; or it does not map such samples to logits.
    """
    input = InputSpec(tuple(input_shape), tuple(mean), tuple(std), tuple(class_names))
    model = Model(accepted(module), input)
    model.arch_kwargs = {"classes": model.classes}
    check_takes_batches(model.net, input)
    return model
