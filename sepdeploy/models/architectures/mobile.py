"""MobileNetV2: inverted residuals, most weights in 1×1 convolutions."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from sepdeploy.errors import WIDTHS, BadInput, unknown_name
from sepdeploy.layers import make_linear
from sepdeploy.models.architectures.resnet import SMALL_IMAGE, STEMS, check_image, initialise
from sepdeploy.models.placement import StructureMap, refuse_without_effect, resolve_structures
from sepdeploy.records import InputSpec
from sepdeploy.structures import parse_structure

# Widening, maps, blocks, stride of the first.
STAGES = (
    (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2),
    (6, 320, 1, 1),
)  # fmt: skip
LAST = 1280


def mapped(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Module:
    """A convolution, its normalisation and a ReLU that ends at 6."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU6(),
    )


class Inverted(nn.Module):
    """1×1 to more maps, depthwise 3×3, 1×1 to fewer, and the input added where it fits."""

    def __init__(self, inputs: int, outputs: int, stride: int, widen: int) -> None:
        super().__init__()
        wide = inputs * widen
        self.adds = stride == 1 and inputs == outputs
        self.expand = mapped(inputs, wide, 1) if widen > 1 else nn.Identity()
        self.depthwise = mapped(wide, wide, 3, stride, groups=wide)
        self.project = nn.Conv2d(wide, outputs, 1, bias=False)
        self.bn = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) → (N, outputs, H/stride, W/stride)."""
        y = self.bn(self.project(self.depthwise(self.expand(x))))
        return cast(Tensor, x + y if self.adds else y)


def divisible(maps: float) -> int:
    """The nearest multiple of 8, not below nine tenths."""
    nearest = max(8, int(maps + 4) // 8 * 8)
    return nearest if nearest >= 0.9 * maps else nearest + 8


class MobileNetV2(nn.Module):
    """Stem, stages of inverted residuals, a last 1×1 convolution, mean over places, head."""

    def __init__(
        self,
        input: InputSpec,
        classes: int,
        structure: StructureMap,
        width: float,
        small: bool,
    ) -> None:
        super().__init__()
        maps = divisible(32 * width)
        self.stem = mapped(input.shape[0], maps, 3, 1 if small else 2)
        blocks = []
        for number, (widen, base, count, first) in enumerate(STAGES):
            outputs = divisible(base * width)
            for index in range(count):
                # small images keep their places until the third stage
                stride = first if index == 0 and not (small and number == 1) else 1
                blocks.append(Inverted(maps, outputs, stride, widen))
                maps = outputs
        self.blocks = nn.Sequential(*blocks)
        last = divisible(LAST * max(1.0, width))
        self.last = mapped(maps, last, 1)
        texts = resolve_structures(structure, (), keep_dense=("head",))
        self.head = make_linear(parse_structure(texts["head"], (last,), classes))
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of a batch (N, C, H, W)."""
        x = self.last(self.blocks(self.stem(x)))
        return cast(Tensor, self.head(x.mean(dim=(2, 3))))


def mobilenet_v2(
    input: InputSpec,
    classes: int,
    structure: StructureMap = None,
    width: float = 1.0,
    stem: str | None = None,
) -> nn.Module:
    """MobileNetV2: 3 504 872 parameters on 3×224×224 with 1000 classes.

    Args:
        input: What one sample looks like, (C, H, W) of at least 8×8.
        classes: Number of logits.
        structure: A table for the layer name ``head``; None is dense. The convolutions stay.
        width: Factor of the maps, 0.1 … 4; the last convolution has at least 1280.
        stem: "large" (stride 2 in the stem and in the second stage) or "small" (1 in both);
            None: by the size of the image, large from 64 pixels on.

    Raises:
        BadInput: The input is no image, or too small; options that make no sense.
    """
    check_image("mobilenet_v2", input)
    refuse_without_effect("mobilenet_v2", structure, "head")
    if isinstance(width, bool) or not isinstance(width, (int, float)) or not 0.1 <= width <= 4:
        raise BadInput(f"width {width!r:.40} is outside 0.1 … 4", hint=WIDTHS)
    if stem is None:
        stem = "large" if min(input.shape[1:]) >= SMALL_IMAGE else "small"
    if stem not in STEMS:
        raise unknown_name("stem", str(stem)[:40], STEMS)
    return MobileNetV2(input, classes, structure, float(width), stem == "small")
