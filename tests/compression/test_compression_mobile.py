"""Nets of 1×1 and grouped convolutions, the whole way to files."""

from pathlib import Path

import numpy as np
import pytest
import torch
from mobile_net import mobile_net

import sepdeploy as sd
from sepdeploy import data
from sepdeploy.compression import compress_model, plan_compression

GROUPED = "6"  # index of the grouped convolution behind the blocks


@pytest.fixture
def mobile():
    model = sd.wrap(mobile_net(), (1, 8, 8)).eval()
    model.arch = "mobile_net:mobile_net"
    return model


@pytest.mark.parametrize(("structure", "target"), [("lowrank", "4x"), ("kron", "3x")])
def test_a_net_of_pointwise_convolutions_gets_small(mobile, structure, target):
    plan = plan_compression(mobile, structure, target)
    by_name = {x.name: x for x in plan.layers}
    assert by_name["3.body.3"].reason.startswith("depthwise")
    assert by_name["3.body.0"].structure.startswith(structure)
    small, _ = compress_model(mobile, plan.changes)
    assert small.params == plan.params <= plan.limit
    assert sum(r.macs for r in small.layer_records()) == plan.macs < plan.macs_before
    assert sum(r.params_dense for r in small.layer_records()) == sum(
        r.params for r in mobile.layer_records()
    )


def learn(net: torch.nn.Module) -> None:
    """A few passes over the digits."""
    train = data.load("digits").train
    images, labels = torch.from_numpy(train.images).float() / 255, torch.from_numpy(train.labels)
    optimizer = torch.optim.Adam(net.train().parameters(), 3e-3)
    for _ in range(6):
        for k in torch.randperm(len(images)).split(64):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(net(images[k]), labels[k]).backward()
            optimizer.step()
    net.eval()


@pytest.mark.slow
def test_all_families_together_are_exported_and_rounded(mobile, tmp_path: Path, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    text = "3.body.0=kron:4x4-8x8*2,4.body.0=debut:2x,5.body.6=lowrank:6,7=lowrank:4,0=pdp:6"
    plan = plan_compression(mobile, text)
    small, _ = compress_model(mobile, plan.changes)
    learn(small.net)  # what knows nothing is too small a signal to be rounded
    sd.save(small, tmp_path / "m.pt")
    again = sd.load(tmp_path / "m.pt", arch=small.arch)
    x = torch.rand(3, 1, 8, 8)
    with torch.no_grad():
        expected = small.net(x).numpy()
        assert np.array_equal(again.net(x).numpy(), expected)
    for precision in ("none", "static"):
        given = {} if precision == "none" else {"data": "digits"}
        manifest = sd.export(
            small, tmp_path / precision, eval_pack=False, quantize=precision, **given
        )
        assert {a.format for a in manifest.artifacts} == {"onnx", "tflite"}
        assert all(p.passed for a in manifest.artifacts for p in a.parity)
