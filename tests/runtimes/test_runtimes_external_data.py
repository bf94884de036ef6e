"""Tensors outside the model's folder are refused, whichever way they are reached."""

import os

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx_builder import linear_model, onnx_model

from sepdeploy import runtimes
from sepdeploy.errors import BadInput


@pytest.fixture
def split(tmp_path, weights):
    """A model whose weights lie in a file beside it."""
    folder = tmp_path / "model"
    folder.mkdir()
    path = folder / "m.onnx"
    model = linear_model(*weights)
    onnx.save(model, str(path), save_as_external_data=True, location="m.data", size_threshold=0)
    return path


def point_to(path, location):
    model = onnx.load(str(path), load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = location
    path.write_bytes(model.SerializeToString())


def test_data_beside_the_model_is_read(split, rng, weights):
    x = rng.random((2, 12), dtype=np.float32)
    expected = x @ weights[0].T + weights[1]
    np.testing.assert_allclose(runtimes.open(split).run(x), expected, rtol=1e-5, atol=1e-5)


def test_the_path_of_the_model_itself_may_be_a_link(split, tmp_path, rng):
    link = tmp_path / "link"
    link.symlink_to(split.parent)
    assert runtimes.open(link / "m.onnx").run(rng.random((1, 12), dtype=np.float32)).shape == (1, 5)


@pytest.mark.parametrize(
    ("location", "why"),
    [
        ("../secret", "outside the model's folder"),
        ("sub/../../secret", "outside the model's folder"),
        ("absent.data", "does not exist"),
        (".", "not a plain file"),
    ],
)
def test_other_places_are_refused(split, location, why):
    (split.parent.parent / "secret").write_bytes(b"\0" * 1000)
    point_to(split, location)
    with pytest.raises(BadInput, match=why) as caught:
        runtimes.open(split)
    assert location in caught.value.message


def test_an_absolute_path_is_refused(split):
    point_to(split, str(split.parent / "m.data"))
    with pytest.raises(BadInput, match="an absolute path"):
        runtimes.open(split)


def test_links_are_refused(split, tmp_path):
    data = split.parent / "m.data"
    secret = tmp_path / "secret"
    data.rename(secret)
    data.symlink_to(secret)
    with pytest.raises(BadInput, match="symbolic link"):
        runtimes.open(split)
    data.unlink()
    os.link(secret, data)
    with pytest.raises(BadInput, match="hard links"):
        runtimes.open(split)


def test_tensors_inside_attributes_are_found_too(tmp_path):
    tensor = numpy_helper.from_array(np.ones(300, np.float32), "hidden")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/hostname")
    model = onnx_model(
        [
            helper.make_node("Constant", [], ["c"], value=tensor),
            helper.make_node("Add", ["input", "c"], ["logits"]),
        ],
        [("input", TensorProto.FLOAT, ["batch", 300])],
        [("logits", TensorProto.FLOAT, ["batch", 300])],
    )
    path = tmp_path / "m.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(BadInput, match="'hidden' keeps its data in '/etc/hostname'"):
        runtimes.open(path)


def test_the_word_alone_harms_nobody(tmp_path, weights):
    path = tmp_path / "m.onnx"
    onnx.save(linear_model(*weights, metadata={"location": "../elsewhere"}), str(path))
    assert runtimes.open(path).input.shape == (12,)
    path.write_bytes(b"location of garbage")
    with pytest.raises(BadInput, match="not a readable ONNX file"):
        runtimes.open(path)
