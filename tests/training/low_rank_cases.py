"""Low-rank layers with data, and what tests of their ranks read from them."""

import pytest
import torch
from torch import nn

from sepdeploy.layers import LowRankConv2d, LowRankLinear


def linear(rank=4):
    layer = LowRankLinear(20, 14, rank)
    nn.init.normal_(layer.S)
    nn.init.normal_(layer.bias)
    return layer, torch.randn(9, 20)


def conv(ranks=(4, 3)):
    plain = nn.Conv2d(10, 12, 3, stride=2, padding=1)
    return LowRankConv2d.from_dense(plain, ranks), torch.randn(3, 10, 8, 7)


LAYERS = pytest.mark.parametrize("make", [linear, conv])


def core_of(layer):
    return layer.core.weight if isinstance(layer, LowRankConv2d) else layer.S


def with_gradients(layer, x):
    y = layer(x)
    wanted = torch.randn(y.shape, generator=torch.Generator().manual_seed(7))
    (y - wanted).square().sum().backward()


def orthonormality(U):
    U = U.detach()
    return float((U.T @ U - torch.eye(U.shape[1], dtype=U.dtype)).abs().max())
