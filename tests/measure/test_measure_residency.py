"""The re-densification check: traps are caught, honest files pass, whatever names are left."""

import numpy as np
import onnx
import pytest
from measure_models import Network, kron_record, model_of, naive_kron, save
from onnx import TensorProto, helper, numpy_helper

from sepdeploy import measure, runtimes
from sepdeploy.errors import BadInput
from sepdeploy.exporters.tflite_file.format.reader import OpInfo, TensorInfo, TfliteFile
from sepdeploy.exporters.tflite_file.write import write_tflite
from sepdeploy.measure.proof.residency import Blueprint, attribute, judge_residency, limit
from sepdeploy.measure.proof.resident_graph import (
    UNKNOWN_SIZE,
    GraphNode,
    ResidentGraph,
    _from_tflite,
    from_onnx,
    optimized_onnx,
    tflite_file,
)
from sepdeploy.records import Kind, LayerRecord

needs_tflite = pytest.mark.skipif(
    not runtimes.installed("tflite"), reason="no TFLite runtime installed"
)


@pytest.fixture(scope="module")
def factors():
    rng = np.random.default_rng(0)
    return rng.standard_normal((32, 32), np.float32), rng.standard_normal((32, 32), np.float32)


@pytest.mark.parametrize("prefix", ["layer/", "", "MatMul_7/"])
@pytest.mark.parametrize("how", ["mul", "einsum"])
def test_a_naive_kronecker_graph_is_caught(tmp_path, factors, how, prefix):
    """The file is 8 KiB and right; ONNX Runtime makes 4 MiB of it. Names do not matter."""
    A, B = factors
    path = save(naive_kron(A, B, how=how, prefix=prefix), tmp_path / "naive.onnx")
    assert path.stat().st_size < 10_000
    x = np.random.default_rng(1).random((3, 1024), dtype=np.float32)
    np.testing.assert_allclose(
        runtimes.open(path).run(x), x @ np.kron(A, B).T, rtol=1e-3, atol=1e-3
    )
    (row,) = measure.check_residency(path, [kron_record("layer", A, B)])
    assert not row.passed
    assert row.layer == "layer"
    assert row.factor_bytes == A.nbytes + B.nbytes
    assert row.resident_bytes >= 1024 * 1024 * 4
    assert row.limit_bytes == limit(row.factor_bytes)


@needs_tflite
def test_a_naive_tflite_file_is_caught(tmp_path, factors):
    A, B = factors
    path = tmp_path / "naive.tflite"
    write_tflite(naive_kron(A, B, how="mul"), path)
    (row,) = measure.check_residency(path, [kron_record("layer", A, B)])
    assert not row.passed
    assert row.resident_bytes >= 1024 * 1024 * 4


def test_a_dense_layer_in_the_place_of_a_structured_one_is_caught(tmp_path, network):
    """Everything is named as planned, only that the weight is the dense matrix."""
    canonical = network.canonical()
    dense = np.kron(network.A, network.B)
    node = next(n for n in canonical.graph.node if n.name == "first")
    canonical.graph.initializer.append(numpy_helper.from_array(dense, "W"))
    node.CopyFrom(
        helper.make_node("Gemm", ["input", "W", "first.bias"], ["first"], "first", transB=1)
    )
    path = network.write(tmp_path / "dense.onnx", canonical=canonical)
    rows = {row.layer: row for row in measure.check_residency(path, network.layers)}
    assert not rows["first"].passed
    assert rows["first"].resident_bytes >= dense.nbytes
    assert rows["second"].passed


@pytest.mark.parametrize("flavour", ["standard", "custom"])
def test_honest_onnx_files_pass(tmp_path, network, flavour):
    path = network.write(tmp_path / "net.onnx", flavour=flavour)
    rows = measure.check_residency(path, network.layers)
    assert [row.layer for row in rows] == ["first", "second"]
    for row, layer in zip(rows, network.layers, strict=False):
        assert row.passed
        assert row.resident_bytes == row.factor_bytes == layer.params * 4


@needs_tflite
def test_honest_tflite_files_pass(artifacts, network):
    rows = measure.check_residency(artifacts["tflite"], network.layers)
    assert [(row.layer, row.passed) for row in rows] == [("first", True), ("second", True)]
    assert all(r.factor_bytes <= r.resident_bytes <= r.limit_bytes for r in rows)


def test_honest_files_without_an_entry_pass(tmp_path, network):
    path = network.write(tmp_path / "net.onnx", entry=False)
    assert all(row.passed for row in measure.check_residency(path, network.layers))


def matmul(rows, columns):
    weight = np.ones((rows, columns), np.float32)
    node = helper.make_node("MatMul", ["input", "w"], ["logits"])
    return model_of([node], {"w": weight}, rows, columns)


def test_a_dense_network_has_no_rows(tmp_path):
    model = matmul(8, 4)
    record = LayerRecord("head", "dense", ((4, 8),), 32, 32, 32, 32)
    assert measure.check_residency(save(model, tmp_path / "d.onnx"), [record]) == ()


def test_other_layers_that_grow_are_reported(tmp_path):
    """A dense layer of 32 weights that holds 4096 of them, beside no structured layer."""
    model = matmul(64, 64)
    record = LayerRecord("head", "dense", ((4, 8),), 32, 32, 32, 32)
    (row,) = measure.check_residency(save(model, tmp_path / "d.onnx"), [record])
    assert (row.passed, row.layer) == (False, "(other layers)")


# --- attribution, on graphs built by hand


def record(name, params, structure="kron"):
    return LayerRecord(name, structure, (), params, params, params, params)


def test_the_limit_is_the_rule_of_the_design():
    assert limit(0) == 1024
    assert limit(100_000) == 105_000 + 1024
    exact = limit(4000)
    for held, passed in ((exact, True), (exact + 1, False)):
        graph = ResidentGraph((GraphNode("a/Gemm", ("x", "w"), ("y",)),), {"w": held})
        (row,) = judge_residency(graph, [record("a", 1000)])
        assert row.passed is passed


def test_constants_belong_by_weight_name_then_label_then_place():
    nodes = (
        GraphNode("", ("x", "one", "weight.of.b"), ("h",)),
        GraphNode("a/Gemm", ("h", "two"), ("i",)),
        GraphNode("fused", ("i", "three"), ("canonical.out",)),
        GraphNode("tail", ("canonical.out", "four"), ("logits",)),
    )
    plan = Blueprint(
        nodes=(
            ("c", GraphNode("c", ("x",), ("canonical.out",))),
            ("", GraphNode("head", ("canonical.out",), ("logits",))),
        ),
        owners={"weight.of.b": "b", "four": ""},
    )
    sizes = {"one": 1, "two": 10, "three": 100, "four": 1000, "weight.of.b": 10_000, "a/x": 5}
    held = attribute(ResidentGraph(nodes, sizes), ["a", "b", "c"], plan)
    assert held == {"c": 101, "a": 15, "": 1000, "b": 10_000}


def test_a_shared_constant_counts_in_every_layer():
    nodes = (GraphNode("a/M", ("x", "w"), ("h",)), GraphNode("b/M", ("h", "w"), ("y",)))
    held = attribute(ResidentGraph(nodes, {"w": 7}), ["a", "b"], Blueprint())
    assert held == {"a": 7, "b": 7}


def test_layers_whose_names_begin_alike_are_told_apart():
    nodes = (GraphNode("fc1/M", ("x", "v"), ("h",)), GraphNode("fc10/M", ("h", "w"), ("y",)))
    held = attribute(ResidentGraph(nodes, {"v": 1, "w": 2}), ["fc1", "fc10"], Blueprint())
    assert held == {"fc1": 1, "fc10": 2}
    nodes = (GraphNode("fused fc1/M", ("x", "fc10.bias", "v"), ("h",)),)
    held = attribute(ResidentGraph(nodes, {"v": 1, "fc10.bias": 2}), ["fc1", "fc10"], Blueprint())
    assert held == {"fc1": 1, "fc10": 2}
    nodes = (GraphNode("net.fc/inner/M", ("x", "v"), ("h",)),)
    held = attribute(ResidentGraph(nodes, {"v": 1}), ["net.fc", "net.fc/inner"], Blueprint())
    assert held == {"net.fc/inner": 1}


def test_an_excess_goes_to_the_layers_that_lack_theirs():
    nodes = (GraphNode("a/M", ("x", "v"), ("h",)), GraphNode("?", ("h", "w"), ("y",)))
    layers = [record("a", 1000), record("b", 1000), record("head", 10, "dense")]
    rows = judge_residency(ResidentGraph(nodes, {"v": 4000, "w": 900_000}), layers)
    assert [(r.layer, r.passed) for r in rows] == [("a", True), ("b", False)]
    assert rows[1].resident_bytes == 900_000 - 40
    rows = judge_residency(ResidentGraph(nodes, {"v": 4000, "w": 4040}), layers)
    assert all(r.passed for r in rows)


# --- what counts as a constant


def test_values_computed_from_constants_count_even_where_nobody_folds_them():
    A = np.ones((8, 8), np.float32)
    model = naive_kron(A, A, how="mul")
    graph = from_onnx(model)  # not optimised: the products are still nodes
    assert graph.constants["layer/W"] == graph.constants["layer/AB"] == 64 * 64 * 4
    assert "layer/dims" not in graph.constants
    assert "logits" not in graph.constants


def test_a_computed_constant_of_unknown_size_fails_every_limit():
    nodes = [
        helper.make_node("NonZero", ["w"], ["i"]),
        helper.make_node("Cast", ["i"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["input", "f"], ["logits"]),
    ]
    graph = from_onnx(model_of(nodes, {"w": np.ones((2, 3), np.float32)}, 2, 6))
    assert graph.constants["f"] == UNKNOWN_SIZE
    assert graph.constants["w"] == 24


def test_weights_in_constant_nodes_and_in_bodies_count():
    body = helper.make_graph(
        [helper.make_node("Identity", ["inner"], ["out"])],
        "body",
        [],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.ones(100, np.float32), "inner")],
    )
    nodes = [
        helper.make_node("If", ["flag"], ["z"], then_branch=body, else_branch=body),
        helper.make_node(
            "Constant", [], ["c"], value=numpy_helper.from_array(np.ones(10, np.float16))
        ),
        helper.make_node(
            "Constant", [], ["n"], value=numpy_helper.from_array(np.ones(10, np.int64))
        ),
        helper.make_node("Identity", ["input"], ["logits"]),
    ]
    graph = from_onnx(model_of(nodes, {"flag": np.array(True)}, 2, 2))
    assert graph.constants["inner"] == 400
    assert graph.constants["c"] == 20
    assert "n" not in graph.constants


def test_the_optimised_graph_is_what_counts(tmp_path, factors):
    A, B = factors
    path = save(naive_kron(A, B, how="mul"), tmp_path / "naive.onnx")
    raw, kept = from_onnx(onnx.load(str(path))), optimized_onnx(path)
    assert len(kept.nodes) < len(raw.nodes)
    assert max(kept.constants.values()) == 1024 * 1024 * 4


@needs_tflite
def test_tensor_names_that_repeat_stay_apart(tmp_path):
    import flatbuffers

    schema = pytest.importorskip("ai_edge_litert.schema_py_generated")
    path = tmp_path / "n.tflite"
    Network().write(path, entry=False)
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(path.read_bytes(), 0))
    for tensor in model.subgraphs[0].tensors:
        tensor.name = "same"
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    renamed = tmp_path / "renamed.tflite"
    renamed.write_bytes(bytes(builder.Output()))
    assert sum(tflite_file(renamed).constants.values()) == sum(tflite_file(path).constants.values())


# --- the metric


def test_resident_bytes_are_all_weights(artifacts, network):
    total = sum(layer.params for layer in network.layers) * 4
    (found,) = measure.measure_resident(artifacts["onnx"], "onnxruntime")
    assert (found.metric, found.unit, found.kind) == ("resident_bytes", "bytes", Kind.STATIC)
    assert found.value == total
    for name in runtimes.installed("tflite"):
        value = measure.measure_resident(artifacts["tflite"], name)[0].value
        assert total <= value <= total + 2048  # every layer of a .tflite file has a bias per op


def test_resident_bytes_need_a_runtime_of_the_format(artifacts):
    with pytest.raises(BadInput, match=r"runs \.tflite files"):
        measure.measure_resident(artifacts["onnx"], "litert")


@pytest.mark.parametrize("name", ["m.onnx", "m.tflite"])
def test_files_that_cannot_be_read(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(b"\0\0\0\0TFL3 and no more" if name.endswith("tflite") else b"garbage")
    with pytest.raises(BadInput) as caught:
        measure.check_residency(path, [])
    assert "\n" not in caught.value.message


def test_products_of_constants_in_a_tflite_graph_count():
    """No runtime of today folds them, a later one may."""

    def tensor(index, name, shape, constant=0, dtype="float32"):
        return TensorInfo(index, name, shape, dtype, constant)

    tensors = (
        tensor(0, "input", (-1, 4)),
        tensor(1, "w", (4, 1), 16),
        tensor(2, "w", (1, 4), 16),
        tensor(3, "axes", (2,), 8, "int32"),
        tensor(4, "product", (4, 4)),
        tensor(5, "open", (-1, 4)),
        tensor(6, "", (-1, 4)),
    )
    ops = (
        OpInfo("MUL", 1, (1, 2), (4,), False),
        OpInfo("RESHAPE", 1, (4, 3), (5,), False),
        OpInfo("FULLY_CONNECTED", 1, (0, 5, -1), (6,), False),
    )
    graph = _from_tflite(TfliteFile(tensors, ops, (0,), (6,), ()))
    assert graph.constants == {"w": 16, "w#2": 16, "product": 64, "open": UNKNOWN_SIZE}
    assert graph.nodes[2].inputs == ("input", "open")


def test_names_that_are_no_text_are_only_names(tmp_path, network):
    path = network.write(tmp_path / "net.onnx")
    path.write_bytes(path.read_bytes().replace(b"act/Relu", b"act/\xff\xfe\xfd\xfc"))
    rows = measure.check_residency(path, network.layers)
    assert all(row.passed for row in rows)
