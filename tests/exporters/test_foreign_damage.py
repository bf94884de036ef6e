"""ONNX files that are damaged, absurd or no ONNX at all: one line, never a crash."""

import contextlib
import os

import numpy as np
import pytest
from foreign_graphs import agree, canonical_of, foreign, small_net, stored
from onnx import TensorProto, helper, numpy_helper

from sepdeploy.errors import BadInput
from sepdeploy.exporters.capture.normalize import input_shape
from sepdeploy.exporters.capture.onnx_source import read_onnx
from sepdeploy.exporters.domain import DOMAIN
from sepdeploy.exporters.graph_layers import graph_macs
from sepdeploy.exporters.tflite_file.write import write_tflite

F32 = TensorProto.FLOAT


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda m: m.graph.initializer[0].dims.append(10**12), "other data than its shape"),
        (lambda m: m.graph.initializer[0].dims.__setitem__(0, -96), "has shape"),
        (lambda m: setattr(m.graph.initializer[0], "data_type", 99), "no numeric type"),
        (lambda m: setattr(m.graph.initializer[0], "data_type", TensorProto.STRING), "no numeric"),
        (lambda m: setattr(m.graph.initializer[0], "raw_data", b"123"), "other data than"),
        (lambda m: m.graph.sparse_initializer.add(), "sparse"),
        (lambda m: m.ClearField("graph"), "not an ONNX file"),
        (lambda m: m.graph.ClearField("node"), "graph is empty"),
        (lambda m: setattr(m.opset_import[0], "domain", "else.where"), "opset 0 is too old"),
        (lambda m: m.graph.input.add(name="other"), "input 'other' is no tensor"),
        (lambda m: m.graph.ClearField("input"), "has no input"),
        (lambda m: setattr(m.graph.node[1], "domain", "com.microsoft"), "no standard ONNX"),
    ],
)
def test_files_that_make_no_sense_are_refused_in_one_line(tmp_path, change, match):
    model = small_net()
    change(model)
    with pytest.raises(BadInput, match=match) as caught:
        canonical_of(stored(tmp_path, model))
    assert "\n" not in caught.value.message


RELU = helper.make_node("Relu", ["image"], ["y"])


@pytest.mark.parametrize(
    ("nodes", "match"),
    [
        ([("Add", ["image", "b"], ["a"]), ("Neg", ["a"], ["b"])], "has a cycle"),
        ([("FooLinear", ["image"], ["y"], "ai.sepdeploy")], "unknown op ai.sepdeploy.FooLinear"),
        ([("LowRankLinear", ["image"], [], "ai.sepdeploy")], "not valid ONNX"),
        ([("Conv", [], ["y"])], "not valid ONNX: .*input size 0"),
        ([("Relu", ["image"], [])], "not valid ONNX: .*output size 0"),
        ([("Gather", ["image"], ["a"])], "not valid ONNX: .*input size 1"),
        ([("Gather", ["image", ""], ["a"])], "not valid ONNX: .*empty string"),
        ([("Reshape", ["image"], ["a"])], "not valid ONNX"),
        ([("Shape", [], ["a"])], "not valid ONNX"),
        ([("Neg", ["nothing"], ["a"])], "not valid ONNX: .*'nothing'"),
        ([("Neg", ["image"], ["y"])], "not valid ONNX: .*multiple times"),
        ([("Relux", ["image"], ["a"])], "not valid ONNX: No Op registered"),
    ],
)
def test_graphs_that_cannot_be_are_refused_in_one_line(tmp_path, nodes, match):
    made = [helper.make_node(*n[:3], "", domain=(*n, "")[3]) for n in nodes]
    model = foreign([RELU, *made], {})
    model.opset_import.append(helper.make_opsetid(DOMAIN, 1))
    with pytest.raises(BadInput, match=match) as caught:
        canonical_of(stored(tmp_path, model))
    assert "\n" not in caught.value.message
    assert caught.value.message.startswith("m.onnx")


def test_nodes_in_any_order_are_read_as_the_runtime_reads_them(tmp_path):
    model = small_net()
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend(nodes[::-1])
    model.graph.ClearField("name")
    model.graph.output[0].type.tensor_type.ClearField("shape")
    path = stored(tmp_path, model)
    assert agree(path, canonical_of(path))


def test_functions_that_call_themselves_or_lack_an_input_are_refused(tmp_path):
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("someone", 1)]
    for body, match in (
        (helper.make_node("Own", ["X"], ["Y"], domain="someone"), "cannot be inlined: Cycle"),
        (helper.make_node("Gather", ["X", "Z"], ["Y"]), "not valid ONNX"),
    ):
        own = helper.make_function("someone", "Own", ["X", "Z"], ["Y"], [body], opsets)
        call = helper.make_node("Own", ["image"], ["y"], domain="someone")
        with pytest.raises(BadInput, match=match):
            canonical_of(stored(tmp_path, foreign([call], {}, functions=[own])))


def test_names_that_are_no_text_are_refused(tmp_path):
    path = stored(tmp_path, small_net(big=False))
    path.write_bytes(path.read_bytes().replace(b"classifier", b"classi\xff\xfeer"))
    with pytest.raises(BadInput, match="a name that is no text"):
        canonical_of(path)


@pytest.mark.parametrize("batch", ["N", 2])
def test_shapes_that_a_file_notes_wrongly_do_no_harm(tmp_path, batch):
    """The runtime only warns of them."""
    model = small_net(shape=(batch, 3, 8, 8))
    model.graph.value_info.append(helper.make_tensor_value_info("s", F32, [batch, 3]))
    nodes = [helper.make_node("Reshape", ["y", "whole"], ["z"])]
    model.graph.node.extend(nodes)
    model.graph.initializer.append(numpy_helper.from_array(np.array([2, -1, 1]), "whole"))
    model.graph.output[0].name = "z"
    model.graph.value_info.append(helper.make_tensor_value_info("y", F32, [batch, 200, 1]))
    model.graph.value_info.append(helper.make_tensor_value_info("z", F32, [batch, 200, 1]))
    path = stored(tmp_path, model)
    assert agree(path, canonical_of(path))


def test_a_constant_inside_a_node_has_the_data_its_shape_asks_for(tmp_path):
    value = numpy_helper.from_array(np.ones(8, np.float32), "c")
    value.dims[0] = 2**40
    nodes = [
        helper.make_node("Constant", [], ["c"], value=value),
        helper.make_node("Add", ["image", "c"], ["y"]),
    ]
    with pytest.raises(BadInput, match="'c' has other data than its shape"):
        canonical_of(stored(tmp_path, foreign(nodes, {})))


def test_a_type_without_a_tflite_form_is_refused(tmp_path):
    nodes = [helper.make_node("Concat", ["c", "image"], ["y"], axis=0)]
    constant = np.ones((1, 3, 8, 8), np.complex64)
    model = canonical_of(stored(tmp_path, foreign(nodes, {"c": constant}, shape=(2, 3, 8, 8))))
    with pytest.raises(BadInput, match="of complex64 has no TFLite form"):
        write_tflite(model, tmp_path / "m.tflite", choices=())


def test_a_product_of_a_scalar_counts_nothing(tmp_path):
    """It is no valid product; who runs the file will say so."""
    nodes = [
        helper.make_node("MatMul", ["c", "image"], ["p"]),
        helper.make_node("Add", ["p", "image"], ["y"]),
    ]
    assert graph_macs(canonical_of(stored(tmp_path, foreign(nodes, {"c": np.float32(2)})))) == 0


def test_open_sizes_are_refused(tmp_path):
    model = canonical_of(stored(tmp_path, small_net(shape=("N", 3, "h", 8))))
    with pytest.raises(BadInput, match=r"\['batch', 3, 'h', 8\]"):
        input_shape(model, "m.onnx")


@pytest.mark.parametrize("content", [b"", b"\x08", b"hello, this is text", os.urandom(200)])
def test_other_files_are_refused(tmp_path, content):
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    with pytest.raises(BadInput, match="not an ONNX file"):
        read_onnx(path)
    with pytest.raises(BadInput, match="cannot read"):
        read_onnx(tmp_path / "absent.onnx")


def test_cut_files_never_crash(tmp_path):
    data = small_net(big=False).SerializeToString()
    for length in range(0, len(data), 23):
        path = tmp_path / "m.onnx"
        path.write_bytes(data[:length])
        with contextlib.suppress(BadInput):
            canonical_of(path)
