"""Open sizes that are written as numbers, one name for two sizes, and inputs nobody can make up."""

import others_files
import pytest
from others_files import FLOAT

from sepdeploy import api, runtimes
from sepdeploy.errors import BadInput

pytestmark = pytest.mark.skipif(not runtimes.installed("tflite"), reason="no TFLite runtime")


@pytest.mark.parametrize("size", [-1, 0])
def test_a_size_below_one_is_open(tmp_path, size):
    ports = ([(name, FLOAT, [size, size, 4])] for name in "ay")
    source = others_files.save(tmp_path / "m.onnx", [("Relu", ["a"], ["y"], {})], *ports, {})
    with pytest.raises(BadInput, match="only the batch, its first dimension"):
        api.export(source, formats="tflite")
    manifest = api.export(source, formats="tflite", input_shape={"a": (2, 3, 4)})
    assert manifest.input.shape == (3, 4)
    assert all(p.passed for a in manifest.artifacts for p in a.parity)


def test_one_name_is_one_size(tmp_path):
    inputs = [(name, FLOAT, ["N", "L"]) for name in "ab"]
    nodes = [("Add", ["a", "b"], ["y"], {})]
    source = others_files.save(tmp_path / "m.onnx", nodes, inputs, [("y", FLOAT, ["N", "L"])], {})
    with pytest.raises(BadInput, match=r"m.onnx: size 'L' is 5 and 6$"):
        api.export(source, input_shape={"a": (2, 5), "b": (2, 6)})
