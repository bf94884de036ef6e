"""Multiply-accumulates of a plan against a count of the network that comes of it."""

import pytest
import torch
from torch import nn

from sepdeploy.compression import compress_model, plan_compression
from sepdeploy.layers import is_structured
from sepdeploy.models import create, wrap
from sepdeploy.records import InputSpec


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(3)


def unpadded():
    return create("lenet", InputSpec((1, 20, 20)), 10)


def strided():
    net = nn.Sequential(
        nn.Conv2d(1, 12, 3, padding=1), nn.ReLU(), nn.Conv2d(12, 16, 3, stride=2, padding=1),
        nn.ReLU(), nn.Conv2d(16, 16, (3, 5), stride=(1, 3), padding=(2, 0), dilation=(2, 1)),
        nn.Flatten(), nn.Linear(80, 10),
    )  # fmt: skip
    return wrap(net, (1, 9, 10))


class Twice(nn.Module):
    """One convolution that is called at two sizes."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(1, 8, 3)
        self.shared = nn.Conv2d(8, 8, 3)
        self.head = nn.Linear(8, 10)

    def forward(self, x):
        return self.head(self.shared(self.shared(self.first(x))).mean((2, 3)))


def repeated():
    return wrap(Twice(), (1, 9, 9))


def transformer():
    return create("vit_tiny", InputSpec((1, 8, 8)), 10, depth=2, width=48)


def multiplications(model):
    """Products of one sample's forward pass, from what every module is given and gives back."""
    total = 0

    def count(module, inputs, output):
        nonlocal total
        if isinstance(module, nn.Conv2d):
            total += output[0, 0].numel() * module.weight.numel()
        elif isinstance(module, nn.Linear):
            total += output.numel() * module.in_features
        elif is_structured(module):  # a structured layer, whose own count is tested elsewhere
            total += output.numel() // module.spec.out_features * module.spec.macs

    hooks = [m.register_forward_hook(count) for m in model.net.modules()]
    with torch.no_grad():
        model.eval()(torch.zeros(1, *model.input.shape))
    for hook in hooks:
        hook.remove()
    return total


@pytest.mark.parametrize(
    ("make", "structure", "target"),
    [
        (unpadded, "lowrank", "2x"),
        (unpadded, "conv2=lowrank:5x7,fc1=kron", "1.1x"),
        (strided, "lowrank", "1.5x"),
        (strided, "2=lowrank:4x6,4=lowrank:3x9", ""),
        (repeated, "shared=lowrank:3x5", ""),
        (transformer, "kron", "1.5x"),
        (transformer, "lowrank", "2x"),
    ],
)
def test_a_plan_counts_what_the_network_will_compute(make, structure, target):
    model = make().eval()
    plan = plan_compression(model, structure, target, measure="macs")
    small, errors = compress_model(model, plan.changes)
    assert errors
    counted = sum(r.macs for r in small.layer_records())
    assert plan.macs == counted == multiplications(small)
    assert plan.macs_before == multiplications(model)
    assert plan.limit is None or counted <= plan.limit
