"""A graph too large for one file: its weights beside it, counted, checked and moved along."""

import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

import sepdeploy as sd
from sepdeploy import api
from sepdeploy.exporters.onnx_file import disk as onnx_write
from sepdeploy.exports.manifest import read_manifest


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    folder = tmp_path_factory.mktemp("large")
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(192, 300), nn.ReLU(), nn.Linear(300, 5))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnx_write.write_model, "__kwdefaults__", {"limit": 10_000})
        sd.export(sd.wrap(net, (3, 8, 8)).eval(), folder / "net", formats=("onnx",))
    return folder


@pytest.fixture
def exported(original, tmp_path):
    """A copy of the export, to be changed and moved."""
    return Path(shutil.copytree(original, tmp_path / "model"))


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
    moved = exported.with_name("elsewhere")
    exported.rename(moved)
    assert api.verify(moved / "net.manifest.json").exit_code == 0
