"""External data of anybody's ONNX file: read from beside it, and from nowhere else."""

import os

import numpy as np
import onnx
import pytest
from foreign_graphs import agree, canonical_of, small_net
from onnx import numpy_helper

from sepdeploy.errors import BadInput
from sepdeploy.exporters.capture.onnx_source import read_onnx


@pytest.fixture
def apart(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    path = folder / "m.onnx"
    onnx.save(
        small_net(), str(path), save_as_external_data=True, location="m.data", size_threshold=1024
    )
    return path


def edit(path, **entries):
    model = onnx.load(str(path), load_external_data=False)
    for tensor in model.graph.initializer:
        if tensor.name != "fc":
            continue
        for key, value in entries.items():
            for entry in [e for e in tensor.external_data if e.key == key]:
                tensor.external_data.remove(entry)
            if value is not None:
                tensor.external_data.add(key=key, value=str(value))
    path.write_bytes(model.SerializeToString())


def test_external_data_is_read(apart):
    model = canonical_of(apart)
    assert agree(apart, model)
    onnx.checker.check_model(model, full_check=True)


def test_misaligned_data_is_read(apart):
    data = apart.with_name("m.data").read_bytes()
    light = onnx.load(str(apart), load_external_data=False)
    told = {
        e.key: e.value for t in light.graph.initializer if t.name == "fc" for e in t.external_data
    }
    start, length = int(told["offset"]), int(told["length"])
    apart.with_name("m.data").write_bytes(
        data + b"x" * (3 - len(data) % 4) + data[start : start + length]
    )
    edit(apart, offset=len(data) + 3 - len(data) % 4)
    model = canonical_of(apart)
    wanted = numpy_helper.to_array(next(t for t in small_net().graph.initializer if t.name == "fc"))
    found = numpy_helper.to_array(next(t for t in model.graph.initializer if t.name == "fc"))
    assert np.array_equal(found, wanted)


@pytest.mark.parametrize(
    ("location", "why"),
    [
        ("../secret", "outside the model's folder"),
        ("sub/../../secret", "outside the model's folder"),
        ("absent.data", "does not exist"),
        ("", "not a plain file"),
        (".", "not a plain file"),
    ],
)
def test_data_elsewhere_is_refused(apart, location, why):
    (apart.parent.parent / "secret").write_bytes(b"\0" * 1_000_000)
    edit(apart, location=location)
    with pytest.raises(BadInput, match=why) as caught:
        read_onnx(apart)
    assert "\n" not in caught.value.message


def test_absolute_paths_and_links_are_refused(apart, tmp_path):
    secret = tmp_path / "secret"
    secret.write_bytes(apart.with_name("m.data").read_bytes())
    edit(apart, location=secret)
    with pytest.raises(BadInput, match="an absolute path"):
        read_onnx(apart)
    (apart.parent / "soft.data").symlink_to(secret)
    edit(apart, location="soft.data")
    with pytest.raises(BadInput, match="a symbolic link"):
        read_onnx(apart)
    os.link(secret, apart.parent / "hard.data")
    edit(apart, location="hard.data")
    with pytest.raises(BadInput, match="several hard links"):
        read_onnx(apart)
    (apart.parent / "sub").symlink_to(tmp_path)
    edit(apart, location="sub/secret")
    with pytest.raises(BadInput, match="a symbolic link"):
        read_onnx(apart)


@pytest.mark.parametrize(
    "entries",
    [
        {"offset": -4},
        {"offset": 10**15},
        {"offset": "x"},
        {"length": 8},
        {"length": -1},
        {"length": 10**15},
    ],
)
def test_wrong_places_inside_the_data_are_refused(apart, entries):
    edit(apart, **entries)
    with pytest.raises(BadInput, match=r"not where it says|no number"):
        read_onnx(apart)


def test_a_short_data_file_is_refused(apart):
    data = apart.with_name("m.data")
    data.write_bytes(data.read_bytes()[:-5])
    with pytest.raises(BadInput, match="not where it says"):
        read_onnx(apart)
