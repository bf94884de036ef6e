"""A graph too large for one file: its weights beside it, counted, checked and moved along."""

import pytest
import torch
from torch import nn

import sepdeploy as sd
from sepdeploy import api
from sepdeploy.exporters import onnx_write
from sepdeploy.workflows.manifests import read_manifest


@pytest.fixture
def exported(tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_write.write_model, "__kwdefaults__", {"limit": 10_000})
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(192, 300), nn.ReLU(), nn.Linear(300, 5))
    sd.export(sd.wrap(net, (3, 8, 8)).eval(), tmp_path / "net", formats=("onnx",))
    return tmp_path


def test_the_data_is_recorded_and_checked(exported):
    (artifact,) = read_manifest(exported / "net.manifest.json").artifacts
    assert artifact.data is not None
    assert artifact.data.path == "net.onnx.data"
    assert artifact.file_bytes > 4 * 192 * 300
    names = {p.name for p in exported.iterdir()}
    assert names == {"net.pt", "net.onnx", "net.onnx.data", "net.manifest.json"}
    report = api.verify(exported / "net.manifest.json")
    assert report.exit_code == 0
    assert [i.path for i in report.items if i.check == "digest"] == [
        "net.pt",
        "net.onnx",
        "net.onnx.data",
    ]


def test_changed_data_is_found(exported):
    data = exported / "net.onnx.data"
    content = bytearray(data.read_bytes())
    content[100] ^= 1
    data.write_bytes(content)
    report = api.verify(exported / "net.manifest.json")
    assert report.exit_code == 6
    (failed,) = [i for i in report.items if i.result == "failed"]
    assert failed.path == "net.onnx.data"


def test_the_folder_can_move_as_one(exported):
    moved = exported.parent / "elsewhere"
    exported.rename(moved)
    assert api.verify(moved / "net.manifest.json").exit_code == 0
