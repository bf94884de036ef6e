"""The network of the CIFAR-10 table: VGG-11 with an eighth of the maps and the large head."""

from __future__ import annotations

from torch import nn

from sepdeploy.models.placement import StructureMap
from sepdeploy.models.vgg import vgg11
from sepdeploy.records import InputSpec


def small_vgg(input: InputSpec, classes: int, structure: StructureMap = None) -> nn.Module:
    """Convolutions of 8 to 64 maps, then 3136–1024–1024–classes: the head holds 97 % of it all."""
    return vgg11(input, classes, structure, hidden=(1024, 1024), pool=7, base=8)
