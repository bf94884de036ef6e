"""Every ONNX operator that has a converter, against ONNX Runtime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper
from op_cases import CASES, IMAGE, Case, ints, rand
from tflite_oracles import INTERPRETERS, Array, check, graph, onnxruntime_oracle, run

from sepdeploy.exporters.tflite_file.ops import CONVERTERS
from sepdeploy.exporters.tflite_file.write import write_tflite

pytestmark = pytest.mark.skipif(not INTERPRETERS, reason="no TFLite runtime is installed")

# Operators that other tests of this folder cover, because they need two computed inputs, another
# input type, a newer opset than the oracle knows.
ELSEWHERE = {"And", "Or", "Not", "Cast", "Concat", "Dropout", "Einsum", "GatherND", "Swish"}
ELSEWHERE |= {"RMSNormalization", "GatherElements", "ScatterElements", "ScatterND", "OneHot"}
ELSEWHERE |= {"GridSample", "Xor", "QuantizeLinear", "DequantizeLinear"}
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}  # of recurrent layers, below


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c.op}-{c.label}")
def test_an_operator_computes_what_onnxruntime_computes(case: Case, tmp_path: Path) -> None:
    node, constants = case.node()
    model = graph([node], case.shape, constants, opset=case.opset, outputs=list(node.output))
    check(model, case.shape, tmp_path, low=case.low, high=case.high)


def test_every_converter_has_a_case() -> None:
    tested = {case.op for case in CASES} | ELSEWHERE | set(GATES)
    assert set(CONVERTERS) == tested


def n(op: str, inputs: str, output: str, **attributes: object) -> helper.NodeProto:
    return helper.make_node(op, inputs.split(), [output], **attributes)


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("op", GATES)
def test_recurrent_layers(op: str, direction: str, tmp_path: Path) -> None:
    ways, rows = 1 + (direction == "bidirectional"), 5 * GATES[op]
    weights = {"w": rand(ways, rows, 6), "r": rand(ways, rows, 5), "b": rand(ways, 2 * rows)}
    nodes = [
        n("Transpose", "x", "t", perm=[1, 0, 2]),  # the steps come first
        n(op, "t w r b", "s", hidden_size=5, direction=direction),
        n("Transpose", "s", "y", perm=[2, 0, 1, 3]),
    ]
    check(graph(nodes, (4, 6), weights), (4, 6), tmp_path)


@pytest.mark.parametrize("axis", [1, 2, 3])
def test_values_of_different_layouts_are_joined(axis: int, tmp_path: Path) -> None:
    size = [1, 4, 12, 10]
    size[axis] = 2
    nodes = [
        n("Transpose", "x", "t", perm=[0, 1, 3, 2]),
        n("Relu", "t", "r"),
        n("Transpose", "r", "u", perm=[0, 1, 3, 2]),
        n("ReduceMean", "x axis", "mean", keepdims=1),
        # A constant has no batch of its own; a value of the batch gives it one.
        n("Mul", "mean zero", "none"),
        n("Add", "none k", "f"),
        n("Concat", "x u f mean", "y", axis=axis),
    ]
    constants = {"k": rand(*size), "axis": ints(axis), "zero": np.zeros(1, np.float32)}
    check(graph(nodes, IMAGE, constants), IMAGE, tmp_path)


def test_a_class_token_is_added_to_padding(tmp_path: Path) -> None:
    nodes = [
        n("Shape", "x", "s", start=0, end=1),
        n("Concat", "s tail", "target", axis=0),
        n("Expand", "token target", "t"),
        n("Concat", "t x", "y", axis=1),
    ]
    constants = {"tail": ints(2, 6), "token": rand(1, 2, 6)}
    file = check(graph(nodes, (5, 6), constants), (5, 6), tmp_path)
    assert file.op_counts() == {"PAD": 1, "ADD": 1}


def test_shape_arithmetic_leaves_nothing_behind(tmp_path: Path) -> None:
    nodes = [
        n("Shape", "x", "s"),
        n("Gather", "s zero", "b", axis=0),
        n("Gather", "s one", "c", axis=0),
        n("Mul", "b c", "bc"),
        n("Unsqueeze", "bc zeros", "bcu"),
        n("Concat", "bcu rest", "target", axis=0),
        n("Reshape", "x target", "y"),
    ]
    constants = {"zero": np.int64(0), "one": np.int64(1), "zeros": ints(0), "rest": ints(120)}
    file = check(graph(nodes, IMAGE, constants), IMAGE, tmp_path)
    assert set(file.op_counts()) == {"TRANSPOSE", "RESHAPE"}


def test_logic_and_casts(tmp_path: Path) -> None:
    nodes = [
        n("Greater", "x low", "a"),
        n("Less", "x high", "b"),
        n("And", "a b", "ab"),
        n("Not", "ab", "not"),
        n("Or", "not a", "or"),
        n("Xor", "or b", "xor"),
        n("Cast", "xor", "i", to=TensorProto.INT64),
        n("Cast", "i", "f", to=TensorProto.FLOAT),
        n("Mul", "f x", "y"),
    ]
    constants = {"low": np.float32(-0.2), "high": np.float32(0.3)}
    check(graph(nodes, (9,), constants), (9,), tmp_path)


def test_embedding_and_integer_inputs(tmp_path: Path) -> None:
    nodes = [n("Gather", "w x", "e"), n("ReduceMean", "e one", "y", keepdims=0)]
    constants = {"w": rand(9, 6), "one": ints(1)}
    model = graph(nodes, (5,), constants, dtype=TensorProto.INT64)
    check(model, (5,), tmp_path, dtype=np.int64, low=0, high=9)


@pytest.mark.parametrize(
    ("equation", "shapes"),
    [
        ("ni,oi->no", [(3, 6)]),
        ("nij,ai,bj->nab", [(3, 5), (4, 6)]),
        ("nij,nkj->nik", [None]),
        ("nij->nji", []),
        ("nij->ni", []),
        ("nij,j->nij", [(6,)]),
        ("nij,kjo->niko", [(2, 6, 3)]),
        ("nij,nij->ni", [None]),
        ("i,nij->nj", [(5,)]),
    ],
)
def test_einsum(equation: str, shapes: list[tuple[int, ...] | None], tmp_path: Path) -> None:
    shape = (6,) if equation.startswith("ni,") else (5, 6)
    names = ["x" if s is None else f"c{i}" for i, s in enumerate(shapes)]
    constants = {f"c{i}": rand(*s) for i, s in enumerate(shapes) if s is not None}
    operands = [*names, "x"] if equation.startswith("i,") else ["x", *names]
    node = helper.make_node("Einsum", operands, ["y"], equation=equation)
    check(graph([node], shape, constants), shape, tmp_path)


def test_gather_nd_with_known_coordinates(tmp_path: Path) -> None:
    nodes = [
        n("Transpose", "x", "t", perm=[2, 3, 0, 1]),
        n("GatherND", "t places", "g"),
        n("Transpose", "g", "y", perm=[1, 2, 0]),
    ]
    constants = {"places": np.array([[0, 1], [11, -1], [3, 4]], np.int64)}
    check(graph(nodes, IMAGE, constants), IMAGE, tmp_path)


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


@pytest.mark.parametrize("axis", [0, 1])
def test_a_constant_is_repeated_for_every_sample(axis: int, tmp_path: Path) -> None:
    """One row per sample (a query), or several (a tiled mask), as real numbers or integers."""
    nodes = [
        n("Shape", "x", "n", start=0, end=1),
        n("Concat", "n ones", "times", axis=0),
        n("Tile", "mask times", "masks"),
        n("Reshape", "masks rows", "tiled"),
        n("Cast", "tiled", "whole", to=TensorProto.INT64),
        n("Cast", "whole", "back", to=TensorProto.FLOAT),
        n("Concat", "x tiled back", "y", axis=1),
    ]
    mask = np.arange(12, dtype=np.float32).reshape((2, 6) if axis == 0 else (1, 12)) - 5
    rows = np.array([-1, 2, 6] if axis == 0 else [-1, 3, 4])
    shape = (4, 6) if axis == 0 else (2, 4)
    constants = {"ones": np.array([1]), "mask": mask, "rows": rows}
    check(graph(nodes, shape, constants), shape, tmp_path)


def test_a_slice_to_a_far_end_takes_the_whole_batch(tmp_path: Path) -> None:
    constants = {"starts": np.array([0, 1]), "ends": np.array([10**9, 10**9])}
    check(graph([n("Slice", "x starts ends", "y")], (6,), constants), (6,), tmp_path)


def test_newer_activations_and_norms_against_numpy(tmp_path: Path) -> None:
    scale = rand(6)
    nodes = [n("Swish", "x", "s", alpha=0.5), n("RMSNormalization", "s scale", "y", epsilon=1e-3)]
    model = graph(nodes, (5, 6), {"scale": scale}, opset=24)

    def oracle(x: Array) -> list[Array]:
        s = x / (1 + np.exp(-0.5 * x))
        return [s / np.sqrt((s * s).mean(-1, keepdims=True) + 1e-3) * scale]

    check(model, (5, 6), tmp_path, oracle=oracle)


@pytest.mark.parametrize("half_first", ["x", "end", "middle"])
def test_a_spelled_out_gelu_becomes_one_operator(half_first: str, tmp_path: Path) -> None:
    nodes = [
        n("Div", "x root", "d"),
        n("Erf", "d", "e"),
        n("Add", "e one", "p"),
    ]
    if half_first == "x":
        nodes += [n("Mul", "x half", "h"), n("Mul", "h p", "y")]
    elif half_first == "end":
        nodes += [n("Mul", "x p", "q"), n("Mul", "q half", "y")]
    else:
        nodes += [n("Mul", "p half", "q"), n("Mul", "x q", "y")]
    constants = {
        "root": np.float32(np.sqrt(2)),
        "one": np.float32(1),
        "half": np.float32(0.5),
    }
    file = check(graph(nodes, (7,), constants), (7,), tmp_path, low=-4, high=4)
    assert file.op_counts() == {"GELU": 1}


def test_a_gate_of_another_slope_is_not_taken_for_hard_swish(tmp_path: Path) -> None:
    for slope, operators in ((1 / 6, {"HARD_SWISH"}), (0.2, {"MUL", "ADD"})):
        nodes = [n("HardSigmoid", "x", "g", alpha=slope, beta=0.5), n("Mul", "x g", "y")]
        file = check(graph(nodes, (7,)), (7,), tmp_path, low=-4, high=4)
        assert set(file.op_counts()) == operators


def test_computed_operands_with_different_layouts_and_broadcasts(tmp_path: Path) -> None:
    """Squeeze-and-excite, an outer product, and a transposed operand, all computed."""
    nodes = [
        n("ReduceMean", "x space", "m", keepdims=1),
        n("Mul", "x m", "gated"),
        n("Transpose", "gated", "t", perm=[0, 1, 3, 2]),
        n("Transpose", "x", "u", perm=[0, 1, 3, 2]),
        n("Add", "t u", "sum"),
        n("ReduceMax", "sum last", "rows", keepdims=1),
        n("ReduceMax", "sum height", "columns", keepdims=1),
        n("Mul", "rows columns", "outer"),
        n("Sub", "outer sum", "y"),
    ]
    constants = {"space": ints(2, 3), "last": ints(3), "height": ints(2)}
    check(graph(nodes, IMAGE, constants), IMAGE, tmp_path)


def test_gemm_of_two_computed_matrices(tmp_path: Path) -> None:
    nodes = [
        n("Transpose", "x", "t", perm=[1, 0]),
        n("Gemm", "t x c", "y", alpha=0.5, beta=2.0),
    ]
    check(graph(nodes, (6,), {"c": rand(6)}), (6,), tmp_path)


def test_dropout_and_identity_cost_nothing(tmp_path: Path) -> None:
    nodes = [n("Dropout", "x", "d"), n("Identity", "d", "i"), n("Relu", "i", "y")]
    file = check(graph(nodes, (6,)), (6,), tmp_path)
    assert file.op_counts() == {"RELU": 1}


def test_a_model_that_returns_its_input_and_one_value_twice(tmp_path: Path) -> None:
    nodes = [n("Relu", "x", "r"), n("Identity", "r", "a"), n("Identity", "r", "b")]
    nodes.append(n("Identity", "x", "c"))
    check(graph(nodes, (6,), outputs=("a", "b", "c")), (6,), tmp_path)


def test_six_dimensions_are_merged_where_a_kernel_takes_fewer(tmp_path: Path) -> None:
    nodes = [
        n("Reshape", "x six", "r"),
        n("ReduceMean", "r axes", "m", keepdims=1),
        n("Mul", "r m", "p"),
        n("Slice", "r from to at", "s"),
        n("Sub", "p s", "d"),
        n("Slice", "d from to five", "y"),
    ]
    constants = {"six": ints(-1, 2, 2, 3, 4, 10), "axes": ints(2, 4), "from": ints(1)}
    constants |= {"to": ints(2), "at": ints(2), "five": ints(5)}
    check(graph(nodes, IMAGE, constants), IMAGE, tmp_path)
