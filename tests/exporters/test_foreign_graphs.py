"""Reading anybody's ONNX file: limits, external data, opsets, and the graph it becomes."""

import contextlib
import os

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from sepdeploy import runtimes
from sepdeploy.errors import BadInput
from sepdeploy.exporters.domain import DOMAIN, OPSET
from sepdeploy.exporters.graph_layers import graph_layers, graph_macs
from sepdeploy.exporters.normalize import fixed_batch, input_shape, normalize
from sepdeploy.exporters.onnx_source import read_onnx
from sepdeploy.exporters.tflite_file import write_tflite

F32 = TensorProto.FLOAT


def foreign(nodes, constants, *, opset=17, shape=("N", 3, 8, 8), outputs=("y",), functions=()):
    def info(name, dims):
        return helper.make_tensor_value_info(name, F32, dims)

    graph = helper.make_graph(
        nodes,
        "made elsewhere",
        [info("image", list(shape))],
        [info(name, None) for name in outputs],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()],
    )
    opsets = [helper.make_opsetid("", opset)]
    opsets += [helper.make_opsetid(d, 1) for d in sorted({f.domain for f in functions})]
    model = helper.make_model(
        graph, opset_imports=opsets, ir_version=8 if not functions else 9, functions=functions
    )
    model.producer_name = "elsewhere"
    return model


def small_net(opset=17, shape=("N", 3, 8, 8), big=True, axes=False):
    """Conv, Relu, Squeeze-and-Unsqueeze, mean, Gemm: older opsets keep axes in attributes."""
    rng = np.random.default_rng(0)
    width = 96 if big else 4
    constants = {
        "w": rng.standard_normal((width, 3, 3, 3)).astype(np.float32) / 5,
        "b": rng.standard_normal(width).astype(np.float32),
        "fc": rng.standard_normal((width, 200 if big else 5)).astype(np.float32) / width,
    }
    nodes = [
        helper.make_node("Conv", ["image", "w", "b"], ["a"], "conv", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["r"], ""),
    ]
    if opset < 13:
        nodes.append(helper.make_node("ReduceMean", ["r"], ["m"], axes=[2, 3], keepdims=1))
        nodes.append(helper.make_node("Squeeze", ["m"], ["s"], axes=[2, 3]))
    else:
        constants["axes"] = np.array([2, 3])
        nodes.append(helper.make_node("GlobalAveragePool", ["r"], ["m"]))
        nodes.append(helper.make_node("Squeeze", ["m", "axes"], ["s"]))
    nodes.append(helper.make_node("MatMul", ["s", "fc"], ["y"], "classifier"))
    return foreign(nodes, constants, opset=opset, shape=shape)


def canonical_of(path, notify=lambda text: None):
    light, weights = read_onnx(path)
    return normalize(light, weights, where=path.name, notify=notify)


def stored(tmp_path, model, name="m.onnx"):
    path = tmp_path / name
    path.write_bytes(model.SerializeToString())
    return path


def agree(path, canonical, batch=2, shape=(3, 8, 8)):
    x = np.random.default_rng(1).standard_normal((batch, *shape)).astype(np.float32)
    expected = onnx_run(path, x)
    renamed = onnx.ModelProto()
    renamed.CopyFrom(canonical)
    return np.abs(onnx_run(renamed, x) - expected).max() <= 1e-5 * np.abs(expected).max()


def onnx_run(model, x):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    source = model.SerializeToString() if isinstance(model, onnx.ModelProto) else str(model)
    session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x})[0]


# --- what comes out


@pytest.mark.parametrize("opset", [11, 12, 13, 17, 18, 20, 21])
def test_every_opset_becomes_ours_or_stays(tmp_path, opset):
    path = stored(tmp_path, small_net(opset))
    model = canonical_of(path)
    found = next(o.version for o in model.opset_import if o.domain == "")
    assert found == OPSET or opset > OPSET
    assert agree(path, model)
    assert model.producer_name == ""
    assert all(node.name for node in model.graph.node)
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"


def test_constants_listed_as_inputs_are_none(tmp_path):
    model = small_net()
    model.graph.input.append(helper.make_tensor_value_info("w", F32, [96, 3, 3, 3]))
    model.graph.input.append(helper.make_tensor_value_info("b", F32, [96]))
    found = canonical_of(stored(tmp_path, model))
    assert [i.name for i in found.graph.input] == ["image"]
    assert {"w", "b"} <= {t.name for t in found.graph.initializer}


def test_functions_are_inlined(tmp_path):
    body = [
        helper.make_node("Sigmoid", ["X"], ["S"]),
        helper.make_node("Mul", ["X", "S"], ["Y"]),
    ]
    opset = [helper.make_opsetid("", 17)]
    swish = helper.make_function("someone", "MySwish", ["X"], ["Y"], body, opset)
    nodes = [helper.make_node("MySwish", ["image"], ["y"], "act", domain="someone")]
    path = stored(tmp_path, foreign(nodes, {}, functions=[swish]))
    model = canonical_of(path)
    assert sorted(n.op_type for n in model.graph.node) == ["Mul", "Sigmoid"]
    assert agree(path, model)


def test_only_the_first_output_is_kept_and_that_is_said(tmp_path):
    model = small_net()
    model.graph.output.append(helper.make_tensor_value_info("r", F32, None))
    said = []
    found = canonical_of(stored(tmp_path, model), said.append)
    assert [o.name for o in found.graph.output] == ["y"]
    assert "has 2 outputs: the first, 'y', is kept" in said[0]


def test_of_several_outputs_logits_are_kept_as_a_session_gives_them(tmp_path):
    model = small_net()
    model.graph.output.append(helper.make_tensor_value_info("r", F32, None))
    model.graph.node[0].output[0] = model.graph.node[1].input[0] = "logits"
    model.graph.output.append(helper.make_tensor_value_info("logits", F32, None))
    said = []
    path = stored(tmp_path, model)
    found = canonical_of(path, said.append)
    assert [o.name for o in found.graph.output] == ["logits"]
    assert said == ["m.onnx has 3 outputs: 'logits' is kept"]
    with runtimes.open(path) as session:
        x = np.ones((2, 3, 8, 8), np.float32)
        assert np.allclose(session.run(x), onnx_run(found, x), rtol=1e-4, atol=1e-4)


def test_a_fixed_batch_stays(tmp_path):
    model = canonical_of(stored(tmp_path, small_net(shape=(4, 3, 8, 8))))
    assert fixed_batch(model) == 4
    assert input_shape(model, "m") == (3, 8, 8)
    assert fixed_batch(canonical_of(stored(tmp_path, small_net()))) is None


def test_a_mean_over_the_batch_is_refused_where_the_batch_is_open(tmp_path):
    def centred(batch):
        nodes = [
            helper.make_node("ReduceMean", ["image"], ["m"], axes=[0]),
            helper.make_node("Sub", ["image", "m"], ["y"]),
        ]
        return stored(tmp_path, foreign(nodes, {}, shape=(batch, 3, 8, 8)))

    with pytest.raises(BadInput, match=r"m.onnx: ReduceMean node .* over the batch"):
        canonical_of(centred("N"))
    assert agree(centred(2), canonical_of(centred(2)))


def test_layers_and_products_are_counted(tmp_path):
    model = canonical_of(stored(tmp_path, small_net()))
    conv, fc = graph_layers(model)
    assert (conv.name, conv.params, conv.macs) == ("conv", 96 * 27 + 96, 64 * 96 * 27)
    assert (fc.name, fc.params, fc.macs) == ("classifier", 96 * 200, 96 * 200)
    assert graph_macs(model) == conv.macs + fc.macs


def test_products_of_activations_count(tmp_path):
    nodes = [
        helper.make_node("Flatten", ["image"], ["f"]),
        helper.make_node("Reshape", ["f", "shape"], ["t"]),
        helper.make_node("Transpose", ["t"], ["u"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["t", "u"], ["y"], "scores"),
    ]
    model = canonical_of(stored(tmp_path, foreign(nodes, {"shape": np.array([-1, 16, 12])})))
    assert graph_layers(model) == ()
    assert graph_macs(model) == 16 * 16 * 12


# --- external data


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


# --- damaged and absurd files


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
        (lambda m: setattr(m.opset_import[0], "version", 7), "opset 7 is too old"),
        (lambda m: m.graph.input.add(name="other"), "expected one input, found 2"),
        (lambda m: m.graph.ClearField("input"), "expected one input, found 0"),
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
    with pytest.raises(BadInput, match="complex64, which has no TFLite form"):
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
