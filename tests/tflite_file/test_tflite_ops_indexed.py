"""Operators by computed indices, and of integers: read, placed, padded, summed, quantised."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper
from op_cases import IMAGE, ints, rand
from tflite_oracles import INTERPRETERS, Array, check, graph, onnxruntime_oracle, run

from sepdeploy.exporters.tflite_file.write import write_tflite

pytestmark = pytest.mark.skipif(not INTERPRETERS, reason="no TFLite runtime is installed")


def n(op: str, inputs: str, output: str, **attributes: object) -> helper.NodeProto:
    return helper.make_node(op, inputs.split(), [output], **attributes)


@pytest.mark.parametrize("how", ["none", "add", "mul"])
def test_what_stands_at_computed_places(how: str, tmp_path: Path) -> None:
    nodes = [
        helper.make_node("TopK", ["x", "k"], ["v", "places"], name="top"),
        n("GatherElements", "sines places", "g", axis=1),
        n("ScatterElements", "x places g", "s", axis=1, reduction=how),
        n("OneHot", "places depth values", "hot"),
        n("ReduceSum", "hot axes", "sum", keepdims=0),
        n("Add", "s sum", "y"),
    ]
    nodes.insert(1, n("Sin", "x", "sines"))
    constants = {"k": np.array([3]), "depth": np.array(9), "axes": np.array([1])}
    constants["values"] = np.array([-1, 2], np.float32)
    check(graph(nodes, (9,), constants), (9,), tmp_path)


INDEXED = {
    "Gather": ((3,), [n("Gather", "table x", "y")]),
    "Gather columns": ((3,), [n("Gather", "table x", "y", axis=1)]),
    "GatherElements": ((3,), [n("GatherElements", "rows x", "y", axis=1)]),
    "GatherND": ((3, 2), [n("GatherND", "table x", "y")]),
}


@pytest.mark.parametrize("runtime", INTERPRETERS)
@pytest.mark.parametrize("kind", INDEXED)
def test_an_index_out_of_range_reads_no_other_row(kind: str, runtime: str, tmp_path: Path) -> None:
    """Indices -5..4 are those of a dimension of 5; others are refused as by ONNX Runtime."""
    shape, nodes = INDEXED[kind]
    sums = [n("Shape", "x", "s", start=0, end=1), n("Concat", "s five", "t", axis=0)]
    nodes = [*sums, n("Expand", "row t", "rows"), *nodes] if "rows" in str(nodes) else nodes
    constants = {"table": rand(5, 5), "row": rand(1, 5), "five": ints(5)}
    model = graph(nodes, shape, constants, dtype=TensorProto.INT64)
    path = tmp_path / "model.tflite"
    write_tflite(model, path)
    oracle = onnxruntime_oracle(model)
    inside = np.resize(np.arange(-5, 5), (4, *shape))
    np.testing.assert_array_equal(run(path, inside, runtime)[0], oracle(inside)[0])
    for wrong in (5, -6, 13):
        for place in np.ndindex(2, *shape):
            ids = np.ones((2, *shape), np.int64)
            ids[place] = wrong
            with pytest.raises((RuntimeError, ValueError)):
                run(path, ids, runtime)


@pytest.mark.parametrize("runtime", INTERPRETERS)
def test_nothing_is_placed_out_of_range(runtime: str, tmp_path: Path) -> None:
    """ScatterElements refuses nothing in the runtimes: such an update is left out."""
    sums = [n("Shape", "x", "s", start=0, end=1), n("Concat", "s five", "t", axis=0)]
    nodes = [*sums, n("Expand", "row t", "rows"), n("Cast", "x", "new", to=TensorProto.FLOAT)]
    nodes.append(n("ScatterElements", "rows x new", "y", axis=1))
    constants = {"row": rand(1, 5), "five": ints(5)}
    path = tmp_path / "model.tflite"
    write_tflite(graph(nodes, (3,), constants, dtype=TensorProto.INT64), path)
    ids = np.array([[1, 5, -6], [-1, 13, 0]])
    wanted = np.repeat(constants["row"], 2, 0)
    wanted[0, 1], wanted[1, -1], wanted[1, 0] = 1, -1, 0
    np.testing.assert_array_equal(run(path, ids, runtime)[0], wanted)


@pytest.mark.parametrize("kind", ["INT8", "UINT8", "INT32", "INT64"])
def test_integers_are_padded_with_one_of_their_own(kind: str, tmp_path: Path) -> None:
    code = getattr(TensorProto, kind)
    dtype = helper.tensor_dtype_to_np_dtype(code)
    value = np.iinfo(dtype).max - 1  # of 64 bits more digits than a real number holds
    constants = {"around": ints(0, 1, 0, 2), "value": np.array(value, dtype)}
    path = tmp_path / "model.tflite"
    write_tflite(graph([n("Pad", "x around value", "y")], (6,), constants, dtype=code), path)
    x = np.arange(18).reshape(3, 6).astype(dtype)
    wanted = np.pad(x, [(0, 0), (1, 2)], constant_values=value)
    for runtime in INTERPRETERS:
        np.testing.assert_array_equal(run(path, x, runtime)[0], wanted)


def test_bytes_are_pooled_with_padding(tmp_path: Path) -> None:
    nodes = [n("MaxPool", "x", "y", kernel_shape=[3, 3], pads=[1, 1, 1, 1])]
    model = graph(nodes, IMAGE, dtype=TensorProto.INT8)

    def oracle(x: Array) -> list[Array]:
        wide = np.pad(x, [(0, 0), (0, 0), (1, 1), (1, 1)], constant_values=-128)
        views = np.lib.stride_tricks.sliding_window_view(wide, (3, 3), (2, 3))
        return [views.max(axis=(-2, -1))]

    check(model, IMAGE, tmp_path, oracle=oracle, dtype=np.int8, low=-128, high=-1)


@pytest.mark.parametrize("kind", ["INT32", "INT64"])
def test_the_least_integer_is_the_smallest(kind: str, tmp_path: Path) -> None:
    code = getattr(TensorProto, kind)
    dtype = helper.tensor_dtype_to_np_dtype(code)
    node = helper.make_node("TopK", ["x", "k"], ["y", "at"], largest=0)
    path = tmp_path / "model.tflite"
    write_tflite(graph([node], (4,), {"k": ints(2)}, dtype=code, outputs=("y", "at")), path)
    low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
    x = np.array([[3, low, -1, high], [high, 0, -5, 7]], dtype)
    for runtime in INTERPRETERS:
        values, places = run(path, x, runtime)
        np.testing.assert_array_equal(values, [[low, -1], [-5, 0]])
        np.testing.assert_array_equal(places, [[1, 2], [2, 1]])


@pytest.mark.parametrize("exclusive", [0, 1])
@pytest.mark.parametrize("reverse", [0, 1])
def test_integers_are_summed_up(reverse: int, exclusive: int, tmp_path: Path) -> None:
    nodes = [n("CumSum", "x axis", "y", exclusive=exclusive, reverse=reverse)]

    def oracle(x: Array) -> list[Array]:
        along = x[:, ::-1] if reverse else x
        total = np.cumsum(along, 1) - exclusive * along
        return [total[:, ::-1] if reverse else total]

    model = graph(nodes, (6,), {"axis": np.array(1)}, dtype=TensorProto.INT64)
    check(model, (6,), tmp_path, oracle=oracle, dtype=np.int64, low=-50, high=50)


@pytest.mark.parametrize("how", ["none", "add", "max"])
def test_slices_are_placed(how: str, tmp_path: Path) -> None:
    nodes = [
        n("Transpose", "x", "t", perm=[1, 2, 0]),
        n("GatherND", "t from", "u"),
        n("ScatterND", "t to u", "p", reduction=how),
        n("Transpose", "p", "y", perm=[2, 0, 1]),
    ]
    constants = {"from": np.array([[5], [2]]), "to": np.array([[1], [-2]])}
    check(graph(nodes, (6, 4), constants), (6, 4), tmp_path)


@pytest.mark.parametrize("aligned", [0, 1])
@pytest.mark.parametrize(
    ("mode", "padding"),
    [("linear", "zeros"), ("linear", "border"), ("linear", "reflection"), ("cubic", "zeros")],
)
def test_an_image_is_sampled_on_a_grid(
    mode: str, padding: str, aligned: int, tmp_path: Path
) -> None:
    nodes = [
        n("Transpose", "x", "grid", perm=[0, 2, 3, 1]),
        n("GridSample", "x grid", "y", mode=mode, padding_mode=padding, align_corners=aligned),
    ]
    check(graph(nodes, (2, 5, 6)), (2, 5, 6), tmp_path, low=-1.5, high=1.5)


def test_numbers_are_quantised_and_back(tmp_path: Path) -> None:
    nodes = [
        n("QuantizeLinear", "x scale zero", "q", axis=1),
        n("DequantizeLinear", "q scale zero", "y", axis=1),
    ]
    constants = {
        "scale": np.array([0.1, 0.02, 0.5, 0.01], np.float32),
        "zero": np.array([3, -7, 0, 100], np.int8),
    }
    check(graph(nodes, IMAGE, constants), IMAGE, tmp_path)


@pytest.mark.parametrize("kind", ["INT8", "UINT8", "INT16"])
def test_quantised_without_a_zero_point(kind: str, tmp_path: Path) -> None:
    code = getattr(TensorProto, kind)
    limits = np.iinfo(helper.tensor_dtype_to_np_dtype(code))
    nodes = [
        n("QuantizeLinear", "x scale", "q", output_dtype=code),
        n("Cast", "q", "y", to=TensorProto.FLOAT),
    ]
    model = graph(nodes, (6,), {"scale": np.float32(0.25)}, opset=21)

    def oracle(x: Array) -> list[Array]:
        return [np.clip(np.round(x / 0.25), limits.min, limits.max).astype(np.float32)]

    check(model, (6,), tmp_path, oracle=oracle, low=-90, high=90)
