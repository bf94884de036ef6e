"""VGG: stacks of 3×3 convolutions with a head of large linear layers."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sepdeploy.errors import BadInput
from sepdeploy.layers import make_linear
from sepdeploy.models.architectures.mlp import apply_linear, classify
from sepdeploy.models.placement import (
    StructureMap,
    check_widths,
    resolve_structures,
    with_modes,
)
from sepdeploy.records import InputSpec
from sepdeploy.structures import parse_structure
from sepdeploy.structures.base import check_count

# Convolutions per stage; each stage ends with a 2×2 max pool.
STAGES = {"vgg11": (1, 1, 2, 2, 2), "vgg16": (2, 2, 3, 3, 3)}
STAGE_WIDTHS = (1, 2, 4, 8, 8)  # in multiples of ``base``
SMALL_IMAGE = 64  # pixels; below, the last pool is left out and the head sees 2×2 places
DROPOUT = 0.5
# The published separable head on 512 maps of 2×2 (methods reference, table of factor shapes).
HEAD_MODES = {(2048, 4096): "64x32-64x64", (4096, 4096): "64x64-64x64"}


class VGG(nn.Module):
    """``features`` (convolutions), then fc1 … fcN with ReLU and dropout, then head."""

    def __init__(
        self,
        stages: Sequence[int],
        input_shape: tuple[int, ...],
        classes: int,
        structure: StructureMap,
        *,
        hidden: tuple[int, ...],
        pool: int,
        base: int,
        batch_norm: bool,
        last_pool: bool,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = input_shape[0]
        for stage, (depth, width) in enumerate(zip(stages, STAGE_WIDTHS, strict=True)):
            for _ in range(depth):
                layers += _convolution(channels, width * base, batch_norm)
                channels = width * base
            if last_pool or stage + 1 < len(stages):
                layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(pool)
        self.dropout = nn.Dropout(DROPOUT)
        self.hidden_names = tuple(f"fc{k}" for k in range(1, len(hidden) + 1))
        texts = resolve_structures(structure, self.hidden_names, keep_dense=("head",))
        shape: tuple[int, ...] = (channels, pool, pool)
        features = channels * pool * pool
        for name, width in zip((*self.hidden_names, "head"), (*hidden, classes), strict=True):
            text = with_modes(texts[name], HEAD_MODES.get((features, width)))
            spec = parse_structure(text, shape, width)
            layer = make_linear(spec)
            if isinstance(layer, nn.Linear):
                with torch.no_grad():
                    layer.weight.normal_(0, math.sqrt((1 if name == "head" else 2) / features))
                    layer.bias.zero_()
            self.add_module(name, layer)
            shape = spec.out_modes
            features = width

    def forward(self, x: Tensor) -> Tensor:
        """Logits of a batch (N, C, H, W)."""
        x = self.pool(self.features(x))
        for name in self.hidden_names:
            x = self.dropout(apply_linear(self.get_submodule(name), x).relu())
        return classify(self.get_submodule("head"), x)


def _convolution(inputs: int, outputs: int, batch_norm: bool) -> list[nn.Module]:
    layer = nn.Conv2d(inputs, outputs, 3, padding=1)
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return [layer, *([nn.BatchNorm2d(outputs)] if batch_norm else []), nn.ReLU(inplace=True)]


def vgg(
    name: str,
    input: InputSpec,
    classes: int,
    structure: StructureMap = None,
    hidden: Sequence[int] = (4096, 4096),
    pool: int | None = None,
    base: int = 64,
) -> nn.Module:
    """A VGG; parameters when dense, on 3×224×224 with 1000 classes, behind the names.

    Args:
        name: "vgg11" (configuration A, 132 863 336), "vgg16" (configuration D, 138 357 544) or
            "vgg16_bn" (the same with batch normalisation, 138 365 992).
        input: What one sample looks like, (C, H, W) of at least 16×16.
        classes: Number of logits.
        structure: One structure string for fc1 … fcN, or one per layer name (fc1 …, head);
            None is dense. The convolutions stay as they are. "kron" takes the published factor
            shapes where the layer has the published size.
        hidden: Widths of the linear layers before the classifier: (4096, 4096) as published,
            (1024, 256) for the small head of the pruning literature on 32×32 images.
        pool: Places per side that the head sees. None: 7 (25 088 features), and 2 (2048) for
            images below 64 pixels, where the last max pool is left out, too.
        base: Maps of the first stage; the others are multiples of it.

    Raises:
        BadInput: The input is no image, or too small; options that make no sense.
    """
    if len(input.shape) != 3 or min(input.shape[1:]) < 16:
        raise BadInput(
            f"{name} needs images of at least 16x16 pixels (C, H, W), the input is {input.shape}",
            hint="use lenet or mlp for smaller inputs",
        )
    small = min(input.shape[1:]) < SMALL_IMAGE
    return VGG(
        STAGES[name.removesuffix("_bn")],
        input.shape,
        classes,
        structure,
        hidden=check_widths(hidden, "hidden"),
        pool=check_count(pool if pool is not None else 2 if small else 7, "pool", 64),
        base=check_count(base, "base", 1024),
        batch_norm=name.endswith("_bn"),
        last_pool=not small,
    )
