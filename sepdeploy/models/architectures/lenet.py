"""A small convolutional network in the line of LeNet-5."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from sepdeploy.errors import BadInput
from sepdeploy.layers import make_linear
from sepdeploy.models.architectures.mlp import apply_linear, classify
from sepdeploy.models.placement import StructureMap, resolve_structures
from sepdeploy.records import InputSpec
from sepdeploy.structures import parse_structure

PADDED_BELOW = 16  # pixels; smaller images would vanish under two unpadded 3×3 convolutions


class LeNet(nn.Module):
    """conv1 (8 maps), conv2 (16 maps), each 3×3 with ReLU and 2×2 max pooling; fc1, fc2, head.

    On 1×28×28 images with 10 classes the dense net has 61 482 parameters.
    """

    def __init__(self, input_shape: tuple[int, ...], classes: int, structure: StructureMap) -> None:
        super().__init__()
        channels, height, width = input_shape
        padding = 0 if min(height, width) >= PADDED_BELOW else 1
        self.conv1 = nn.Conv2d(channels, 8, 3, padding=padding)
        self.conv2 = nn.Conv2d(8, 16, 3, padding=padding)
        texts = resolve_structures(structure, ("fc1", "fc2"), keep_dense=("head",))
        shape: tuple[int, ...] = (16, _pooled_twice(height, padding), _pooled_twice(width, padding))
        for name, features in (("fc1", 128), ("fc2", 64), ("head", classes)):
            spec = parse_structure(texts[name], shape, features)
            self.add_module(name, make_linear(spec))
            shape = spec.out_modes

    def forward(self, x: Tensor) -> Tensor:
        """Logits of a batch (N, C, H, W)."""
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        for name in ("fc1", "fc2"):
            x = F.relu(apply_linear(self.get_submodule(name), x))
        return classify(self.get_submodule("head"), x)


def _pooled_twice(size: int, padding: int) -> int:
    for _ in range(2):
        size = (size + 2 * padding - 2) // 2
    return size


def lenet(input: InputSpec, classes: int, structure: StructureMap = None) -> nn.Module:
    """A small convolutional network for images of at least 4×4 pixels.

    Args:
        input: What one sample looks like, (C, H, W).
        classes: Number of logits.
        structure: One structure string for fc1 and fc2, or one per layer name (fc1, fc2, head);
            None is dense. The convolutions stay as they are.

    Raises:
        BadInput: The input is no image, or too small; structures that make no sense.
    """
    if len(input.shape) != 3 or min(input.shape[1:]) < 4:
        raise BadInput(
            f"lenet needs images of at least 4x4 pixels (C, H, W), the input is {input.shape}",
            hint="use mlp for inputs of another kind",
        )
    return LeNet(input.shape, classes, structure)
