"""The multi-layer perceptron."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from sepdeploy.layers import is_structured, make_linear
from sepdeploy.models.placement import StructureMap, check_widths, resolve_structures
from sepdeploy.records import InputSpec
from sepdeploy.structures import parse_structure


class MLP(nn.Module):
    """Linear layers fc1, fc2, …, head with ReLU between them.

    A sample is flattened only for a layer that needs it: a Kronecker layer receives the image's
    own modes, and two Kronecker layers whose shapes agree pass them on.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        classes: int,
        hidden: Sequence[int],
        structure: StructureMap,
    ) -> None:
        super().__init__()
        self.hidden_names = tuple(f"fc{k}" for k in range(1, len(hidden) + 1))
        texts = resolve_structures(structure, self.hidden_names, keep_dense=("head",))
        shape = tuple(input_shape)
        for name, width in zip((*self.hidden_names, "head"), (*hidden, classes), strict=True):
            spec = parse_structure(texts[name], shape, width)
            self.add_module(name, make_linear(spec))
            shape = spec.out_modes

    def forward(self, x: Tensor) -> Tensor:
        """Logits of a batch (N, *input_shape)."""
        for name in self.hidden_names:
            x = F.relu(apply_linear(self.get_submodule(name), x))
        return classify(self.get_submodule("head"), x)


def apply_linear(layer: nn.Module, x: Tensor) -> Tensor:
    """Apply a linear layer to samples of any shape, keeping modes where the layer wants them."""
    wanted = layer.spec.in_modes if is_structured(layer) else (math.prod(x.shape[1:]),)
    if x.shape[1:] != wanted:
        x = x.reshape(-1, *wanted)
    return cast(Tensor, layer(x))


def classify(head: nn.Module, x: Tensor) -> Tensor:
    """Logits (N, classes) of samples of any shape: the head takes them flat and gives them flat.

    A reshape behind it would end the graph in its place, and under another name.
    """
    return cast(Tensor, head(x if x.dim() == 2 else x.reshape(-1, math.prod(x.shape[1:]))))


def mlp(
    input: InputSpec,
    classes: int,
    hidden: Sequence[int] = (1024, 1024),
    structure: StructureMap = None,
) -> nn.Module:
    """A multi-layer perceptron.

    Args:
        input: What one sample looks like.
        classes: Number of logits.
        hidden: Widths of the hidden layers.
        structure: One structure string for all hidden layers, or one per layer name
            (fc1 … fcN, head); None is dense.

    Raises:
        BadInput: Widths or structures that make no sense.
    """
    return MLP(input.shape, classes, check_widths(hidden, "hidden"), structure)
