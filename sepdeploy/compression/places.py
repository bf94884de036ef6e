"""How often the layers of a network meet one sample: what multiply-accumulates are counted by."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from sepdeploy.models import Model
from sepdeploy.models.analysis.shape_pass import shape_pass


@dataclass(frozen=True)
class Places:
    """Pixels or tokens of one sample, summed over all calls of a layer.

    Attributes:
        inputs: Places of its input: how often a 1×1 convolution before it is applied.
        outputs: Places of its output: how often its own matrix is applied.
    """

    inputs: int = 0
    outputs: int = 0


def count_places(model: Model, layers: Mapping[str, nn.Module]) -> dict[str, Places]:
    """Return the places of linear layers and convolutions by name; none where never called.

    Strides, paddings and kernels do not tell the places of the input from those of the output
    (a convolution without padding drops some), so both are taken from a pass of one sample.

    Raises:
        BadInput: The network does not take its input.
    """
    found: dict[nn.Module, Places] = {}

    def visit(layer: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        before = found.get(layer, Places())
        found[layer] = Places(
            before.inputs + _places(layer, inputs[0]), before.outputs + _places(layer, output)
        )

    shape_pass(model.net, model.input, dict.fromkeys(layers.values(), visit))
    return {name: found.get(layer, Places()) for name, layer in layers.items()}


def _places(layer: nn.Module, x: Tensor) -> int:
    return math.prod(x.shape[2:]) if isinstance(layer, nn.Conv2d) else x.numel() // x.shape[-1]
