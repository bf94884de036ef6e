"""Open sizes that are written as numbers, one name for two sizes, and inputs nobody can make up."""

import re

import numpy as np
import others_files
import pytest
from onnx import TensorProto
from others_files import FLOAT, INT64

from sepdeploy import api, runtimes
from sepdeploy.errors import BadInput
from sepdeploy.exports.named import asked
from sepdeploy.records import TensorSpec

pytestmark = pytest.mark.skipif(not runtimes.installed("tflite"), reason="no TFLite runtime")


@pytest.mark.parametrize("size", [-1, 0])
def test_a_size_below_one_is_open(tmp_path, size):
    ports = ([(name, FLOAT, [size, size, 4])] for name in "ay")
    source = others_files.save(tmp_path / "m.onnx", [("Relu", ["a"], ["y"], {})], *ports, {})
    assert [p.shape for p in api.inspect(source).file.inputs] == [("?", "?", 4)]
    with pytest.raises(BadInput, match="only the batch, its first dimension"):
        api.export(source, formats="tflite")
    manifest = api.export(source, formats="tflite", input_shape={"a": (2, 3, 4)})
    assert manifest.input.shape == (3, 4)
    assert all(p.passed for a in manifest.artifacts for p in a.parity)


@pytest.mark.parametrize(
    ("least", "most", "drawn"),
    [(-255, 255, (-255, 255)), (0, 255, (0, 255)), (-2, 9, (0, 1))],
)
@pytest.mark.parametrize("refuses", [True, False])
def test_integers_of_both_signs_go_in_where_the_source_takes_them(least, most, drawn, refuses):
    """A source refuses what it does not take, or gives no number for it."""

    def ask(feeds):
        ids = feeds["ids"]
        inside = bool(((ids >= least) & (ids <= most)).all())
        if refuses and not inside:
            raise BadInput("no such row", hint="none")
        return {"y": np.full(1, 1.0 if inside else np.nan)}

    found = asked(ask, (TensorSpec("ids", "int64", (4000,)),), said_by="it", seed=0)
    for case in found.cases:
        assert (case.inputs["ids"].min(), case.inputs["ids"].max()) == drawn
        assert case.tolerance == {"y": 1e-5}


def test_one_name_is_one_size(tmp_path):
    inputs = [(name, FLOAT, ["N", "L"]) for name in "ab"]
    nodes = [("Add", ["a", "b"], ["y"], {})]
    source = others_files.save(tmp_path / "m.onnx", nodes, inputs, [("y", FLOAT, ["N", "L"])], {})
    with pytest.raises(BadInput, match=r"m.onnx: size 'L' is 5 and 6$"):
        api.export(source, input_shape={"a": (2, 5), "b": (2, 6)})


def test_what_no_input_can_be_made_for_is_said_of_the_users_file(tmp_path):
    ports = ([(name, TensorProto.STRING, ["N"])] for name in "ay")
    source = others_files.save(tmp_path / "m.onnx", [("Identity", ["a"], ["y"], {})], *ports, {})
    with pytest.raises(BadInput) as caught:
        api.export(source, formats="tflite")
    assert caught.value.message.startswith(f"{source}: no inputs can be made up for 'a'")


def test_an_error_of_the_judged_copy_names_the_users_file(tmp_path):
    """The table has one row, so whatever index is made up is refused by the runtime."""
    nodes = [("Gather", ["table", "ids"], ["y"], {})]
    ports = [("ids", INT64, ["N", "L"])], [("y", FLOAT, ["N", "L", 4])]
    table = {"table": others_files.numbers(1, 4)}
    source = others_files.save(tmp_path / "m.onnx", nodes, *ports, table)
    with pytest.raises(BadInput) as caught:
        api.export(source, formats="tflite", input_shape={"ids": (2, 50)})
    assert str(source) in caught.value.message
    assert not re.search(r"\S+/m\.onnx", caught.value.message.replace(str(source), ""))
